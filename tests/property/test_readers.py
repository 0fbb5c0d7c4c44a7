"""Readers as normalizing counts them: never fewer than there are, and mostly as many."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given

import kqo
from kqo import zoo
from kqo.ir.nodes import Node, walk
from kqo.ir.plan import Plan
from kqo.prove.plans import Case
from kqo.rewrite.normalize import _Engine
from tests.property.plans import cases
from tests.property.test_rules import QUICK, RULES


def counted(plan: Plan) -> list[tuple[Counter[Node], _Engine, int]]:
    """After each pass the readers there are, who counted them, and applications of the pass."""
    engine = _Engine(plan, RULES.family("normalize"), None, False)
    roots = tuple(node for _, node in plan.roots)
    passes: list[tuple[Counter[Node], _Engine, int]] = []
    applied = 1
    while applied:
        before = len(engine.trace)
        roots = engine.run(roots)
        applied = len(engine.trace) - before
        readers = Counter(roots)
        for node in walk(*roots):
            readers.update(node.inputs)
        for node, count in readers.items():
            assert count <= engine._live(node) <= engine._readers(node)
        passes.append((readers, engine, applied))
    return passes


@QUICK
@given(cases(deltas=False))
def test_no_reader_is_missed(case: Case) -> None:
    assert counted(case.plan)


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121", "inception_v3"])
def test_readers_that_fell_out_of_use_are_left_out(name: str) -> None:
    model = zoo.build(name, width=0.25, num_classes=10)
    example = (torch.zeros(1, *zoo.input_shape(name)),)
    plan = kqo.compile(model, example, kqo.Occlusion(16, 16))
    assert plan._lowered is not None
    passes = counted(plan._lowered)
    for readers, engine, _ in passes[-1:]:
        assert all(engine._live(node) == count for node, count in readers.items())
    # Batch norms are folded into kernels in the first pass.
    first = passes[0][1].trace.applications[: passes[0][2]]
    every = sum(item.rule == "FoldScaleIntoKernel" for item in passes[0][1].trace.applications)
    assert sum(item.rule == "FoldScaleIntoKernel" for item in first) == every > 50
    if name == "mobilenet_v2":
        assert [applied for _, _, applied in passes[1:]] == [0]

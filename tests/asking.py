"""Asking a compiled plan and the model itself the same questions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import kqo
from tests.unit.lowering import flat

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}


def wanted_outputs(
    model: nn.Module, inputs: tuple[Tensor, ...], plan: Any, queries: Any, fill: float = 0.0
) -> list[np.ndarray]:
    """For each output of the model its values for the queries, (queries, ...)."""
    boxes = plan.placed.boxes(plan.scan.axes)
    number = plan.logical.inputs.index(plan.scan.name)
    found = []
    for query in queries:
        changed = inputs[number].clone()
        pairs = zip(boxes.lo[query, 0], boxes.hi[query, 0], strict=True)
        changed[(0, *(slice(int(a), int(z)) for a, z in pairs))] = fill
        with torch.no_grad():
            found.append(flat(model(*inputs[:number], changed, *inputs[number + 1 :])))
    return [
        np.concatenate([np.asarray(o.double()) for o in outs]) for outs in zip(*found, strict=True)
    ]


def assert_answers(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    workload: Any,
    options: kqo.Options | None = None,
    *,
    count: int = 5,
    fill: float = 0.0,
) -> Any:
    """Compile, run, and compare sampled queries with the model; NaN and infinity must be the same.

    Returns:
        the plan.
    """
    plan = kqo.compile(model.eval(), inputs, workload, options or kqo.Options(threads=1))
    result = plan.run(*inputs)
    queries = np.unique(np.linspace(0, len(plan.placed) - 1, count).astype(int))
    wanted = wanted_outputs(model, inputs, plan, queries, fill)
    assert len(wanted) == len(result.outputs)
    for values, expected in zip(result.outputs.values(), wanted, strict=True):
        scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0)) or 1.0
        bound = TOLERANCE[inputs[0].dtype] * scale
        np.testing.assert_allclose(values[queries], expected, rtol=0, atol=bound)
    return plan

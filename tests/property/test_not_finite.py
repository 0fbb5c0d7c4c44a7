"""NaN and infinity in images, fills and weights: every answer has them where PyTorch's has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kqo
from tests.property.asked import Question, asked_again, occluded, questions
from tests.property.layers import Apply, Draw, one_of
from tests.property.networks import Network, networks
from tests.property.test_networks import PHASES, QUIET

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:invalid value encountered"),
]

NETWORKS, SLOW_NETWORKS, QUESTIONS = 5, 40, 3
VALUES = (math.nan, math.inf, -math.inf)


@dataclass(frozen=True)
class Case:
    """A network that may hold values that are not finite, with questions and what is poisoned.

    Attributes:
        asked: questions, each with elements of the first image and the values to put there, and a
            fill, which is given at run time, or None for the question's own.
    """

    network: Network
    asked: list[tuple[Question, list[tuple[int, float]], float | None]]


def _targets(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers for which PyTorch's answer does not depend on its algorithm.

    Not those of windows that reach over an edge: whether zeros of padding meet a weight does. Nor
    the weight of a batch norm, by which PyTorch multiplies values and mean apart: where it is
    infinite their difference is NaN.
    """
    for module in model.modules():
        padding = getattr(module, "padding", 0)
        reaches = padding not in (0, "valid") and any(np.atleast_1d(padding != 0))
        if isinstance(module, nn.modules.conv._ConvTransposeNd) or reaches:
            continue
        scale = module.weight if isinstance(module, nn.modules.batchnorm._BatchNorm) else None
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor is not scale and tensor.is_floating_point() and tensor.numel():
                yield tensor


def _values(model: nn.Module) -> tuple[float, ...]:
    """What may be put in. At the border PyTorch's linear resizing reads an element twice, once with
    weight 0, so that infinity becomes NaN there; a plan reads it once."""
    texts = (module.text for module in model.modules() if isinstance(module, Apply))
    return VALUES[:1] if any("linear" in t or "cubic" in t for t in texts) else VALUES


def _has_gelu(model: nn.Module) -> bool:
    return any(isinstance(module, nn.GELU) for module in model.modules())


@st.composite
def cases(draw: Draw, double: bool) -> Case:
    # On a processor with AVX-512 PyTorch's GELU of infinity is NaN in float32, infinity in float64.
    network = draw(networks(double).filter(lambda n: n.double or not _has_gelu(n.model)))
    values = _values(network.model)
    if draw(st.integers(0, 2)) == 0:
        targets = list(_targets(network.model))
        if targets:
            tensor = one_of(draw, *targets)
            where = draw(st.integers(0, tensor.numel() - 1))
            with torch.no_grad():
                tensor.view(-1)[where] = one_of(draw, *values)
    asked = []
    for _ in range(QUESTIONS):
        question = draw(questions(network))
        fill = None
        if draw(st.integers(0, 2)) == 0:
            fill = one_of(draw, *values)
            question = replace(question, workload=replace(question.workload, fill="given"))
        elements = math.prod(network.shapes[0])
        spots = [
            (draw(st.integers(0, elements - 1)), one_of(draw, *values))
            for _ in range(draw(st.integers(0, 2)))
        ]
        asked.append((question, spots, fill))
    return Case(network, asked)


def _one_by_one(model: nn.Module, inputs: list[Any]) -> list[Any]:
    """What PyTorch answers for one image at a time; nothing where it takes no image alone, since
    its group norm wants several values."""
    try:
        alone = [asked_again(model, [x[q : q + 1] for x in inputs]) for q in range(len(inputs[0]))]
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)
        return []
    return [np.concatenate(each) for each in zip(*alone, strict=True)]


def _check(case: Case) -> None:
    network = case.network
    example = tuple(x[None] for x in network.images(0))
    for question, spots, fill in case.asked:
        images = network.images(question.seed)
        for where, value in spots:
            images[0].view(-1)[where] = value
        options = kqo.Options(**question.options)
        plan = kqo.compile(network.model, example, question.workload, options)
        if question.least:
            options = replace(options, memory=plan.engine.least_bytes)
            plan = kqo.compile(network.model, example, question.workload, options)
        rank = len(network.shapes[question.workload.input])
        given_fill = None if fill is None else np.full((1,) * rank, fill, dtype=np.float32)
        result = plan.run(*images, fill=given_fill)
        found = [
            np.concatenate([result.outputs[name], result.originals[name][None]])
            for name in result.outputs
        ]
        with np.errstate(all="ignore"):
            inputs = occluded(network, question, images, fill)
        wanted: list[Any] = asked_again(network.model, inputs)
        alone = _one_by_one(network.model, inputs) or wanted
        for got, want, each in zip(found, wanted, alone, strict=True):
            same = np.isfinite(want) == np.isfinite(each)
            if not same.all():
                continue  # PyTorch's own answer depends on how many images it is asked
            finite = np.isfinite(want)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            infinite = np.isinf(want)
            np.testing.assert_array_equal(got[infinite], want[infinite])
            slack = 1e-9 if network.double else 2e-4
            scale = np.abs(want[finite]).max(initial=1e-3)
            np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=slack * scale)


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
@settings(max_examples=NETWORKS, suppress_health_check=QUIET, deadline=None, phases=PHASES)
@given(data=st.data())
def test_nan_and_infinity_are_where_pytorch_has_them(double, data):
    _check(data.draw(cases(double)))


@pytest.mark.slow
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
@settings(max_examples=SLOW_NETWORKS, suppress_health_check=QUIET, deadline=None, phases=PHASES)
@given(data=st.data())
def test_many_nan_and_infinities_are_where_pytorch_has_them(double, data):
    _check(data.draw(cases(double)))

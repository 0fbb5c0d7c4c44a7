"""Whole models: their plans, interpreted, give PyTorch's outputs; none needs an Opaque node."""

from __future__ import annotations

import pytest
import torch

from kqo import zoo
from kqo.frontend import lower
from kqo.ir.parse import parse_plan
from kqo.ir.text import format_plan
from tests import models
from tests.models import SMALL_ZOO
from tests.unit.lowering import check, noise, ops


@pytest.mark.parametrize("name", zoo.NAMES)
def test_zoo_model_equals_pytorch(name: str) -> None:
    width, size = SMALL_ZOO[name]
    model = zoo.build(name, width=width, num_classes=7)
    lowered = check(model, noise(1, 3, size, size))
    assert lowered.output_names == ("output",)
    assert "Opaque" not in ops(lowered)


@pytest.mark.parametrize("name", models.MODELS)
def test_model_equals_pytorch(name: str) -> None:
    _, shapes = models.MODELS[name]
    inputs = [noise(2, *shape, seed=k) for k, shape in enumerate(shapes)]
    lowered = check(models.build(name), *inputs)
    assert "Opaque" not in ops(lowered)
    assert parse_plan(format_plan(lowered.plan)).roots == lowered.plan.roots


def test_outputs_are_named_as_the_model_names_them() -> None:
    assert check(models.build("deeplab"), noise(1, 3, 9, 9)).output_names == ("out", "aux")
    lowered = check(models.build("fusion"), noise(1, 1, 9, 9), noise(1, 5))
    assert lowered.output_names == ("output0", "output1")
    assert [scan.name for scan in lowered.plan.scans] == ["image", "measured"]


def test_origins_name_layer_kind_and_line() -> None:
    plan = check(models.build("efficientnet"), noise(1, 3, 24, 24)).plan
    found = {(origin.layer, origin.kind) for origin in plan.origins.values()}
    assert ("features.2.se.fc1", "conv") in found
    assert ("features.2.depthwise.1", "batch_norm") in found
    assert ("features.2.se", "mul") in found
    assert all(node in plan.origins for node in plan.nodes())
    assert plan.origins[plan.scans[0]].kind == "input"
    lines = {o.source for o in plan.origins.values() if o.layer == "features.2.se.fc1"}
    assert len(lines) == 1 and lines.pop().startswith("models.py:")


def test_a_float32_model_gives_a_float32_plan_over_its_own_memory() -> None:
    model = models.build("volume")
    plan = lower(model, (torch.zeros(1, 1, 9, 8, 10),)).plan
    assert plan.dtype == "float32"
    parameters = dict(model.named_parameters())
    for name, value in plan.constants.items():
        if name in parameters:
            assert value.ctypes.data == parameters[name].data_ptr()

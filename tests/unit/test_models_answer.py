"""Whole models in the style of well-known ones: compiled, run, and compared with PyTorch."""

from __future__ import annotations

import pytest
import torch

import kqo
from kqo.ir.nodes import Opaque
from tests import models
from tests.asking import assert_answers
from tests.unit.lowering import noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", models.MODELS)
def test_scores_are_those_of_the_model(name: str, dtype: torch.dtype) -> None:
    _, shapes = models.MODELS[name]
    inputs = tuple(noise(1, *shape, seed=k).to(dtype) for k, shape in enumerate(shapes))
    which = {"input": "image"} if len(shapes) > 1 else {}
    axes = len(shapes[0]) - 1
    workload = kqo.Occlusion(window=(4,) * axes, stride=(5,) * axes, fill=0.5, **which)
    options = kqo.Options(threads=1, strict=True)
    plan = assert_answers(
        models.build(name).to(dtype), inputs, workload, options, count=3, fill=0.5
    )
    assert not any(isinstance(node, Opaque) for node in plan.logical.nodes())
    assert plan.logical.dtype == str(dtype).removeprefix("torch.")

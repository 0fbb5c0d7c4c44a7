"""Blocks of papers and notebooks, compiled as they are: every output is PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.ir.nodes import Opaque
from tests.strangers import STRANGERS
from tests.unit.lowering import flat, noise

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9}


def build(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = STRANGERS[name][0]().eval()
        for key, value in model.named_buffers():
            if "running" in key:
                value.copy_(torch.rand_like(value) * 0.5 + (0.7 if "var" in key else -0.25))
    return model


def queries(shape: tuple[int, ...]) -> kqo.Regions:
    """Windows of two sizes, of which some queries have two or three."""
    axes = len(shape) - 1
    windows = kqo.Occlusion((4,) * axes, (5,) * axes, fill=0.3).regions(shape)
    small = kqo.Occlusion((2,) * axes, (7,) * axes, fill=0.3).regions(shape)
    pairs = zip(windows.boxes, small.boxes[::-1], reversed(windows.boxes), strict=False)
    several = [[*a, *b, *(c if n % 2 else ())] for n, (a, b, c) in enumerate(pairs)]
    return windows + small + kqo.Regions(several, fill=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STRANGERS)
def test_answers_are_those_of_the_model(name: str, dtype: torch.dtype) -> None:
    _, shape, opaque = STRANGERS[name]
    model, image = build(name).to(dtype), noise(1, *shape).to(dtype)
    workload = queries(shape)
    plan = kqo.compile(model, (image,), workload, kqo.Options(threads=1))
    assert opaque or not any(isinstance(node, Opaque) for node in plan.logical.nodes())
    result = plan.run(image)
    asked = np.linspace(0, len(workload.boxes) - 1, 9).astype(int)
    for query in asked:
        changed = image.clone()
        for box in workload.boxes[query]:
            changed[(..., *(slice(lo, hi) for lo, hi in box))] = 0.3
        with torch.no_grad():
            wanted = flat(model(changed))
        assert len(wanted) == len(result.outputs)
        for values, expected in zip(result.outputs.values(), wanted, strict=True):
            bound = TOLERANCE[dtype] * float(expected.abs().max())
            np.testing.assert_allclose(values[query], expected[0].numpy(), rtol=0, atol=bound)

"""Layers that read the concatenation of all before them: one pass to scale and clip it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo
from tests.asking import assert_answers


class Blocks(nn.Module):
    """Two layers of a DenseNet, and its transition to half the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(n) for n in (6, 10, 14)])
        self.narrow = nn.ModuleList([nn.Conv2d(n, 8, 1, bias=False) for n in (6, 10)])
        self.wide = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1) for _ in range(2)])
        self.transition = nn.Conv2d(14, 5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for norm, narrow, wide in zip(self.norms, self.narrow, self.wide, strict=False):
            found.append(wide(narrow(norm(torch.cat(found, 1)).relu()).relu()))
        mixed = self.transition(self.norms[2](torch.cat(found, 1)).relu())
        return nn.functional.avg_pool2d(mixed, 2).flatten(1)


def blocks(scales: tuple[float, ...]) -> nn.Module:
    """The blocks, with these scales in turn in the normalizations."""
    torch.manual_seed(3)
    model = Blocks().eval()
    for norm in model.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            given = torch.tensor(scales).repeat(len(norm.weight))[: len(norm.weight)]
            norm.weight.copy_(given)
            norm.bias.normal_()
            assert norm.running_mean is not None
            norm.running_mean.normal_()
    return model


SCALES = {
    "positive": (0.5, 2.0),
    "of both signs": (1.0, -0.7, 0.2),
    "zero": (0.0, 1.0, -1.0),
    "tiny": (1e-39, 1.0, -1e-12, 1e-5),
}


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_layers_answer_as_pytorch_does(scales: tuple[float, ...], dtype: torch.dtype) -> None:
    model = blocks(scales).to(dtype)
    image = torch.randn(1, 3, 12, 12, dtype=dtype)
    plan = assert_answers(model, (image,), kqo.Occlusion(3, 2), count=20)
    assert "MoveScaleBehindRelu" in plan.explain(steps=True)


def steps_of(model: nn.Module) -> dict[str, Any]:
    """The physical nodes of the delta steps by the layers they are called by."""
    plan = kqo.compile(model, (torch.zeros(1, 3, 12, 12),), kqo.Occlusion(3, 2))
    return {s.name: s.node for s in plan.physical.steps if s.delta and s.form == "concat"}


def test_a_concatenation_is_clipped_as_it_is_made() -> None:
    """One pass where no scale is negative, and one more that turns signs where some are."""
    tails = [str(node.tail) for node in steps_of(blocks((0.5, 2.0))).values()]
    signed = [str(node.tail) for node in steps_of(blocks((0.5, -2.0))).values()]
    assert "mul" not in tails[0] and "max" in tails[0]
    assert "mul" in signed[0] and "max" in signed[0]


def test_pooling_comes_before_the_layer_that_feeds_it() -> None:
    plan = kqo.compile(blocks((1.0,)), (torch.zeros(1, 3, 12, 12),), kqo.Occlusion(3, 2))
    rows = [plan.physical.tables[s.table].rows for s in plan.physical.steps if s.once]
    columns = [plan.physical.tables[s.table].columns for s in plan.physical.steps if s.once]
    assert (36, 14) in zip(rows, columns, strict=True)  # pooled, and not yet mixed
    assert (144, 5) not in zip(rows, columns, strict=True)


def test_infinity_in_the_image_spreads_as_in_pytorch() -> None:
    model = blocks((1.0, -0.7, 0.2))
    image = torch.randn(1, 3, 12, 12)
    image[0, 1, 5, 5] = np.inf
    assert_answers(model, (image,), kqo.Occlusion(3, 2), count=20)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["weight", "bias", "running_mean"])
def test_infinity_in_the_weights_spreads_as_in_pytorch(which: str, value: float) -> None:
    model = blocks((1.0, -0.7, 0.2))
    getattr(model.norms[1], which).data[2] = value
    assert_answers(model, (torch.randn(1, 3, 12, 12),), kqo.Occlusion(3, 2), count=20)

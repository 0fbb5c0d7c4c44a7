"""Shape operators, slices, concatenation and padding mean in a plan what they mean in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kqo.errors import UnsupportedOperator
from kqo.frontend import lower
from kqo.ir.nodes import Rekey
from tests.unit.lowering import Array, Function, assert_equal, check, evaluate_all, noise, ops


def assigned(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Parts of a tensor written over, as partial convolutions and shifts do."""
    y = x if y is None else y
    x = x.clone()
    x[:, :2] = y[:, 2:] * 2
    x[:, :, 1] = y.mean(2)
    x[:, 3, :, 1:3] = 7.0
    return x


BORDER = noise(1, 2, 6, 4, seed=5)
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "movedim": lambda x: x.movedim(1, -1).swapaxes(1, 2),
    "flatten": lambda x: x.flatten(1),
    "flatten-positions": lambda x: x.flatten(2).transpose(1, 2),
    "view": lambda x: x.view(2, 2, 2, 6, 4).sum(1),
    "unflatten": lambda x: x.unflatten(2, (3, 2)).amax(3),
    "regroup": lambda x: x.reshape(2, 8, 12),
    "regroup-ones": lambda x: x.reshape(2, 1, 8, 1, 12).squeeze(1),
    "shuffle": lambda x: x.view(2, 2, 2, 6, 4).transpose(1, 2).reshape(2, 4, 6, 4),
    "channel-shuffle": lambda x: F.channel_shuffle(x, 2),
    "pixel-shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel-unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "windows": lambda x: x.view(2, 4, 3, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).sum(1),
    "squeeze": lambda x: x.mean(1, keepdim=True).squeeze(1),
    "squeeze-axis": lambda x: x[:, 1:2].squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(1) + x.unsqueeze(2),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 4),
    "expand-output": lambda x: x.mean(1, keepdim=True).expand_as(x).flatten(1),
    "repeat": lambda x: x.mean((2, 3), keepdim=True).repeat(1, 2, 6, 4) + x.repeat(1, 2, 1, 1),
    "batch-later": lambda x: x.permute(1, 2, 0, 3).reshape(24, 2, 4).transpose(0, 1),
    "slice": lambda x: x[:, 1:3, ::2, -3:-1],
    "slice-all": lambda x: x[:, :, 0:6],
    "select": lambda x: x[:, 2] * x[:, -1, 3:4],
    "select-one": lambda x: x.mean(1, keepdim=True)[:, 0],
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
    "split-size": lambda x: torch.cat(x.split(4, 2)[::-1], 2),
    "unbind": lambda x: sum(x.unbind(2)),
    "flip": lambda x: x.flip(2, 3),
    "roll": lambda x: x.roll((1, -2), (2, 3)),
    "cat": lambda x: torch.cat([x, 2 * x, x[:, :1]], 1),
    "cat-positions": lambda x: torch.cat([x, x.mean(2, keepdim=True)], 2),
    "cat-transposed": lambda x: torch.cat([x[:, :, :4], x[:, :, 2:].transpose(2, 3)], 1),
    "cat-constant": lambda x: torch.cat([x, BORDER.expand(2, 2, 6, 4)], 1),
    "cat-pooled": lambda x: torch.cat([x.mean((2, 3), True), x.amax((2, 3), True)], 1),
    "stack": lambda x: torch.stack([x, x * 2], 1),
    "stack-last": lambda x: torch.stack([x.sum(1), x.amax(1)], -1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad-negative": lambda x: F.pad(x, (-1, 2, -2, -1)),
    "pad-crop": lambda x: F.pad(x, (-1, -1)),
    "pad-channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "pad-value": lambda x: F.pad(x, (1, 2, -1, 1), value=-0.5),
    "pad-infinity": lambda x: F.pad(x, (1, 0), value=float("-inf")).amax(3),
    "pad-pooled": lambda x: F.pad(x.mean((2, 3), keepdim=True), (1, 1, 0, 2)),
    "reflect": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"),
    "index": lambda x: x[:, torch.tensor([2, 0, 0, 3]), 1:],
    "index-table": lambda x: x[:, :, torch.tensor([[0, 5], [1, 2]])],
    "index-select": lambda x: x.index_select(3, torch.tensor([3, 2, 1, 0])),
    "assign": assigned,
    "assign-zeros": lambda x: assigned(torch.zeros_like(x), x),
    "unfold": lambda x: x.unfold(2, 3, 2) * x.unfold(2, 3, 1)[:, :, :2],
    "im2col": lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=(2, 1)),
    "zeros": lambda x: F.pad(torch.cat([x, x.new_zeros(2, 1, 6, 4)], 1), (0, 1)),
}


@cache
def _shape() -> dict[str, tuple[Array, Array]]:
    return evaluate_all(SHAPES, dict.fromkeys(SHAPES, noise(2, 4, 6, 4)))


@pytest.mark.parametrize("name", SHAPES)
def test_shape_equals_pytorch(name: str) -> None:
    assert_equal(*_shape()[name])


def test_a_permute_and_its_inverse_make_no_node() -> None:
    lowered = check(lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2), noise(2, 3, 4, 5))
    assert ops(lowered) == ["Scan", "Map"]


def test_reshape_keeps_the_axes_it_does_not_touch() -> None:
    plan = check(lambda x: x.reshape(2, 2, 2, 6, 5), noise(2, 4, 6, 5)).plan
    root = plan.roots[0][1]
    assert isinstance(root, Rekey)
    assert str(root.axes[0].extent) == "2" and [a.name for a in root.axes[2:]] == ["y", "x"]


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.reshape(-1, 3),
        lambda x: x.sum(0),
        lambda x: x - x.mean(),
        lambda x: x[:1] + x,
        lambda x: torch.cat([x, x], 0),
        lambda x: x.flip(0),
        lambda x: x.transpose(0, 1) @ x,
        lambda x: x.softmax(0),
    ],
)
def test_mixing_the_batch_is_an_error(fn: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOperator, match="batch"):
        lower(Function(fn).eval(), (noise(2, 6),))

"""Pooling and resizing mean in a plan what they mean in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kqo.ir.equations import Ranged
from kqo.ir.nodes import Group, Join
from tests.unit.lowering import Array, assert_equal, check, evaluate_all, noise, ops

POOLS = {
    "max": (nn.MaxPool2d(2), (3, 6, 5)),
    "max-padding": (nn.MaxPool2d(3, 2, 1), (3, 7, 6)),
    "max-dilation": (nn.MaxPool2d(2, 1, 1, dilation=2), (2, 6, 5)),
    "max-ceil": (nn.MaxPool2d(3, 2, ceil_mode=True), (2, 8, 7)),
    "max-ceil-padding": (nn.MaxPool2d(2, 2, 1, ceil_mode=True), (2, 6, 7)),
    "max-ceil-overrun": (nn.MaxPool2d(1, 3, 0, ceil_mode=True), (2, 5, 6)),
    "max-1d": (nn.MaxPool1d(3, 2, 1), (3, 11)),
    "max-3d": (nn.MaxPool3d((1, 2, 2)), (2, 3, 4, 5)),
    "average": (nn.AvgPool2d(2), (3, 6, 5)),
    "average-padding": (nn.AvgPool2d(3, 2, 1), (3, 7, 6)),
    "average-valid-count": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (3, 7, 6)),
    "average-ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), (2, 8, 7)),
    "average-ceil-padding": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 8, 6)),
    "average-ceil-valid": (
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 8, 6),
    ),
    "average-divisor": (nn.AvgPool2d(3, 1, 1, divisor_override=5), (2, 5, 5)),
    "average-1d": (nn.AvgPool1d(3, 2, 1), (3, 11)),
    "average-3d": (nn.AvgPool3d(2, ceil_mode=True), (2, 3, 4, 5)),
    "lp": (nn.LPPool2d(3, 2), (2, 6, 5)),
    "lp-1d": (nn.LPPool1d(2, 3, 2), (2, 9)),
    "adaptive-one": (nn.AdaptiveAvgPool2d(1), (3, 6, 5)),
    "adaptive-divides": (nn.AdaptiveAvgPool2d((3, 5)), (3, 6, 5)),
    "adaptive": (nn.AdaptiveAvgPool2d((4, 3)), (3, 6, 5)),
    "adaptive-mixed": (nn.AdaptiveAvgPool2d((1, 3)), (3, 6, 5)),
    "adaptive-none": (nn.AdaptiveAvgPool2d((None, 2)), (3, 6, 5)),
    "adaptive-larger": (nn.AdaptiveAvgPool2d(7), (3, 4, 5)),
    "adaptive-1d": (nn.AdaptiveAvgPool1d(4), (3, 11)),
    "adaptive-3d": (nn.AdaptiveAvgPool3d((2, 2, 3)), (2, 3, 4, 5)),
    "adaptive-max": (nn.AdaptiveMaxPool2d((4, 1)), (3, 6, 5)),
    "adaptive-max-1d": (nn.AdaptiveMaxPool1d(3), (3, 7)),
}


@cache
def _pool() -> dict[str, tuple[Array, Array]]:
    return evaluate_all(
        {n: pool for n, (pool, _) in POOLS.items()},
        {n: noise(2, *shape) for n, (_, shape) in POOLS.items()},
    )


@pytest.mark.parametrize("name", POOLS)
def test_pool_equals_pytorch(name: str) -> None:
    assert_equal(*_pool()[name])


def test_pool_of_pooled_positions() -> None:
    check(lambda x: F.adaptive_avg_pool2d(x.mean((2, 3), True), 3), noise(2, 3, 4, 4))
    check(lambda x: F.max_pool2d(x.mean((2, 3), True), 3, 1, 1), noise(2, 3, 4, 4))


def test_global_average_is_a_plain_group() -> None:
    plan = check(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), noise(2, 3, 4, 4)).plan
    root = plan.roots[0][1]
    assert isinstance(root, Group) and (root.by, root.agg) == (("c",), "mean")
    assert root.input.op == "Scan"


def test_uneven_adaptive_pool_reads_ranges() -> None:
    plan = check(nn.AdaptiveAvgPool1d(3), noise(1, 2, 7)).plan
    join = plan.roots[0][1].inputs[0]
    assert isinstance(join, Join)
    assert join.on == (Ranged("x", "x", "kx", (0, 2, 4), (3, 5, 7)),)


RESIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest-size": lambda x: F.interpolate(x, size=(7, 3)),
    "nearest-exact": lambda x: F.interpolate(x, size=(7, 3), mode="nearest-exact"),
    "nearest-scale": lambda x: F.interpolate(x, scale_factor=1.7),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear-corners": lambda x: F.interpolate(x, (9, 6), mode="bilinear", align_corners=True),
    "bilinear-scale": lambda x: F.interpolate(x, scale_factor=(1.7, 0.6), mode="bilinear"),
    "bilinear-smaller": lambda x: F.interpolate(x, (3, 2), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, (9, 7), mode="bicubic"),
    "linear": lambda x: F.interpolate(x.flatten(2), 31, mode="linear"),
    "trilinear": lambda x: F.interpolate(x.unsqueeze(2), (3, 7, 8), mode="trilinear"),
    "nearest-1d": lambda x: F.interpolate(x.flatten(2), 31),
    "nearest-3d": lambda x: F.interpolate(x.unsqueeze(2), scale_factor=2),
    "repeat-interleave": lambda x: x.repeat_interleave(3, 2).repeat_interleave(2, 1),
    "module": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
}


@cache
def _resize() -> dict[str, tuple[Array, Array]]:
    return evaluate_all(RESIZES, dict.fromkeys(RESIZES, noise(2, 2, 5, 4)))


@pytest.mark.parametrize("name", RESIZES)
def test_resize_equals_pytorch(name: str) -> None:
    assert_equal(*_resize()[name])


def test_bilinear_reads_two_elements_along_each_axis() -> None:
    lowered = check(lambda x: F.interpolate(x, (9, 8), mode="bilinear"), noise(1, 2, 5, 4))
    assert sorted(v.shape for v in lowered.plan.constants.values()) == [(8, 2), (9, 2)]
    assert ops(lowered) == ["Scan", "Const", "Join", "Group", "Const", "Join", "Group"]


def test_max_pool_of_nan_and_infinity() -> None:
    x = noise(1, 1, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 3, 3] = torch.nan, -torch.inf
    check(nn.MaxPool2d(2), x)

"""Normalizations, reductions and softmax mean in a plan what they mean in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kqo.errors import ArgumentError, UnsupportedOperator
from kqo.frontend import lower
from tests.unit.lowering import (
    Array,
    Function,
    assert_equal,
    check,
    evaluate_all,
    noise,
    ops,
    randomized,
)

NORMS = {
    "batch": (nn.BatchNorm2d(4), (4, 3, 3)),
    "batch-eps": (nn.BatchNorm2d(4, eps=0.1), (4, 3, 3)),
    "batch-plain": (nn.BatchNorm2d(4, affine=False), (4, 3, 3)),
    "batch-one": (nn.BatchNorm2d(1), (1, 3, 3)),
    "batch-features": (nn.BatchNorm1d(4), (4,)),
    "batch-3d": (nn.BatchNorm3d(2), (2, 3, 2, 2)),
    "layer": (nn.LayerNorm(3), (4, 3)),
    "layer-space": (nn.LayerNorm((4, 3, 2)), (4, 3, 2)),
    "layer-plain": (nn.LayerNorm((3, 2), elementwise_affine=False), (4, 3, 2)),
    "rms": (nn.RMSNorm(3), (4, 3)),
    "group": (nn.GroupNorm(2, 4), (4, 3, 3)),
    "group-one": (nn.GroupNorm(1, 4), (4, 3, 3)),
    "group-each": (nn.GroupNorm(4, 4), (4, 3, 3)),
    "group-1d": (nn.GroupNorm(2, 4), (4, 5)),
    "instance": (nn.InstanceNorm2d(4, affine=True), (4, 3, 3)),
    "instance-stored": (nn.InstanceNorm2d(4, track_running_stats=True), (4, 3, 3)),
    "instance-1d": (nn.InstanceNorm1d(4), (4, 7)),
    "local-response": (nn.LocalResponseNorm(3), (4, 3, 3)),
}


@cache
def _norm() -> dict[str, tuple[Array, Array]]:
    layers = {name: randomized(layer) for name, (layer, _) in NORMS.items()}
    return evaluate_all(layers, {n: noise(2, *shape) for n, (_, shape) in NORMS.items()})


@pytest.mark.parametrize("name", NORMS)
def test_norm_equals_pytorch(name: str) -> None:
    assert_equal(*_norm()[name])


def test_large_means_do_not_cancel() -> None:
    check(randomized(nn.LayerNorm(8)), noise(2, 8) + 1e6, tolerance=1e-7)


def test_channels_last_layer_norm() -> None:
    norm = randomized(nn.LayerNorm(4))
    check(lambda x: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), noise(2, 4, 3, 5))


def test_batch_norm_is_not_folded() -> None:
    lowered = check(randomized(nn.BatchNorm2d(3)), noise(2, 3, 4, 4))
    assert sorted(lowered.plan.constants) == ["bias", "running_mean", "running_var", "weight"]
    assert ops(lowered).count("Join") == 4


class StandardizedConv(nn.Conv2d):
    """Qiao et al., 2019: the kernel is standardized at each call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True
        ).reshape_as(self.weight)
        return self._conv_forward(x, weight, self.bias)


def test_kernels_computed_from_parameters_are_constants() -> None:
    lowered = check(randomized(StandardizedConv(3, 4, 3)), noise(2, 3, 5, 5))
    assert ops(lowered).count("Group") == 1
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    check(randomized(layer), noise(2, 3, 5, 5))


def test_statistics_of_the_batch_are_an_error() -> None:
    with pytest.raises(UnsupportedOperator, match="statistics of the batch"):
        lower(nn.BatchNorm2d(3, track_running_stats=False).eval(), (noise(2, 3, 4, 4).float(),))
    with pytest.raises(ArgumentError, match="training mode"):
        lower(nn.BatchNorm2d(3), (noise(2, 3, 4, 4).float(),))


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3)),
    "mean-keep": lambda x: x.mean((1, -1), keepdim=True) * x,
    "sum": lambda x: x.sum(1),
    "amax": lambda x: x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True),
    "max": lambda x: x.max(2).values + x.min(2)[0],
    "all": lambda x: x.flatten(1).sum(1, keepdim=True),
    "variance": lambda x: x.var((2, 3)) + x.var((2, 3), unbiased=False),
    "deviation": lambda x: x.std((1, 2), correction=0, keepdim=True) + x,
    "variance-and-mean": lambda x: torch.cat(torch.var_mean(x, (2, 3)), 1),
    "deviation-and-mean": lambda x: torch.cat(torch.std_mean(x, (2, 3), correction=0), 1),
    "norm": lambda x: F.normalize(x, dim=1) + torch.linalg.vector_norm(x, 1, (2, 3), True),
    "norm-max": lambda x: torch.linalg.vector_norm(x, float("inf"), (2, 3)),
    "response": lambda x: x * x.norm(p=2, dim=(2, 3), keepdim=True),
    "softmax": lambda x: x.softmax(1),
    "softmax-positions": lambda x: (100 * x).flatten(2).softmax(-1),
    "softmax-one": lambda x: x.mean(1, keepdim=True).softmax(1),
    "log-softmax": lambda x: F.log_softmax(x, 1),
    "logsumexp": lambda x: x.logsumexp((2, 3)) + x.logsumexp((2, 3), keepdim=True).flatten(1),
}


@cache
def _reduction() -> dict[str, tuple[Array, Array]]:
    return evaluate_all(REDUCTIONS, dict.fromkeys(REDUCTIONS, noise(2, 4, 3, 5)))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_equals_pytorch(name: str) -> None:
    assert_equal(*_reduction()[name])


def test_place_of_a_maximum_is_an_error() -> None:
    with pytest.raises(UnsupportedOperator, match="max"):
        lower(Function(lambda x: x * x.max(1, keepdim=True).indices).eval(), (noise(2, 4),))

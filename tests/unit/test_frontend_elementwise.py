"""Activations, arithmetic and broadcasting mean in a plan what they mean in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.lowering import Array, assert_equal, check, evaluate_all, noise, ops, randomized

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.7, 0.4),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus-beta": lambda x: F.softplus(x, beta=2, threshold=3),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.6),
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "logsigmoid": F.logsigmoid,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -2.0),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "glu": lambda x: F.glu(x, 1),
}
EXTREMES = torch.tensor([-800.0, -30.0, -0.0, 0.0, 0.5, 3.0, 25.0, 800.0], dtype=torch.float64)


@cache
def _activation() -> dict[str, tuple[Array, Array]]:
    x = torch.cat([2 * noise(2, 4, 3), EXTREMES.reshape(1, 4, 2).expand(2, 4, 2)], 2)
    return evaluate_all(ACTIVATIONS, dict.fromkeys(ACTIVATIONS, x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_pytorch(name: str) -> None:
    assert_equal(*_activation()[name])


@pytest.mark.parametrize("slopes", [1, 4])
def test_prelu(slopes: int) -> None:
    check(randomized(nn.PReLU(slopes)), noise(2, 4, 3, 3))


def test_infinities_and_nan_pass_as_in_pytorch() -> None:
    x = torch.tensor([[-torch.inf, torch.nan, torch.inf, 1.0]], dtype=torch.float64)
    fns = (F.relu, F.relu6, F.leaky_relu, F.elu, torch.sigmoid, F.softplus)
    check(lambda v: tuple(fn(v) for fn in fns), x)


def test_what_is_not_a_number_is_found_and_replaced() -> None:
    x = torch.tensor([[-torch.inf, torch.nan, torch.inf, 1.0]], dtype=torch.float64)
    check(lambda v: (torch.isnan(v).double(), torch.nan_to_num(v, 0.5, 3.0, -4.0)), x)
    check(lambda v: (torch.trunc(v), torch.clamp(v, v * 0, v * 0 + 2)), x)


CONSTANT, ROW = noise(4, 1, 1, seed=3), noise(1, 4, 1, 3, seed=4)
BINARY: dict[str, Callable[[Tensor], Tensor]] = {
    "number": lambda x: 2 * x + 1 - x / 3 - (1 - x) + 2 / (x + 9),
    "self": lambda x: x + x * x,
    "constant": lambda x: (x + CONSTANT) * ROW,
    "constant-left": lambda x: CONSTANT - x,
    "constant-divided": lambda x: CONSTANT / (x.abs() + 1),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "gate-left": lambda x: x.mean((2, 3), keepdim=True) - x,
    "gate-divided": lambda x: x.mean((2, 3), keepdim=True) / (x.abs() + 1),
    "outer": lambda x: x.mean((1, 2), keepdim=True) + x.mean((1, 3), keepdim=True),
    "outer-conflict": lambda x: x.mean((2, 3))[:, :, None] * x.mean((2, 3))[:, None, :],
    "transposed": lambda x: x + x.transpose(2, 3),
    "alpha": lambda x: torch.add(x, torch.sub(x, CONSTANT, alpha=2), alpha=3),
    "maximum": lambda x: torch.maximum(x, x.mean((2, 3), keepdim=True)),
    "minimum": lambda x: torch.minimum(x, CONSTANT),
    "power": lambda x: x**2 + x**3 + x.abs() ** 0.5 + (x.abs() + 1) ** -1.3,
    "power-of": lambda x: (x.abs() + 0.1) ** x + 2**x,
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0.2) + x.clamp_max(-0.1),
    "roots": lambda x: x.abs().sqrt() + (x * x + 1).rsqrt() + (x * x + 1).log() + x.exp(),
    "clamp-tensors": lambda x: torch.clamp(x, CONSTANT, CONSTANT + 1),
    "clamp-above": lambda x: torch.clamp(x, max=x.mean((2, 3), keepdim=True)),
    "cosine": lambda x: F.cosine_similarity(x, x * x - 1, dim=1),
    "logarithms": lambda x: (x * x + 1).log2() - (x * x + 1).log10() + torch.exp2(x),
    "angles": lambda x: torch.tan(x / 3),
    "arcs": lambda x: torch.atan(x) + torch.asin(x / 8) - torch.acos(x / 8),
    "hyperbolic": lambda x: torch.sinh(x / 2) - torch.cosh(x / 3) + torch.sinh(x / 1000),
    "remainders": lambda x: x % 0.75 + torch.fmod(x, 0.75) - x % -0.4 + torch.fmod(x, -0.4),
    "parts": lambda x: torch.trunc(3 * x) + torch.frac(2 * x),
    "rounding": lambda x: (3 * x).floor() + (3 * x).ceil() + (3 * x).round() + x.sign(),
    "floor-divide": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "zeros-like": lambda x: x + torch.zeros_like(x) * 2 + torch.ones_like(x),
    "arange": lambda x: x * torch.arange(3) + torch.linspace(0, 1, 3).double(),
    "in-place": lambda x: (x + 1).mul_(2).relu_().add_(x),
}


@cache
def _arithmetic() -> dict[str, tuple[Array, Array]]:
    return evaluate_all(BINARY, dict.fromkeys(BINARY, noise(2, 4, 3, 3)))


@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_equals_pytorch(name: str) -> None:
    assert_equal(*_arithmetic()[name])


MASK = torch.arange(12).reshape(4, 3) % 3 == 0


CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "number": lambda x: torch.where(x > 0, x, 0.1),
    "number-left": lambda x: torch.where(x <= 0.2, 0.1, x),
    "constant": lambda x: torch.where(MASK, x, -x.exp()),
    "fill": lambda x: x.masked_fill(MASK, -1e4),
    "fill-and": lambda x: x.masked_fill((x > 0) & (x < 1), float("-inf")),
    "compare": lambda x: (x >= x.mean(2, keepdim=True)).double() - (x != 0).double(),
    "or": lambda x: torch.where((x > 1) | ~(x > 0), x, 2.0),
    "truth": lambda x: x.relu().bool().double(),
}


@cache
def _choice() -> dict[str, tuple[Array, Array]]:
    return evaluate_all(CHOICES, dict.fromkeys(CHOICES, noise(2, 4, 3)))


@pytest.mark.parametrize("name", CHOICES)
def test_choice_equals_pytorch(name: str) -> None:
    assert_equal(*_choice()[name])


def test_choice_is_not_spoilt_by_infinities_in_the_other_branch() -> None:
    x = torch.tensor([[-1.0, 0.0, 2.0]], dtype=torch.float64)
    check(lambda v: torch.where(v > 0, v, v.abs().log()), x)
    check(lambda v: torch.where(v == 0, 0.5, 1 / v), x)


def test_two_inputs() -> None:
    lowered = check(lambda x, y: (x * y.unsqueeze(-1)).sum(1), noise(2, 4, 3), noise(2, 4, seed=1))
    assert [scan.name for scan in lowered.plan.scans] == ["inputs_0", "inputs_1"]


def test_dropout_and_casts_leave_no_node() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Identity(), nn.Dropout2d(0.2))
    assert ops(check(model, noise(2, 4, 3, 3))) == ["Scan"]
    assert ops(check(lambda x: x.contiguous().clone().double().detach(), noise(2, 4))) == ["Scan"]


def test_larger_side_of_a_commuting_join_is_left() -> None:
    plan = check(lambda x: x.mean((2, 3), keepdim=True) * x, noise(2, 4, 3, 3)).plan
    join = plan.roots[0][1]
    assert [node.op for node in join.inputs] == ["Scan", "Group"]

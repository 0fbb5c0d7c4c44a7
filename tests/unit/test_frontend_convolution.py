"""Convolutions and linear layers mean in a plan what they mean in PyTorch."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kqo.ir.equations import Affine
from kqo.ir.nodes import Const, Group, Join
from kqo.ir.schema import names
from tests.unit.lowering import Array, assert_equal, check, evaluate_all, noise, ops, randomized

CASES = {
    "plain": (nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "one-channel": (nn.Conv2d(1, 4, 3, padding=1), (1, 5, 6)),
    "pointwise": (nn.Conv2d(3, 5, 1, bias=False), (3, 4, 4)),
    "stride": (nn.Conv2d(3, 4, 3, stride=(2, 3), padding=(1, 2)), (3, 9, 8)),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=(2, 3), padding=(2, 1)), (3, 9, 9)),
    "rectangle": (nn.Conv2d(3, 4, (1, 5), padding=(0, 2)), (3, 5, 7)),
    "groups": (nn.Conv2d(6, 4, 3, groups=2, padding=1), (6, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, stride=2, padding=1), (4, 7, 7)),
    "multiplier": (nn.Conv2d(3, 6, 3, groups=3, padding=1), (3, 5, 5)),
    "same": (nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), (3, 7, 8)),
    "valid": (nn.Conv2d(3, 4, 3, stride=2, padding="valid"), (3, 7, 8)),
    "circular": (nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), (3, 5, 5)),
    "reflect": (nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (3, 5, 5)),
    "replicate": (nn.Conv2d(3, 4, 3, padding=2, padding_mode="replicate"), (3, 5, 5)),
    "one-dimension": (nn.Conv1d(3, 4, 5, stride=2, padding=2), (3, 17)),
    "one-dimension-depthwise": (nn.Conv1d(3, 3, 3, groups=3, dilation=2), (3, 11)),
    "three-dimensions": (nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=1), (2, 4, 5, 3)),
    "three-dimensions-groups": (nn.Conv3d(4, 4, 3, groups=2, padding=1), (4, 3, 4, 3)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3), (3, 4, 5)),
    "transposed-stride": (
        nn.ConvTranspose2d(3, 4, (3, 4), stride=(2, 3), padding=(1, 2), output_padding=(1, 0)),
        (3, 4, 5),
    ),
    "transposed-dilation": (nn.ConvTranspose2d(3, 4, 3, stride=2, dilation=2), (3, 4, 3)),
    "transposed-groups": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 3, 3)),
    "transposed-1d": (nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1), (2, 6)),
    "transposed-3d": (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 3, 2)),
    "linear": (nn.Linear(5, 3), (5,)),
    "linear-over-positions": (nn.Linear(5, 3), (2, 4, 5)),
    "linear-of-one": (nn.Linear(1, 3), (1,)),
}


@cache
def _layer() -> dict[str, tuple[Array, Array]]:
    layers = {name: randomized(layer) for name, (layer, _) in CASES.items()}
    return evaluate_all(layers, {n: noise(2, *shape) for n, (_, shape) in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_layer_equals_pytorch(name: str) -> None:
    assert_equal(*_layer()[name])


def test_convolution_is_a_join_and_a_group_with_its_kernel_unchanged() -> None:
    layer = randomized(nn.Conv2d(3, 4, (5, 3), stride=2, padding=(2, 1), bias=False))
    plan = check(layer, noise(1, 3, 9, 8)).plan
    group = plan.roots[0][1]
    assert isinstance(group, Group) and group.agg == "sum" and group.by == ("c", "y", "x")
    join = group.input
    assert isinstance(join, Join) and join.combine == "mul"
    assert [str(condition) for condition in join.on] == [
        "c = i",
        "y = 2*y + ky - 2",
        "x = 2*x + kx - 1",
    ]
    kernel = join.right
    assert isinstance(kernel, Const) and kernel.name == "weight"
    assert names(kernel.axes) == ("c", "i", "ky", "kx")
    assert plan.constants["weight"].ctypes.data == layer.weight.data_ptr()  # shared, not copied


def test_depthwise_convolution_has_no_condition_on_channels() -> None:
    plan = check(randomized(nn.Conv2d(4, 4, 3, groups=4, bias=False)), noise(1, 4, 5, 5)).plan
    join = plan.roots[0][1].inputs[0]
    assert isinstance(join, Join)
    assert [condition.axis for condition in join.on] == ["y", "x"]
    assert names(join.right.schema) == ("c", "ky", "kx")


def test_transposed_convolution_scales_the_left_side() -> None:
    layer = randomized(nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, bias=False))
    join = check(layer, noise(1, 3, 4, 4)).plan.roots[0][1].inputs[0]
    assert isinstance(join, Join)
    assert join.on[1] == Affine("y", ((1, "y"), (-1, "ky")), 1, 2)


def test_matrix_products_with_constants() -> None:
    a, b = noise(5, 3, seed=1), noise(4, 6, seed=2)
    check(lambda x: x @ a, noise(2, 4, 5))
    check(lambda x: torch.matmul(b, x.transpose(1, 2).reshape(2, 6, 5)), noise(2, 5, 6))
    c, v = noise(3), noise(5)
    check(lambda x: torch.addmm(c, x, a, beta=2, alpha=0.5), noise(2, 5))
    check(lambda x: x @ v, noise(2, 4, 5))


def test_products_of_two_activations() -> None:
    check(lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x, noise(2, 4, 5))
    check(lambda x: torch.einsum("bnk,bmk->bnm", x, x), noise(2, 4, 5))
    attend = F.scaled_dot_product_attention
    mask = torch.ones(4, 4).tril().bool()
    check(lambda x: attend(x, x, 2 * x) + attend(x, -x, x, mask), noise(2, 2, 4, 6))
    check(lambda x: torch.bmm(x[:, :2], x[:, 2:].transpose(1, 2)), noise(2, 4, 5))
    check(lambda x: x.unsqueeze(1) @ x.reshape(2, 1, 5, 4), noise(2, 4, 5))


def test_convolution_of_squeezed_positions_needs_no_position_axes() -> None:
    layer = randomized(nn.Conv2d(4, 3, 1))
    lowered = check(lambda x: layer(x.mean((2, 3), keepdim=True)), noise(2, 4, 5, 5))
    assert "Domain" not in ops(lowered)
    wide = randomized(nn.Conv2d(4, 3, 3, padding=1))
    check(lambda x: wide(x.mean((2, 3), keepdim=True)), noise(2, 4, 5, 5))


def test_convolution_over_channels_last_data() -> None:
    layer = randomized(nn.Conv1d(5, 3, 3, padding=1))
    check(lambda x: layer(x.permute(0, 2, 3, 1).flatten(2)), noise(2, 3, 5, 4))

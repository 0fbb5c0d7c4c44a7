"""Normalizations: with stored statistics a few joins with constants, otherwise groups and joins."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from kqo.frontend.algebra import combine, group
from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.shapes import reshape
from kqo.frontend.values import BATCH, Constant, Dim, Operand, Value
from kqo.ir.nodes import Join, Map, Node
from kqo.ir.scalar import V, call


def _per_channel(at: Context, fn: str, x: Value, parameter: Operand | None) -> Value:
    """Combine with one number per channel (dimension 1); nothing where there is no parameter."""
    if parameter is None:
        return x
    constant = at.constant(parameter, "a parameter")
    shape = [-1] + [1] * (len(x.dims) - 2)
    return combine(at, fn, x, Constant(constant.name, constant.tensor.reshape(shape)))


@lowers("aten.batch_norm.default")
def batch_norm(
    at: Context,
    x: Value,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    variance: Operand | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool = False,
) -> Value:
    """Subtract the mean, multiply by ``1 / sqrt(variance + eps)``, by the weight, add the bias."""
    if training or mean is None or variance is None:
        at.unsupported("it uses the statistics of the batch")
    x = _per_channel(at, "sub", x, mean)
    constant = at.constant(variance, "the variance")
    name = x.dims[1]
    spread = at.constant_value(constant, (name,))
    scale = Map(spread.node, call("rsqrt", call("add", V, eps)))
    x = Value(Join(x.node, scale, (), (), "mul"), x.dims)
    x = _per_channel(at, "mul", x, weight)
    return _per_channel(at, "add", x, bias)


@lowers("aten._native_batch_norm_legit_no_training.default", kind="batch_norm")
def batch_norm_inference(
    at: Context,
    x: Value,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand,
    variance: Operand,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    """Batch norm, as run_decompositions leaves it; the other results are empty."""
    out = batch_norm(at, x, weight, bias, mean, variance, False, momentum, eps)
    return out, None, None


@lowers(
    "aten._native_batch_norm_legit.no_stats", "aten._native_batch_norm_legit.default",
    "aten._native_batch_norm_legit_functional.default",
    kind="batch_norm",
)  # fmt: skip
def batch_norm_training(at: Context, *_: Any) -> None:
    """Batch norm over the batch at hand, which no single image has."""
    at.unsupported("it uses the statistics of the batch")


@lowers("aten.native_batch_norm.default", kind="batch_norm")
def native_batch_norm(
    at: Context,
    x: Value,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    variance: Operand | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    """Batch norm with the results that only training reads."""
    out = batch_norm(at, x, weight, bias, mean, variance, training, momentum, eps)
    return out, None, None


def standardize(node: Node, over: Collection[Dim], eps: float) -> Node:
    """Mean 0 and variance 1 over some axes; the variance is the mean of squared differences."""
    mean = group(node, over, "mean")
    centred = Join(node, mean, (), (), "sub")
    variance = group(Map(centred, call("mul", V, V)), over, "mean")
    scale = Map(variance, call("rsqrt", call("add", V, eps)))
    return Join(centred, scale, (), (), "mul")


@lowers("aten.layer_norm.default")
def layer_norm(
    at: Context,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    """Standardize over the last dimensions, then scale and shift each element of them."""
    over = x.dims[-len(normalized_shape) :]
    if BATCH in over:
        at.mixes_batch()
    out = Value(standardize(x.node, over, eps), x.dims)
    if weight is not None:
        out = combine(at, "mul", out, weight)
    return out if bias is None else combine(at, "add", out, bias)


@lowers("aten.native_layer_norm.default", kind="layer_norm")
def native_layer_norm(
    at: Context,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
) -> tuple[Value, None, None]:
    """Layer norm with the results that only training reads."""
    return layer_norm(at, x, normalized_shape, weight, bias, eps), None, None


@lowers("aten.rms_norm.default")
def rms_norm(
    at: Context,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Operand | None = None,
    eps: float | None = None,
) -> Value:
    """Divide by the root of the mean square over the last dimensions, then scale."""
    over = x.dims[-len(normalized_shape) :]
    if BATCH in over:
        at.mixes_batch()
    square = group(Map(x.node, call("mul", V, V)), over, "mean")
    small = at.epsilon if eps is None else eps
    scale = Map(square, call("rsqrt", call("add", V, small)))
    out = Value(Join(x.node, scale, (), (), "mul"), x.dims)
    return out if weight is None else combine(at, "mul", out, weight)


@lowers("aten.group_norm.default")
def group_norm(
    at: Context,
    x: Value,
    num_groups: int,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    """Standardize each group of channels over channels and positions, then scale each channel."""
    channels = x.extent(1)
    spatial = [x.extent(d) for d in range(2, len(x.dims))]
    if num_groups in (1, channels):
        over = x.dims[1:] if num_groups == 1 else x.dims[2:]
        out = Value(standardize(x.node, over, eps), x.dims)
    else:
        split = reshape(at, x, (at.batch, num_groups, channels // num_groups, *spatial))
        node = standardize(split.node, split.dims[2:], eps)
        merged = reshape(at, Value(node, split.dims), (at.batch, channels, *spatial))
        out = merged
    return _per_channel(at, "add", _per_channel(at, "mul", out, weight), bias)


@lowers("aten.native_group_norm.default", kind="group_norm")
def native_group_norm(
    at: Context,
    x: Value,
    weight: Operand | None,
    bias: Operand | None,
    n: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> tuple[Value, None, None]:
    """Group norm with the results that only training reads."""
    return group_norm(at, x, groups, weight, bias, eps), None, None


@lowers("aten.instance_norm.default")
def instance_norm(
    at: Context,
    x: Value,
    weight: Operand | None,
    bias: Operand | None,
    mean: Operand | None,
    variance: Operand | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    """Standardize each channel over its positions; with stored statistics it is a batch norm."""
    if not use_input_stats:
        return batch_norm(at, x, weight, bias, mean, variance, False, momentum, eps)
    return group_norm(at, x, x.extent(1), weight, bias, eps)

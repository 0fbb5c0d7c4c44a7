"""Convolutions of any dimension, stride, padding, dilation and grouping, and transposed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.values import BATCH, Constant, Operand, Value, give_axes, position_names, rename
from kqo.ir.equations import Affine, Condition, equal, window
from kqo.ir.nodes import Const, Group, Join, Node, Rekey
from kqo.ir.schema import Axis, extent_of

Ints = int | Sequence[int]


class Window(NamedTuple):
    """One axis of a window: ``padding`` is before the first element, ``out`` the new extent."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int


def spread(value: Ints, rank: int) -> tuple[int, ...]:
    """One number per spatial axis."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * rank if len(given) == 1 else given


@lowers(
    "aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", kind="conv"
)  # fmt: skip
def conv(
    at: Context,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Value:
    """Join input and kernel where ``x_in = stride*x + dilation*k - padding``, and sum."""
    kernel = at.constant(weight, "the kernel")
    sizes = tuple(kernel.tensor.shape[2:])
    rank = len(sizes)
    value = _prepare(at, at.value(x), rank)
    windows = []
    per_axis = zip(
        sizes, spread(stride, rank), spread(padding, rank), spread(dilation, rank), strict=True
    )
    for d, (k, s, p, r) in enumerate(per_axis, 2):
        out = (value.extent(d) + 2 * p - r * (k - 1) - 1) // s + 1
        windows.append(Window(k, s, p, r, out))
    return _convolve(at, value, kernel, bias, windows, groups)


@lowers("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding", kind="conv")
def conv_named_padding(
    at: Context,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Ints = 1,
    padding: str = "valid",
    dilation: Ints = 1,
    groups: int = 1,
) -> Value:
    """Convolution with padding "valid" (none) or "same" (the odd element goes to the end)."""
    kernel = at.constant(weight, "the kernel")
    sizes = tuple(kernel.tensor.shape[2:])
    rank = len(sizes)
    if padding == "valid":
        return conv(at, x, weight, bias, stride, 0, dilation, groups)
    value = _prepare(at, at.value(x), rank)
    windows = [
        Window(k, 1, r * (k - 1) // 2, r, value.extent(d))
        for d, (k, r) in enumerate(zip(sizes, spread(dilation, rank), strict=True), 2)
    ]
    return _convolve(at, value, kernel, bias, windows, groups)


@lowers("aten.convolution.default", kind="conv")
def convolution(
    at: Context,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Value:
    """The operator that all convolutions decompose to."""
    if transposed:
        return conv_transpose(
            at, x, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return conv(at, x, weight, bias, stride, padding, dilation, groups)


@lowers(
    "aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input",
    kind="conv_transpose",
)  # fmt: skip
def conv_transpose(
    at: Context,
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Value:
    """Join input and kernel where ``stride*x_in = x - dilation*k + padding``, and sum."""
    kernel = at.constant(weight, "the kernel")
    sizes = tuple(kernel.tensor.shape[2:])
    rank = len(sizes)
    value = _with_axes(_prepare(at, at.value(x), rank))
    pos = position_names(rank)
    options = [spread(o, rank) for o in (stride, padding, output_padding, dilation)]
    on: list[Condition] = []
    axes = []
    for d, (name, k, s, p, extra, r) in enumerate(zip(pos, sizes, *options, strict=True), 2):
        on.append(Affine(name, ((1, name), (-r, f"k{name}")), p, s))
        axes.append(Axis(name, (value.extent(d) - 1) * s - 2 * p + r * (k - 1) + extra + 1))
    channels, out = kernel.tensor.shape[:2]
    taps = tuple((f"k{name}", k) for name, k in zip(pos, sizes, strict=True))
    if groups == 1:
        node: Node = at.const(kernel, (("i", channels), ("c", out), *taps))
    else:
        node = at.const(kernel, (("g", groups), ("i", channels // groups), ("c", out), *taps))
    joined = Join(
        value.node, node, (_channels(groups, channels // groups), *on), tuple(axes), "mul"
    )
    grouped = _group(joined, pos, groups)
    return _add_bias(at, Value(grouped, (BATCH, "c", *pos)), bias)


def _prepare(at: Context, value: Value, rank: int) -> Value:
    """The input under its usual axis names; spatial dimensions without an axis stay without."""
    if len(value.dims) != rank + 2 or value.dims[0] != BATCH:
        at.unsupported("the input has no leading batch dimension")
    usual = ("c", *position_names(rank))
    new = {d: name for d, name in zip(value.dims[1:], usual, strict=True) if d is not None}
    return give_axes(rename(value, new), {1: "c"})


def _with_axes(value: Value) -> Value:
    """The value with an axis for every spatial dimension."""
    return give_axes(value, dict(enumerate(position_names(len(value.dims) - 2), 2)))


def _convolve(
    at: Context,
    value: Value,
    kernel: Constant,
    bias: Operand | None,
    windows: Sequence[Window],
    groups: int,
) -> Value:
    if not all(w.kernel == 1 and w.padding == 0 for w in windows):
        value = _with_axes(value)
    usual = position_names(len(windows))
    here = [(name, w) for name, w in zip(usual, windows, strict=True) if name in value.dims]
    out, per_group = kernel.tensor.shape[:2]
    taps = tuple((f"k{name}", w.kernel) for name, w in here)
    on: list[Condition] = [
        window(name, f"k{name}", w.stride, w.dilation, w.padding) for name, w in here
    ]
    axes = tuple(Axis(name, w.out) for name, w in here)
    depthwise = per_group == 1 and groups == out == extent_of(value.node.schema, "c")
    if depthwise and groups > 1:
        weight = at.const(kernel, (("c", out), *taps))
    else:
        on.insert(0, _channels(groups, per_group))
        shape: tuple[tuple[str, int], ...] = (("c", out // groups), ("i", per_group), *taps)
        weight = at.const(kernel, shape if groups == 1 else (("g", groups), *shape))
    joined = Join(value.node, weight, tuple(on), axes, "mul")
    pos = tuple(name for name, _ in here)
    node = _group(joined, pos, 1 if depthwise else groups)
    dims = tuple(name if name in value.dims else None for name in usual)
    return _add_bias(at, Value(node, (BATCH, "c", *dims)), bias)


def _channels(groups: int, per_group: int) -> Affine:
    """Which input channel meets ``i``: of group g the channels from ``g * per_group``."""
    if groups == 1:
        return equal("c", "i")
    return Affine("c", ((per_group, "g"), (1, "i")))


def _group(joined: Join, pos: tuple[str, ...], groups: int) -> Node:
    if groups == 1:
        return Group(joined, ("c", *pos), "sum")
    node = Group(joined, ("g", "c", *pos), "sum")
    channels = groups * extent_of(node.schema, "c")
    axes = (Axis("c", channels), *node.schema[2:])
    return Rekey(node, ("g", "c", *pos), axes)


def _add_bias(at: Context, value: Value, bias: Operand | None) -> Value:
    if bias is None:
        return value
    constant = at.constant(bias, "the bias")
    node: Const = at.const(constant, (("c", constant.tensor.numel()),))
    return Value(Join(value.node, node, (), (), "add"), value.dims)

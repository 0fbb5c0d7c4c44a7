"""Assignments to parts of tensors, and sliding windows as tensors of their own."""

from __future__ import annotations

from kqo.frontend.context import Context
from kqo.frontend.convolution import Ints, spread
from kqo.frontend.registry import lowers
from kqo.frontend.shapes import expand, reshape
from kqo.frontend.slices import cat, narrow
from kqo.frontend.values import BATCH, Constant, Operand, Value, feature, give_axes, position_names
from kqo.ir.equations import Affine, window
from kqo.ir.nodes import Domain, Group, Join
from kqo.ir.schema import Axis, names


@lowers("aten.copy.default", kind="assign")
def copy(at: Context, x: Operand, source: Operand, non_blocking: bool = False) -> Operand:
    """The source, broadcast to the shape of what it is written over."""
    if isinstance(source, Constant):
        return Constant(at.name, source.tensor.expand(at.shape))
    return expand(at, source)


@lowers("aten.slice_scatter.default", kind="assign")
def slice_scatter(
    at: Context,
    x: Operand,
    source: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Operand:
    """``x`` with ``x[start:end]`` of a dimension replaced."""
    extent = at.shape[dim]
    begin, stop, _ = slice(start, end, 1).indices(extent)
    if step != 1 and stop - begin > 1:
        at.unsupported("an assignment to every n-th element")
    return _replace(at, x, source, dim % len(at.shape), begin, stop)


@lowers("aten.select_scatter.default", kind="assign")
def select_scatter(at: Context, x: Operand, source: Operand, dim: int, index: int) -> Operand:
    """``x`` with ``x[index]`` of a dimension replaced."""
    d = dim % len(at.shape)
    place = index % at.shape[d]
    if isinstance(source, Constant):
        source = Constant(source.name, source.tensor.unsqueeze(d))
    else:
        source = Value(source.node, (*source.dims[:d], None, *source.dims[d:]))
    return _replace(at, x, source, d, place, place + 1)


def _replace(at: Context, x: Operand, source: Operand, d: int, start: int, end: int) -> Operand:
    extent = at.shape[d]
    if (start, end) == (0, extent):
        return source
    if isinstance(x, Value) and x.dims[d] == BATCH:
        at.mixes_batch()
    parts = [_part(at, x, d, 0, start), source, _part(at, x, d, end, extent - end)]
    return cat(at, [part for part in parts if part is not None], d)


def _part(at: Context, x: Operand, d: int, start: int, length: int) -> Operand | None:
    if length <= 0:
        return None
    if isinstance(x, Constant):
        return Constant(f"{x.name}.{start}", x.tensor.narrow(d, start, length))
    return narrow(at, x, d, start, length)


@lowers("aten.unfold.default")
def unfold(at: Context, x: Value, dimension: int, size: int, step: int) -> Value:
    """Windows along a dimension; their elements become a new last dimension."""
    d = at.dim(x, dimension)
    x = give_axes(x, {d: feature(None, x.dims)})
    name = x.dims[d]
    assert name is not None
    tap = feature(None, (*x.dims, "c"))
    on = Affine(name, ((step, name), (1, tap)))
    axes = (Axis(name, (x.extent(d) - size) // step + 1),)
    node = Join(x.node, Domain((Axis(tap, size),)), (on,), axes, "left")
    return Value(node, (*x.dims, tap))


@lowers("aten.im2col.default", kind="unfold")
def im2col(
    at: Context, x: Value, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Value:
    """Windows of an image as columns: (c * kh * kw, positions)."""
    pos = position_names(2)
    x = give_axes(x, dict(zip((2, 3), pos, strict=True)))
    options = [spread(o, 2) for o in (kernel_size, stride, padding, dilation)]
    on, axes = [], []
    taps: list[Axis] = []
    for d, k, s, p, r in zip((2, 3), *options, strict=True):
        name = x.dims[d]
        assert name is not None
        tap = feature(None, (*x.dims, "c", *(t.name for t in taps)))
        on.append(window(name, tap, s, r, p))
        taps.append(Axis(tap, k))
        axes.append(Axis(name, (x.extent(d) + 2 * p - r * (k - 1) - 1) // s + 1))
    joined = Join(x.node, Domain(tuple(taps)), tuple(on), tuple(axes), "left")
    node = Group(joined, names(joined.schema), "sum")  # what misses is zero
    dims = (*x.dims[:2], *(t.name for t in taps), *x.dims[2:])
    return reshape(at, Value(node, dims), at.shape)

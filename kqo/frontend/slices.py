"""Parts of tensors and their concatenation: slices, splits, flips, cat, stack and repeat."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.shapes import reshape
from kqo.frontend.values import (
    BATCH,
    Constant,
    Operand,
    Value,
    feature,
    give_axes,
    position_names,
    rename,
)
from kqo.ir.equations import Affine, Condition
from kqo.ir.nodes import Domain, Join, Node, Rekey, Union
from kqo.ir.schema import Axis, is_position, names

NOTHING = Domain(())
"""Joined with to move keys: the conditions do the work."""


def take(value: Value, dim: int, start: int, length: int, step: int = 1) -> Value:
    """Elements ``start, start + step, ...`` along a dimension; a negative step goes backwards."""
    name = value.dims[dim]
    assert name is not None
    on: Condition = Affine(name, ((step, name),), start)
    node = Join(value.node, NOTHING, (on,), (Axis(name, length),), "left")
    return Value(node, value.dims)


def narrow(at: Context, value: Value, dim: int, start: int, length: int) -> Value:
    """``length`` elements from ``start`` along a dimension; all of them need no node."""
    if value.dims[dim] == BATCH:
        return value if (start, length) == (0, at.batch) else at.mixes_batch()
    if (start, length) == (0, value.extent(dim)):
        return value
    return take(value, dim, start, length)


@lowers("aten.slice.Tensor")
def slice_(
    at: Context,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """``x[start:end:step]`` along a dimension."""
    d = dim % len(x.dims)
    extent = at.batch if x.dims[d] == BATCH else x.extent(d)
    begin, _, _ = slice(start, end, 1).indices(extent)
    length = at.shape[d]
    if step == 1 or length == 1:
        return narrow(at, x, d, begin, length)
    return take(x, at.dim(x, d), begin, length, step)


@lowers("aten.narrow.default", kind="slice")
def narrow_from(at: Context, x: Value, dim: int, start: int, length: int) -> Value:
    """``length`` elements from ``start``."""
    d = dim % len(x.dims)
    extent = at.batch if x.dims[d] == BATCH else x.extent(d)
    return narrow(at, x, d, start % extent if extent else 0, length)


@lowers("aten.select.int")
def select(at: Context, x: Value, dim: int, index: int) -> Value:
    """``x[index]`` along a dimension, which vanishes."""
    d = at.dim(x, dim)
    name, rest = x.dims[d], x.dims[:d] + x.dims[d + 1 :]
    if name is None:
        return Value(x.node, rest)
    on = Affine(name, (), index % x.extent(d))
    return Value(Join(x.node, NOTHING, (on,), (), "left"), rest)


def _pieces(at: Context, x: Value, dim: int, sizes: Sequence[int]) -> tuple[Value, ...]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    d = dim % len(x.dims)
    return tuple(narrow(at, x, d, s, n) for s, n in zip(starts, sizes, strict=True))


@lowers("aten.split.Tensor", "aten.split.sizes", "aten.split_with_sizes.default", kind="split")
def split(at: Context, x: Value, size: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    """Pieces of one size, the last one maybe smaller, or of given sizes."""
    if not isinstance(size, int):
        return _pieces(at, x, dim, size)
    d = dim % len(x.dims)
    extent = at.batch if x.dims[d] == BATCH else x.extent(d)
    return _pieces(at, x, d, [min(size, extent - s) for s in range(0, extent, size)])


@lowers("aten.chunk.default", kind="split")
def chunk(at: Context, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """At most ``chunks`` pieces of one size."""
    d = dim % len(x.dims)
    extent = at.batch if x.dims[d] == BATCH else x.extent(d)
    return split(at, x, -(-extent // chunks), d)


@lowers("aten.unbind.int")
def unbind(at: Context, x: Value, dim: int = 0) -> tuple[Value, ...]:
    """The slices along a dimension, which vanishes."""
    d = at.dim(x, dim)
    return tuple(select(at, x, d, k) for k in range(x.extent(d)))


@lowers("aten.flip.default")
def flip(at: Context, x: Value, dims: Sequence[int]) -> Value:
    """Elements in reverse order along dimensions."""
    for dim in dims:
        d = at.dim(x, dim)
        if x.dims[d] is not None:
            x = take(x, d, x.extent(d) - 1, x.extent(d), -1)
    return x


@lowers("aten.roll.default")
def roll(at: Context, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    """Elements moved along dimensions, around the end."""
    if len(dims) != len(shifts):
        at.unsupported("a roll of the flattened tensor")
    for shift, dim in zip(shifts, dims, strict=True):
        d = at.dim(x, dim)
        extent = x.extent(d)
        if by := shift % extent:
            x = concatenate([take(x, d, extent - by, by), take(x, d, 0, extent - by)], d)
    return x


@lowers("aten.index_select.default", kind="gather")
def index_select(at: Context, x: Value, dim: int, index: Operand) -> Value:
    """Elements at constant places along a dimension."""
    places = at.constant(index, "the index").tensor.reshape(-1).tolist()
    return take_places(at, x, at.dim(x, dim), places)


@lowers("aten.index.Tensor", kind="gather")
def index(at: Context, x: Value, indices: Sequence[Operand | None]) -> Value:
    """``x[:, i]`` for one constant tensor of places, of any shape."""
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) != 1:
        at.unsupported("several index tensors")
    d, operand = given[0]
    tensor = at.constant(operand, "the index").tensor
    if tensor.dtype == torch.bool:
        at.unsupported("a mask as an index")
    taken = take_places(at, x, at.dim(x, d), tensor.reshape(-1).tolist())
    return taken if tensor.dim() == 1 else reshape(at, taken, at.shape)


def take_places(at: Context, x: Value, dim: int, places: Sequence[int]) -> Value:
    """Elements at given places along a dimension: the union of runs of equal steps."""
    if not places:
        at.unsupported("an empty selection")
    extent = x.extent(dim)
    x = give_axes(x, {dim: feature(None, x.dims)})
    where = [p % extent for p in places]
    if where == list(range(extent)):
        return x
    runs: list[list[int]] = [[where[0]]]
    for p in where[1:]:
        run = runs[-1]
        if len(run) == 1 or p - run[-1] == run[1] - run[0]:
            run.append(p)
        else:
            runs.append([p])
    parts = [take(x, dim, r[0], len(r), r[1] - r[0] if len(r) > 1 else 1) for r in runs]
    return concatenate(parts, dim)


@lowers("aten.cat.default", "aten.concat.default")
def cat(at: Context, tensors: Sequence[Operand], dim: int = 0) -> Value:
    """Concatenation along a dimension."""
    present = [
        o for o in tensors if isinstance(o, Value) or o.tensor.numel() > 0
    ]  # cat skips what is empty
    return concatenate(_matched(at, present, dim), dim)


@lowers("aten.stack.default")
def stack(at: Context, tensors: Sequence[Operand], dim: int = 0) -> Value:
    """Concatenation along a new dimension."""
    rank = len(at.shape)
    place = dim % rank
    new: list[Operand] = []
    for o in tensors:
        if isinstance(o, Value):
            new.append(Value(o.node, (*o.dims[:place], None, *o.dims[place:])))
        else:
            new.append(Constant(o.name, o.tensor.unsqueeze(place)))
    return concatenate(_matched(at, new, place), place)


def _matched(at: Context, operands: Sequence[Operand], dim: int) -> list[Value]:
    """Operands with the same axis for the same dimension, and one for each of extent above 1."""
    model = next(o for o in operands if isinstance(o, Value))
    rank = len(model.dims)
    d = dim % rank
    if any(isinstance(o, Value) and o.dims[d] == BATCH for o in operands):
        at.mixes_batch()
    target = list(model.dims)
    for k in range(rank):
        if target[k] is None:
            named = [o.dims[k] for o in operands if isinstance(o, Value) and o.dims[k] is not None]
            if named or k == d:
                base = named[0] if named else None
                target[k] = feature(base, target)
                if base is not None and base not in target and is_position(base):
                    target[k] = base
                elif base is None and k >= 2 and position_names(rank - 2)[k - 2] not in target:
                    target[k] = position_names(rank - 2)[k - 2]
    fitted = []
    for o in operands:
        value = o
        if isinstance(value, Constant):
            shape = value.tensor.shape
            wide = [-1 if n != BATCH else shape[k] for k, n in enumerate(target)]
            value = at.constant_value(
                Constant(value.name, value.tensor.expand(wide)),
                [n if n is not None else feature(None, target) for n in target],
            )
        if BATCH in target and BATCH not in value.dims:
            place = target.index(BATCH)
            value = Value(value.node, (*value.dims[:place], BATCH, *value.dims[place + 1 :]))
        new = {
            have: name
            for have, name in zip(value.dims, target, strict=True)
            if have is not None and name is not None and have != BATCH
        }
        value = give_axes(
            rename(value, new), {k: n for k, n in enumerate(target) if n is not None and n != BATCH}
        )
        fitted.append(value)
    return fitted


def concatenate(parts: Sequence[Value], dim: int) -> Value:
    """The union of parts of the same axes, the keys of each shifted behind the one before."""
    first = parts[0]
    name = first.dims[dim]
    assert name is not None
    if len(parts) == 1:
        return first
    order = names(first.node.schema)
    return Value(Union(tuple(_ordered(p.node, order) for p in parts), name), first.dims)


def _ordered(node: Node, order: tuple[str, ...]) -> Node:
    if names(node.schema) == order:
        return node
    axes = {axis.name: axis for axis in node.schema}
    return Rekey(node, order, tuple(axes[n] for n in order))


@lowers("aten.repeat.default", "aten.tile.default", kind="repeat")
def repeat(at: Context, x: Value, repeats: Sequence[int]) -> Value:
    """Copies side by side along dimensions."""
    rank = max(len(repeats), len(x.dims))
    times = (1,) * (rank - len(repeats)) + tuple(repeats)
    out = Value(x.node, (None,) * (rank - len(x.dims)) + x.dims)
    for d, n in enumerate(times):
        if n != 1:
            at.dim(out, d)
            out = give_axes(out, {d: feature(None, out.dims)})
            out = concatenate([out] * n, d)
    return out

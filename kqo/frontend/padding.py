"""Padding in all modes: zeros are keys that miss, other modes take elements from inside."""

from __future__ import annotations

from collections.abc import Sequence

from kqo.frontend.context import Context
from kqo.frontend.gather import take_each
from kqo.frontend.registry import lowers
from kqo.frontend.slices import NOTHING, concatenate, take
from kqo.frontend.values import BATCH, Number, Value, feature, give_axes, position_names
from kqo.ir.equations import Affine
from kqo.ir.nodes import Domain, Group, Join, Map, Node
from kqo.ir.scalar import V, call
from kqo.ir.schema import Axis, names


def _amounts(x: Value, pad: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Elements to add before and after each padded dimension; ``pad`` starts at the last one."""
    rank = len(x.dims)
    pairs = zip(pad[::2], pad[1::2], strict=True)
    return {rank - 1 - k: pair for k, pair in enumerate(pairs) if pair != (0, 0)}


def _positioned(at: Context, x: Value, dims: Sequence[int]) -> Value:
    """The value with an axis for each of the dimensions, none of which may be the batch."""
    usual = (BATCH, "c", *position_names(max(len(x.dims) - 2, 0)))
    for d in dims:
        at.dim(x, d)
        if x.dims[d] is None:
            name = usual[d] if usual[d] not in x.dims else feature(None, x.dims)
            x = give_axes(x, {d: name})
    return x


@lowers("aten.constant_pad_nd.default", kind="pad")
def constant_pad(at: Context, x: Value, pad: Sequence[int], value: Number = 0) -> Value:
    """Pad with a number; negative amounts cut off.

    Zeros are what a group of a join that misses gives; other numbers are concatenated.
    """
    amounts = _amounts(x, pad)
    x = _positioned(at, x, tuple(amounts))
    if not amounts:
        return x
    if value != 0 and any(n > 0 for pair in amounts.values() for n in pair):
        for d, (before, after) in amounts.items():
            x = _with_borders(x, d, before, after, float(value))
        return x
    on, axes = [], []
    for d, (before, after) in amounts.items():
        name = x.dims[d]
        assert name is not None
        on.append(Affine(name, ((1, name),), -before))
        axes.append(Axis(name, x.extent(d) + before + after))
    node: Node = Join(x.node, NOTHING, tuple(on), tuple(axes), "left")
    if any(n > 0 for pair in amounts.values() for n in pair):
        node = Group(node, names(node.schema), "sum")
    return Value(node, x.dims)


def _with_borders(x: Value, d: int, before: int, after: int, number: float) -> Value:
    inside = x
    if min(before, after) < 0:
        start, end = max(-before, 0), x.extent(d) - max(-after, 0)
        inside = take(x, d, start, end - start)
    name = x.dims[d]
    parts = []
    for amount in (before, after):
        axes = tuple(Axis(a.name, amount if a.name == name else a.extent) for a in x.node.schema)
        border = Value(Map(Domain(axes), call("mul", V, number)), x.dims) if amount > 0 else None
        parts.append(border)
    ordered = (parts[0], inside, parts[1])
    return concatenate([p for p in ordered if p is not None], d)


@lowers("aten.pad.default")
def pad(
    at: Context, x: Value, pad: Sequence[int], mode: str = "constant", value: Number | None = None
) -> Value:
    """Pad with a number, by reflection, by the border's elements, or around the end."""
    if mode == "constant":
        return constant_pad(at, x, pad, value or 0)
    for d, (before, after) in _amounts(x, pad).items():
        x = _positioned(at, x, (d,))
        if min(before, after) < 0:
            start, end = max(-before, 0), x.extent(d) - max(-after, 0)
            x = take(x, d, start, end - start)
        x = _bordered(at, x, d, mode, max(before, 0), max(after, 0))
    return x


def _bordered(at: Context, x: Value, d: int, mode: str, before: int, after: int) -> Value:
    """A dimension with a border made of its own elements."""
    extent = x.extent(d)
    if mode == "replicate":
        index = range(-before, extent + after)
        return take_each(x, d, [min(max(k, 0), extent - 1) for k in index])
    if mode == "reflect":  # mirrored, without repeating the outermost element
        first, last, step = before, extent - 2, -1
    elif mode == "circular":
        first, last, step = extent - before, 0, 1
    else:
        at.unsupported(f"padding mode {mode}")
    parts = [take(x, d, first, before, step)] if before else []
    parts += [x, *([take(x, d, last, after, step)] if after else [])]
    return concatenate(parts, d)


def _register(mode: str, name: str, rank: int) -> None:
    said = {"reflect": "by reflection", "replicate": "by the border's elements"}[mode]

    @lowers(f"aten.{name}_pad{rank}d.default", kind="pad", does=f"Pad {said}.")
    def run(at: Context, x: Value, padding: Sequence[int]) -> Value:
        return pad(at, x, padding, mode)


for _rank in (1, 2, 3):
    _register("reflect", "reflection", _rank)
    _register("replicate", "replication", _rank)

"""Builtins that build symbolic regions: where an operator's output may differ, given its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from kqo.ir.boxes import aligned
from kqo.ir.equations import Condition, Ranged
from kqo.ir.nodes import Domain, Group, Join, Node, Overlay, Saved
from kqo.ir.region import Clip, Either, Image, Region, Regroup, Shift, Shrink
from kqo.ir.schema import (
    Axes,
    extent_of,
    has_query,
    is_position,
    names,
    positions,
    without_query,
)
from kqo.lang.context import Context
from kqo.lang.registry import Conditions, Names, Nodes, builtin


@builtin
def image(at: Region, source: Node, on: Conditions, joined: Node, result: Node) -> Region:
    """The keys of ``result`` that read a changed key of ``source``.

    Args:
        at: where ``source`` may have changed.
        source: an input of ``joined``, or ``joined`` itself.
        on: the conditions that bind axes of ``source``; none where it is the right side of a join.
        joined: the relation that ``result`` aggregates, or ``result`` itself.
        result: the relation whose region is wanted.
    """
    into = without_query(result.schema)
    if not on and without_query(source.schema) == into:
        return at
    kept = set(names(into))
    taps = tuple(axis for axis in without_query(joined.schema) if axis.name not in kept)
    return Image(at, on, taps, into)


@builtin
def either(first: Region, second: Region) -> Region:
    """The union of two regions over the same axes."""
    return _either((first, second))


def _either(regions: tuple[Region, ...]) -> Region:
    flat: dict[Region, None] = {}
    for region in regions:
        flat.update(dict.fromkeys(region.of if isinstance(region, Either) else (region,)))
    return next(iter(flat)) if len(flat) == 1 else Either(tuple(flat))


@builtin
def is_local(source: Node, on: Conditions, joined: Node, result: Node) -> bool:
    """Whether one changed key of ``source`` leaves some keys of ``result`` as they are.

    That takes a position axis of the result that is read at its own key, or through a window that
    is smaller than the axis. Arguments are those of :func:`image`.
    """
    own = set(names(positions(source.schema)))
    bound = {condition.axis for condition in on}
    extents = {axis.name: axis.extent or 1 for axis in joined.schema}
    for axis in positions(result.schema):
        extent = axis.extent or 0
        if extent > 1 and axis.name in own - bound:
            return True
        for condition in on:
            if condition.axis in own and _reach(condition, axis.name, extents) < extent:
                return True
    return False


def _reach(condition: Condition, out: str, extents: Mapping[str, int]) -> int:
    """A bound on the keys of axis ``out`` that read one input key."""
    if isinstance(condition, Ranged):
        if out != condition.out:
            return extents[out]
        keys = range(min(condition.lo), max(condition.hi))
        ranges = list(zip(condition.lo, condition.hi, strict=True))
        return max((sum(lo <= key < hi for lo, hi in ranges) for key in keys), default=0)
    step = sum(c for c, name in condition.terms if name == out)
    if step == 0:
        return extents[out]
    span = sum(abs(c) * (extents[name] - 1) for c, name in condition.terms if name != out)
    return span // abs(step) + 1


@builtin
def bases(context: Context, parts: Nodes) -> Nodes | None:
    """What the parts are overlays of; a part that does not vary stands for itself, unmaterialized.

    Refuses where a part varies by query and is not known as an overlay, or where none varies.
    """
    found: list[Node] = []
    for part in parts:
        overlay = _overlay(context, part)
        if overlay is None and has_query(part.schema):
            return None
        old = part if overlay is None else overlay.base
        found.append(old.input if isinstance(old, Saved) else old)
    return tuple(found) if any(has_query(part.schema) for part in parts) else None


def _overlay(context: Context, node: Node) -> Overlay | None:
    """The node as an overlay over what is not a materialized view, where it is known as one."""
    for alternative in context.alternatives(node):
        if isinstance(alternative, Overlay) and not isinstance(alternative.base, Saved):
            return alternative
    return None


@builtin
def union_image(context: Context, parts: Nodes, axis: str, result: Node) -> Region | None:
    """Where a concatenation along ``axis`` may have changed: the parts' regions, moved."""
    into = without_query(result.schema)
    found: list[Region] = []
    start = 0
    for part in parts:
        overlay = _overlay(context, part)
        if overlay is not None:
            found.append(Shift(overlay.at, axis, start, into))
        start += extent_of(part.schema, axis)
    return _either(tuple(found)) if found else None


@builtin
def regroup(at: Region, source: Node, order: Names, axes: Axes) -> Region:
    """The image of a region under ``Rekey(source, order, axes)``."""
    return Regroup(at, without_query(source.schema), order, axes)


@builtin
def keeps_positions(source: Node, order: Names, axes: Axes) -> bool:
    """Whether a position axis of more than one key comes out of the Rekey as a position axis."""
    extents = tuple((name, extent_of(source.schema, name)) for name in order)
    for olds, news in aligned(extents, axes):
        if len(olds) == len(news) == 1 and is_position(olds[0]):
            (axis,) = cast("Axes", news)
            if is_position(axis.name) and axis.extent != 1:
                return True
    return False


@builtin
def clip(at: Region, tau: float, result: Node) -> Region:
    """The region cut to ``tau`` of the extent of each position axis of ``result``."""
    return Clip(at, float(tau), without_query(result.schema))


@builtin
def shrunk_alike(at: Region, less: Region) -> Region:
    """The region ``less``, cut by what changed where the region ``at`` is."""
    return Shrink(less, at.threshold, at.layer, at.into) if isinstance(at, Shrink) else less


@builtin
def shrink(context: Context, at: Region, threshold: object, result: Node) -> Region | None:
    """The region cut, when the plan runs, to where ``result`` changed by more than the threshold.

    Refuses where the layer's threshold is 0.

    Args:
        at: where ``result`` may have changed.
        threshold: in standard deviations; a number, or numbers by layer with 0 for other layers.
        result: the relation.
    """
    layer = context.layer(result)
    most = threshold.get(layer, 0) if isinstance(threshold, Mapping) else threshold
    if isinstance(threshold, Mapping) and not most:
        return None
    return Shrink(at, float(cast("float", most)), layer, without_query(result.schema))


@builtin
def is_shrunk(at: Region) -> bool:
    """Whether the region is cut by what changed at the top."""
    return isinstance(at, Shrink)


@builtin
def ends_stage(node: Node) -> bool:
    """Whether the relation is what a pooling makes, or the sum at the end of a residual block."""
    if isinstance(node, Join):
        both = has_query(node.left.schema) and has_query(node.right.schema)
        return both and not node.on and node.combine == "add"
    below = node.input if isinstance(node, Group) else None
    return (
        isinstance(below, Join)
        and bool(below.on)
        and isinstance(below.right, Domain)
        and has_query(below.left.schema)
    )


@builtin
def is_clip(at: Region) -> bool:
    """Whether the region is clipped at the top."""
    return isinstance(at, Clip)


@builtin
def has_positions(node: Node) -> bool:
    """Whether the relation has a position axis of more than one key: a region can be local."""
    return any((axis.extent or 0) > 1 for axis in positions(node.schema))

"""Builtins about the conditions of joins: composing windows, dropping what says nothing."""

from __future__ import annotations

from kqo.ir.equations import Affine, Condition, Ranged, equal
from kqo.ir.nodes import Domain, Node, Rekey
from kqo.ir.schema import Axes, Axis, extent_of, is_position, is_tap, names, size, without_query
from kqo.ir.window import reach
from kqo.lang.registry import Conditions, Names, builtin


@builtin
def compose_windows(
    outer: Conditions, inner: Conditions, source: Node, middle: Node, joined: Node
) -> Conditions | None:
    """The conditions that bind axes of ``source`` directly to those of ``joined``.

    Args:
        outer: conditions between ``middle`` and ``joined``.
        inner: conditions between ``source`` and ``middle``: each one axis, moved or strided.
        source: the innermost relation.
        middle: the relation that is to vanish.
        joined: the outer join.

    Refuses where a key beyond the edge of ``middle`` would meet a key of ``source``: for example a
    negative padding, or a crop followed by a window with padding.
    """
    bound = {condition.axis: condition for condition in outer}
    found: list[Condition] = []
    for condition in inner:
        if not isinstance(condition, Affine) or condition.scale != 1 or len(condition.terms) != 1:
            return None
        step, name = condition.terms[0]
        over = bound.pop(name, None)
        if over is None:
            found.append(condition)
            continue
        if not isinstance(over, Affine) or over.scale != 1:
            return None
        if not _edges_agree(over, condition, source, middle, joined):
            return None
        terms = tuple((step * c, n) for c, n in over.terms)
        found.append(Affine(condition.axis, terms, step * over.offset + condition.offset))
    moved = {condition.axis for condition in inner}
    if any(axis in moved for axis in bound):
        return None
    return (*found, *bound.values())


def _edges_agree(outer: Affine, inner: Affine, source: Node, middle: Node, joined: Node) -> bool:
    extents = dict(without_query(joined.schema))
    reads = [sorted((0, c * ((extents[n] or 1) - 1))) for c, n in outer.terms]
    low = outer.offset + sum(r[0] for r in reads)
    high = outer.offset + sum(r[1] for r in reads)
    step, name = inner.terms[0]
    edge = extent_of(middle.schema, name)
    if low >= 0 and high < edge:
        return True
    last = extent_of(source.schema, inner.axis) - 1 - inner.offset
    return step == 1 and -inner.offset >= 0 and last < edge


@builtin
def compose_axes(outer: Conditions, axes: Axes, inner: Axes, right: Node) -> Axes:
    """Axes that a composed join declares: the outer's, and the inner's that it leaves free and that
    the right side does not have."""
    known = {condition.axis for condition in outer} | set(names(axes)) | set(names(right.schema))
    return (*axes, *(axis for axis in inner if axis.name not in known))


@builtin
def drop_identities(on: Conditions, source: Node, joined: Node) -> Conditions | None:
    """The conditions without those of the form ``y = y`` over equal extents. Refuses if none is."""
    if not on:
        return None
    before, after = dict(source.schema), dict(joined.schema)
    kept = tuple(c for c in on if c != equal(c.axis, c.axis) or before[c.axis] != after.get(c.axis))
    return None if kept == on else kept


@builtin
def drop_axes(axes: Axes, on: Conditions, kept: Conditions) -> Axes:
    """The declared axes without those whose conditions were dropped."""
    gone = {c.axis for c in on} - {c.axis for c in kept}
    return tuple(axis for axis in axes if axis.name not in gone)


@builtin
def affine_windows(on: Conditions, joined: Node) -> Conditions | None:
    """The conditions with ranges of equal width and regular spacing as equations.

    Refuses if there is none, as for adaptive pooling of 7 keys to 3.
    """
    if not any(isinstance(condition, Ranged) for condition in on):
        return None
    extents = dict(joined.schema)
    found: list[Condition] = []
    for condition in on:
        if isinstance(condition, Ranged):
            steps = {b - a for a, b in zip(condition.lo, condition.lo[1:], strict=False)} or {1}
            widths = {b - a for a, b in zip(condition.lo, condition.hi, strict=True)}
            if len(steps) == 1 and widths == {extents[condition.tap]}:
                terms = ((steps.pop(), condition.out), (1, condition.tap))
                found.append(Affine(condition.axis, terms, condition.lo[0]))
                continue
        found.append(condition)
    return None if tuple(found) == on else tuple(found)


@builtin
def drop_unit_taps(kernel: Node, on: Conditions, by: Names) -> Node | None:
    """The kernel without taps of one key that windows read beside another axis, and none groups by.

    Refuses if there is none.
    """
    axes = without_query(kernel.schema)
    kept = tuple(axis for axis in axes if axis.name in by or not _is_unit(axis, on))
    if kept == axes:
        return None
    return Domain(kept) if isinstance(kernel, Domain) else Rekey(kernel, names(axes), kept)


def _is_unit(axis: Axis, on: Conditions) -> bool:
    reading = [c for c in on if axis.name in c.reads]
    return (
        axis.extent == 1
        and is_tap(axis.name)
        and bool(reading)
        and all(isinstance(c, Affine) and len(c.terms) > 1 for c in reading)
    )


@builtin
def drop_terms(on: Conditions, kernel: Node, thin: Node) -> Conditions:
    """The conditions without the axes that ``kernel`` has and ``thin`` lacks."""
    gone = set(names(kernel.schema)) - set(names(thin.schema))
    return tuple(
        Affine(c.axis, tuple(t for t in c.terms if t[1] not in gone), c.offset, c.scale)
        if isinstance(c, Affine)
        else c
        for c in on
    )


@builtin
def rebind(scale: Node, source: Node, kernel: Node, on: Conditions) -> Node | None:
    """A relation over axes of a join's left side, over the kernel's axes that meet them.

    Refuses unless every axis of ``scale`` is bound by a plain equality with an axis of the kernel,
    or shared with it by name.
    """
    bound = {condition.axis: condition for condition in on}
    weights = dict(without_query(kernel.schema))
    found: list[Axis] = []
    for axis in without_query(scale.schema):
        condition = bound.get(axis.name, equal(axis.name, axis.name))
        if not isinstance(condition, Affine) or len(condition.terms) != 1:
            return None
        to = condition.terms[0][1]
        extents = {axis.extent, weights.get(to), dict(source.schema).get(axis.name)}
        if condition != equal(axis.name, to) or len(extents) > 1:
            return None
        found.append(Axis(to, axis.extent))
    if tuple(found) == without_query(scale.schema):
        return scale
    return Rekey(scale, names(without_query(scale.schema)), tuple(found))


@builtin
def unflatten_kernel(
    kernel: Node, source: Node, order: Names, flat: Axes, on: Conditions
) -> Node | None:
    """The kernel of a linear layer with its input axis split as the axes that were flattened.

    Positions become taps of the same name after a ``k``; the feature takes the kernel's name for
    its input. Refuses where more than one axis came out of the flattening, or a name is taken.
    """
    if len(flat) != 1 or len(on) != 1:
        return None
    taps = _taps(kernel, source, order, flat[0].name, on[0])
    if taps is None:
        return None
    axes: list[Axis] = []
    for axis in without_query(kernel.schema):
        axes.extend(taps if axis.name == on[0].reads[0] else (axis,))
    if len({axis.name for axis in axes}) < len(axes):
        return None
    return Rekey(kernel, names(without_query(kernel.schema)), tuple(axes))


def _taps(
    kernel: Node, source: Node, order: Names, flat: str, condition: Condition
) -> tuple[Axis, ...] | None:
    if len(condition.reads) != 1 or condition != equal(flat, condition.reads[0]):
        return None
    inner = condition.reads[0]
    if dict(kernel.schema).get(inner) != size(without_query(source.schema)):
        return None
    extents = dict(source.schema)
    taps = [Axis(_tap_name(name, inner), extents[name]) for name in order]
    return tuple(taps) if len({tap.name for tap in taps}) == len(taps) else None


def _tap_name(name: str, inner: str) -> str:
    return f"k{name}" if is_position(name) else inner


@builtin
def unflatten_conditions(order: Names, on: Conditions) -> Conditions:
    """The equations that bind each axis that was flattened to the kernel's axis for it."""
    return tuple(equal(name, _tap_name(name, on[0].reads[0])) for name in order)


@builtin
def is_pointwise(
    on: Conditions, kernel: Node, window: Conditions, taps: Node, source: Node, by: Names
) -> bool:
    """Whether a sum of products mixes features alone, so that it commutes with a window.

    The conditions bind other axes than the window does, as plain equalities with axes of the
    kernel; the kernel has none of the window's axes; the taps have none of the kernel's and none of
    the source's, which the window reads; and the axes of the window are grouped by.
    """
    own = set(names(kernel.schema))
    if set(names(taps.schema)) & (own | set(names(source.schema))):
        return False
    windowed = {c.axis for c in window}
    read = {name for c in window for name in c.reads}
    if own & (windowed | read) or not windowed <= set(by) or not windowed <= read:
        return False
    return all(
        isinstance(c, Affine)
        and len(c.terms) == 1
        and c == equal(c.axis, c.terms[0][1])
        and c.terms[0][1] in own
        and c.axis not in windowed
        for c in on
    )


@builtin
def mixes_all(on: Conditions, kernel: Node, source: Node, by: Names) -> bool:
    """Whether every tuple of a kernel meets one tuple of a total source for each key of the result.

    The conditions are plain equalities of axes of one extent: no window, which may reach beyond the
    edge. The axes of the source that they leave free, and the kernel lacks, are grouped by.
    """
    weights, own = dict(kernel.schema), dict(without_query(source.schema))
    return set(own) - {c.axis for c in on} - set(weights) <= set(by) and all(
        isinstance(c, Affine)
        and len(c.terms) == 1
        and c == equal(c.axis, c.terms[0][1])
        and weights.get(c.terms[0][1]) == own[c.axis]
        for c in on
    )


@builtin
def has_taps(node: Node) -> bool:
    """Whether an axis of the node counts the taps of a window, as below the Group of a window."""
    return any(is_tap(axis.name) for axis in node.schema)


@builtin
def keeps_axes(node: Node, on: Conditions, by: Names) -> bool:
    """Whether no axis of the node is bound by the conditions, and all are grouped by."""
    own = set(names(without_query(node.schema)))
    return own <= set(by) and not own & {condition.axis for condition in on}


@builtin
def window_members(window: Conditions, source: Node, joined: Node, by: Names) -> int | None:
    """Number of tuples in each group of a window over a total relation.

    Refuses where a window reaches beyond the edge, so that groups differ in size.
    """
    extents = dict(without_query(joined.schema))
    for condition in window:
        if not isinstance(condition, Affine) or condition.scale != 1:
            return None
        low, high = reach(condition, extents)
        if low < 0 or high >= extent_of(source.schema, condition.axis):
            return None
    return size(tuple(a for a in without_query(joined.schema) if a.name not in by))


@builtin
def commuting_pays(
    source: Node, pooled: Node, taps: Node, kernel: Node, result: Node, window: Conditions
) -> bool:
    """Whether a pointwise layer before the window takes fewer operations than after it.

    Counted are the multiplications of the layer and the additions of the window, in both orders:
    fewer output features make the window cheaper, a stride makes the layer dearer.
    """
    moved = {condition.axis for condition in window}
    before = size(tuple(a for a in without_query(source.schema) if a.name in moved))
    after = size(tuple(a for a in without_query(pooled.schema) if a.name in moved))
    reads, weights = size(taps.schema), size(kernel.schema)
    now = reads * size(pooled.schema) + weights * after
    return weights * before + reads * size(result.schema) < now

"""What a join-and-group does, sorted by role: positions, taps, and features.

The planner, the physical rules and the row engine all ask the same questions of
``Group(Join(left, right, on, axes), by)``: which output axes are rows, which axes are taps of a
window, which features are contracted. This module answers them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from kqo.errors import PlanError
from kqo.ir.equations import Affine, Condition, Ranged, equal
from kqo.ir.lazy import kept
from kqo.ir.nodes import Domain, Group, Join, Node, Physical
from kqo.ir.schema import Axes, Axis, features, is_position, names, positions, size, without_query


@dataclass(frozen=True, slots=True)
class Window:
    """The roles of the axes of a join-and-group.

    Attributes:
        rows: output position axes.
        reads: for each position axis of the left relation, in its order, the condition that binds
        it;
            an axis that is not bound is read at its own name.
        taps: axes that are aggregated away and that ``reads`` mention, in the join's order.
        columns: output feature axes.
        left_features: feature axes of the left relation.
        feature_on: conditions that bind feature axes of the left relation, by axis.
        summed: feature axes of the join that are aggregated away.
        kept: axes among the columns that ``reads`` mention: taps that are not aggregated away.
        plain: whether the columns of one row can be computed from rows of the left relation.
        ok: whether, beside that, every column reads the same rows (no position is bound by a
            feature).
    """

    rows: Axes
    reads: tuple[tuple[str, Condition], ...]
    taps: Axes
    columns: Axes
    left_features: Axes
    feature_on: tuple[tuple[str, Condition], ...]
    summed: Axes
    kept: Axes
    plain: bool

    @property
    def ok(self) -> bool:
        """Whether every column of a row reads the same rows."""
        return self.plain and not self.kept

    @property
    def tap_count(self) -> int:
        """Number of taps: rows of the left relation that one output row reads."""
        return size(self.taps)

    @property
    def pointwise(self) -> bool:
        """Whether every output row reads the left row at its own position, and no other."""
        return all(c == equal(a, a) for a, c in self.reads) and names(self.rows) == tuple(
            a for a, _ in self.reads
        )


@lru_cache(maxsize=8192)
def window_of(
    left: Node, right: Node, on: tuple[Condition, ...], axes: Axes, by: tuple[str, ...]
) -> Window:
    """Sort the axes of ``Group(Join(left, right, on, axes, ...), by, ...)`` by role."""
    joined = without_query(Join(left, right, on, axes, "mul").schema)
    extents = dict(joined)
    source = without_query(left.schema)
    bound = {c.axis: c for c in on}
    reads: list[tuple[str, Condition]] = []
    mentioned: set[str] = set()
    plain = True
    for axis in positions(source):
        condition = bound.get(axis.name, equal(axis.name, axis.name))
        reads.append((axis.name, condition))
        mentioned.update(condition.reads)
    rows = tuple((a, extents[a]) for a in by if is_position(a))
    taps = tuple(a for a in joined if a.name in mentioned and a.name not in by)
    columns = tuple(a for a in joined if a.name in by and not is_position(a.name))
    columns = tuple(sorted(columns, key=lambda a: by.index(a.name)))
    kept = tuple(a for a in columns if a.name in mentioned)
    feature_on = tuple((a.name, bound[a.name]) for a in features(source) if a.name in bound)
    for _, condition in feature_on:
        if any(is_position(n) for n in condition.reads):
            plain = False
    gone = {a.name for a in taps}
    summed = tuple(
        a for a in joined if a.name not in by and a.name not in gone and not is_position(a.name)
    )
    stray = [a for a in joined if a.name not in by and a.name not in gone and is_position(a.name)]
    if stray:
        plain = False
    return Window(
        tuple(Axis(*r) for r in rows),
        tuple(reads),
        taps,
        columns,
        features(source),
        feature_on,
        summed,
        kept,
        plain,
    )


@kept
def roles(node: Node) -> Window:
    """The window of a Group, over a Join or not, of a bare Join, or of a Physical node."""
    if isinstance(node, Physical):
        if node.agg:
            return window_of(node.input, node.weight, node.on, node.axes, node.by)
        known = {*names(node.input.schema), *names(node.weight.schema)}
        new = tuple(axis for axis in node.axes if axis.name not in known)  # of an operand
        return window_of(node.input, node.weight, node.on, new, names(node.axes))
    if isinstance(node, Group):
        if isinstance(node.input, Join):
            j = node.input
            return window_of(j.left, j.right, j.on, j.axes, node.by)
        return window_of(node.input, Domain(()), (), (), node.by)
    if isinstance(node, Join):
        by = names(without_query(node.schema))
        return window_of(node.left, node.right, node.on, node.axes, by)
    # Rekey, Union and Map have no window; their own axes may be others than the input's.
    by = names(without_query(node.inputs[0].schema))
    return window_of(node.inputs[0], Domain(()), (), (), by)


def reach(condition: Affine, extents: Mapping[str, int | None]) -> tuple[int, int]:
    """The least and the largest of what a condition's right side is, over axes of these extents."""
    ends = [sorted((0, c * ((extents[name] or 1) - 1))) for c, name in condition.terms]
    low, high = (condition.offset + sum(end[i] for end in ends) for i in (0, 1))
    return low, high


def always_finds(join: Join) -> bool:
    """Whether the conditions of a join bind only keys that the left relation has."""
    extents, source = dict(join.schema), dict(join.left.schema)
    for condition in join.on:
        extent = source[condition.axis] or 1
        if isinstance(condition, Ranged):
            taps = extents[condition.tap] or 1
            pairs = zip(condition.lo, condition.hi, strict=True)
            if any(lo < 0 or lo + taps > min(hi, extent) for lo, hi in pairs):
                return False
            continue
        low, high = reach(condition, extents)
        if condition.scale != 1 or low < 0 or high >= extent:
            return False
    return True


def is_contraction(window: Window, right: Node) -> bool:
    """Whether a sum of products is one matrix product per tap: every feature of the left is summed,
    every output feature comes from the right, and the right has a weight for each tap, and no
    positions of its own."""
    if not window.ok or positions(right.schema):
        return False
    out = set(names(window.columns))
    right_axes = dict(right.schema)
    if not out <= right_axes.keys():
        return False
    bound = dict(window.feature_on)
    for axis in window.left_features:
        condition = bound.get(axis.name)
        if condition is None:
            if axis.name in out or axis.name not in right_axes:
                return False
        elif not (
            isinstance(condition, Affine)
            and condition == equal(axis.name, condition.terms[0][1] if condition.terms else "")
            and condition.terms[0][1] not in out
            # Features that the right lacks would be columns that its rows do not have.
            and right_axes.get(condition.terms[0][1]) == axis.extent
        ):
            return False
    wanted = out | set(names(window.taps)) | set(contracted(window))
    return right_axes.keys() == wanted and set(names(window.summed)) <= set(contracted(window))


def contracted(window: Window) -> tuple[str, ...]:
    """For a contraction: the right's name for each feature axis of the left, in its order."""
    bound = dict(window.feature_on)
    return tuple(
        bound[a.name].reads[0] if a.name in bound else a.name for a in window.left_features
    )


def is_depthwise(window: Window, right: Node) -> bool:
    """Whether features pass through: columns out are the columns in, and the right has at most
    features of the left and taps (a domain of taps, or one filter per channel)."""
    if not window.ok or window.feature_on or window.summed or positions(right.schema):
        return False
    own = names(window.left_features)
    if names(window.columns) != own:
        return False
    return set(names(right.schema)) <= set(own) | set(names(window.taps))


def tiling(window: Window, tile: int) -> tuple[tuple[int, int], ...]:
    """For each row axis the outputs of a Winograd tile along it, and the taps of the window.

    An axis without a window, or with one of one tap, has tiles of one output and one tap. Empty
    where the window is not one that Winograd's method takes: stride and dilation 1, rows in the
    order of the left relation's positions.
    """
    sizes = dict(window.taps)
    if tuple(a for a, _ in window.reads) != names(window.rows):
        return ()
    found: list[tuple[int, int]] = []
    seen: list[str] = []
    for axis, condition in window.reads:
        if condition == equal(axis, axis):
            found.append((1, 1))
            continue
        if isinstance(condition, Ranged) or condition.scale != 1 or len(condition.terms) != 2:
            return ()
        (one, out), (dilation, tap) = condition.terms
        if one != 1 or dilation != 1 or out != axis or tap not in sizes:
            return ()
        taps = sizes[tap] or 1
        found.append((tile, taps) if taps > 1 else (1, 1))
        seen.append(tap)
    wide = any(taps > 1 for _, taps in found)
    return tuple(found) if tuple(seen) == names(window.taps) and wide else ()


def steps_of(window: Window) -> tuple[tuple[int, int, int], ...] | None:
    """Stride, dilation and taps along each axis; None where axes have no taps of their own."""
    rows = names(window.rows)
    if len(window.taps) != len(rows) or len(window.reads) != len(rows):
        return None
    found = []
    for axis, tap, (bound, condition) in zip(rows, window.taps, window.reads, strict=True):
        if not isinstance(condition, Affine) or condition.scale != 1 or bound != axis:
            return None
        if len(condition.terms) != 2 or condition.reads != (axis, tap.name):
            return None
        (stride, _), (dilation, _) = condition.terms
        if stride < 1 or dilation < 1:
            return None
        found.append((stride, dilation, tap.extent or 0))
    return tuple(found)


class Grouping(NamedTuple):
    """A sum of products within groups of features: each group of columns reads its own features.

    Attributes:
        group: the right's axis of groups.
        column: its axis of a group's columns.
        inner: its axis of a group's features.
    """

    group: Axis
    column: Axis
    inner: Axis


def grouping(window: Window, right: Node) -> Grouping | None:
    """The groups of a sum of products with ``c = n*g + i``; None for any other."""
    single = len(window.left_features) == len(window.feature_on) == len(window.summed) == 1
    if not (window.ok and single and len(window.columns) == 2):
        return None
    (group, column), (inner,), (left,) = window.columns, window.summed, window.left_features
    wanted = Affine(left.name, ((inner.extent or 1, group.name), (1, inner.name)), 0, 1)
    own = {group.name, column.name, inner.name, *names(window.taps)}
    if window.feature_on[0][1] != wanted or set(names(right.schema)) != own:
        return None
    whole = (group.extent or 1) * (inner.extent or 1) == left.extent
    return Grouping(group, column, inner) if whole else None


FEWEST_INNER = 16
"""Features that a product over part of the features has at least."""


def group_products(window: Window, right: Node) -> int:
    """Into how many products a sum of products within groups of features is cut."""
    found = grouping(window, right)
    if found is None:
        raise PlanError("a sum of products that is not within groups of features")
    return (found.group.extent or 1) // merged_groups(found)


def merged_groups(found: Grouping) -> int:
    """How many neighbouring groups one product computes, with zeros in place of the weights between
    groups: a product over few features costs more than one with zeros in it."""
    groups, inner = found.group.extent or 1, found.inner.extent or 1
    wanted = -(-FEWEST_INNER // inner)
    return next((n for n in range(wanted, groups) if groups % n == 0), groups)

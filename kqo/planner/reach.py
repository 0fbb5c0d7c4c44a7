"""Which part of the input a row depends on: the receptive field of each stored relation.

Along each axis the row at position p depends on the input from ``stride * p + lo`` to
``stride * p + hi``, both inclusive. Where that is known, rows of different queries that see the
same part of the changed box are equal (:mod:`kqo.planner.distinct`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kqo.ir.equations import Affine
from kqo.ir.nodes import Join, Overlay, Physical
from kqo.ir.schema import Axes, names, positions
from kqo.ir.window import Window, roles
from kqo.planner.physical import PhysicalPlan, Step


@dataclass(frozen=True, slots=True)
class Along:
    """The receptive field along one position axis of a relation.

    Attributes:
        axis: position axis of the input.
        stride: positions of the input from one row to the next.
        lo: first position that row 0 depends on.
        hi: last one.
        first: rows from here on read no padding, and neither do the rows that they read.
        end: up to here, exclusive.
    """

    axis: str
    stride: int
    lo: int
    hi: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Reach:
    """The receptive field of a relation's rows.

    Attributes:
        features: feature axes of the base relation that changes.
        along: by position axis, in the relation's order.
        uniform: whether rows that read equal rows are equal wherever they lie: of windows that lie
            wholly inside what a constant fills, they all are.
    """

    features: Axes
    along: tuple[Along, ...]
    uniform: bool


def reaches(plan: PhysicalPlan) -> dict[int, Reach]:
    """The receptive field of each table with delta rows for which it is known, by table."""
    found: dict[int, Reach] = {}
    if len(plan.changing) != 1:
        return found  # what a row depends on are then several boxes
    for step in plan.steps:
        if step.delta and (made := _reach(plan, step, found)) is not None:
            found[step.table] = made
    return found


def _reach(plan: PhysicalPlan, step: Step, known: dict[int, Reach]) -> Reach | None:
    table, node = plan.tables[step.table], step.node
    if step.form == "patch" and table.id in plan.scans:
        assert isinstance(node, Overlay)
        whole = tuple(Along(a.name, 1, 0, 0, 0, a.extent or 0) for a in table.positions)
        return Reach(table.features, whole, not positions(node.patch.schema))
    if not isinstance(node, (Physical, Join)) or step.form == "additive":
        return None
    if step.sources[1] is not None or not roles(node).ok:
        return None
    moves = isinstance(node, Join) or bool(node.agg)
    own = table.positions
    parts: list[Reach] = []
    uniform = True
    for number, source in enumerate(step.sources):
        if source is None:
            continue
        about = plan.tables[source]
        if about.region is None:  # the same for all queries, but not at all positions
            uniform = uniform and not about.positions
            continue
        reach = known.get(source)
        if reach is None:
            return None
        if number == 0 and moves:
            reach = _through(roles(node), reach, own)
        elif about.positions != own:
            return None
        if reach is None:
            return None
        parts.append(reach)
    if not parts:
        return None
    together = _together(parts)
    return together and replace(together, uniform=together.uniform and uniform)


def _through(window: Window, source: Reach, own: Axes) -> Reach | None:
    """The field of rows that read a window of rows of which it is known."""
    extents = dict(window.taps)
    rows = dict(own)
    found: dict[str, Along] = {}
    for (_, condition), below in zip(window.reads, source.along, strict=True):
        if not isinstance(condition, Affine) or condition.scale != 1:
            return None
        out = [(c, n) for c, n in condition.terms if n in rows]
        taps = [(c, n) for c, n in condition.terms if n not in rows]
        if len(out) != 1 or out[0][0] < 1 or any(n not in extents for _, n in taps):
            return None
        (step, name), ends = out[0], [c * ((extents[n] or 1) - 1) for c, n in taps]
        lo = condition.offset + sum(min(0, end) for end in ends)
        hi = condition.offset + sum(max(0, end) for end in ends)
        if name in found:
            return None
        found[name] = Along(
            below.axis,
            below.stride * step,
            below.stride * lo + below.lo,
            below.stride * hi + below.hi,
            max(0, -((lo - below.first) // step)),
            min(rows[name] or 0, (below.end - 1 - hi) // step + 1),
        )
    if found.keys() != set(names(own)):
        return None
    return Reach(source.features, tuple(found[name] for name in names(own)), source.uniform)


def _together(parts: Sequence[Reach]) -> Reach | None:
    """The field of rows that depend on all of several fields."""
    along: list[Along] = []
    for each in zip(*(part.along for part in parts), strict=True):
        if len({(a.axis, a.stride) for a in each}) != 1:
            return None
        first = each[0]
        along.append(
            replace(
                first,
                lo=min(a.lo for a in each),
                hi=max(a.hi for a in each),
                first=max(a.first for a in each),
                end=min(a.end for a in each),
            )
        )
    return Reach(parts[0].features, tuple(along), all(part.uniform for part in parts))

"""Regions that are cut while a plan runs, to what changed by more than a threshold.

A step whose relation has such a region computes the rows of the region that holds it. Their
distance from the rows of the view is then measured, each query's rows outside of the smallest box
around those that changed enough are dropped, and the regions of all relations behind follow from
the boxes that are left, batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.bind import bind
from kqo.ir.boxes import Boxes, project
from kqo.ir.region import Region as SymbolicRegion
from kqo.ir.region import Shrink, shrinks, walk_regions
from kqo.ir.schema import Axes, names
from kqo.planner.physical import PhysicalPlan, Table
from kqo.planner.shrink import measured
from kqo.runtime.bind import Binder, natural_reads, row_blocks
from kqo.runtime.rows import PADDING_ROWS, ZERO, Ints, Region, Source
from kqo.runtime.workspace import Workspace

Values = NDArray[Any]
Key = tuple[SymbolicRegion, Axes]


@dataclass(frozen=True)
class Shrinking:
    """What is measured in a plan, and what follows from it.

    Attributes:
        plan: the physical plan.
        measured: by the number of the step behind which it is measured, the region that is cut.
        tables: those whose rows are known only then.
        fixed: regions without such a part that these are made of.
    """

    plan: PhysicalPlan
    measured: Mapping[int, Shrink]
    tables: frozenset[int]
    fixed: tuple[SymbolicRegion, ...]

    def limits(self, buffers: list[Values]) -> dict[int, float]:
        """By step, the squared length up to which the change of a row does not count.

        Args:
            buffers: the tables' rows, by table, with the views of an input.
        """
        found = {}
        for number, region in self.measured.items():
            table = self.plan.tables[self.plan.steps[number].table]
            view = buffers[table.id][PADDING_ROWS : PADDING_ROWS + table.rows]
            variance = float(np.var(view, dtype=np.float64))
            found[number] = region.threshold**2 * variance * table.columns
        return found


def shrinking_of(plan: PhysicalPlan) -> Shrinking | None:
    """What is to be measured in a plan; None where nothing is."""
    found = measured(plan)
    if not found:
        return None

    def moves(region: SymbolicRegion | None) -> bool:
        return region is not None and bool(shrinks(region))

    tables = [t for t in plan.tables if t.rows > 1 and moves(t.region)]
    fixed: dict[SymbolicRegion, None] = {}
    for region in walk_regions(*(t.region for t in tables if t.region is not None)):
        if moves(region):
            fixed.update(dict.fromkeys(part for part in region.parts if not moves(part)))
    return Shrinking(plan, found, frozenset(t.id for t in tables), tuple(fixed))


@dataclass(eq=False)
class Moving:
    """The regions of one batch that are known only when it runs.

    Attributes:
        about: what is measured.
        changed: the region relations of the batch's queries.
        regions: rows by table, those that are known before the run among them; filled in.
        before: the same of the batch before: objects that are kept where rows are the same.
        known: boxes of regions, those of :attr:`Shrinking.fixed` among them; filled in.
    """

    about: Shrinking
    changed: Mapping[str, Boxes]
    regions: dict[int, Region]
    before: Mapping[int, Region]
    known: dict[SymbolicRegion, Boxes]
    _shared: dict[Key, Region] = field(default_factory=dict)

    def out(self, number: int, last: Region | None) -> Region:
        """The rows that a step computes; the object ``last`` where those are its."""
        table = self.about.plan.tables[self.about.plan.steps[number].table]
        if number in self.about.measured:
            return self._bound(self.about.measured[number].of, table.positions, last)
        if table.id not in self.regions:
            assert table.region is not None
            key = (table.region, table.positions)
            if key not in self._shared:
                before = self.before.get(table.id)
                self._shared[key] = self._bound(table.region, table.positions, before)
            self.regions[table.id] = self._shared[key]
        return self.regions[table.id]

    def _bound(self, region: SymbolicRegion, own: Axes, last: Region | None) -> Region:
        boxes = bind(region, self.changed, self.known)
        return _kept_object(Region(own, project(boxes, names(own))), last)

    def measure(
        self,
        number: int,
        outs: Mapping[int, Region],
        binder: Binder,
        views: Values,
        most: float,
        workspace: Workspace,
    ) -> None:
        """Drop the rows that hardly changed, and note which are left.

        Args:
            number: of the step that has just run.
            outs: rows that steps computed, by step.
            binder: of the batch, where the rows lie.
            views: the table's view rows.
            most: squared length up to which a change does not count.
            workspace: scratch.
        """
        table = self.about.plan.tables[self.about.plan.steps[number].table]
        region, slot = outs[number], binder.slots[table.id]
        rows = binder.buffers[table.id][slot : slot + region.count]
        kept = _kept(table, region, binder, views, rows, most, workspace)
        lo, hi = _hull(region, kept)
        inside = np.ones(region.count, dtype=np.bool_)
        for axis, coordinate in enumerate(region.coordinates):
            inside &= coordinate >= lo[region.query, axis]
            inside &= coordinate < hi[region.query, axis]
        left = np.flatnonzero(inside)
        shrunk = self.about.measured[number]
        cells = bind(shrunk.of, self.changed, self.known)
        if len(left) < region.count:
            for a, z in row_blocks(len(left), table.columns * rows.itemsize):
                block = workspace.array("x", (z - a, table.columns))
                # Rows only move to the front: what a block overwrites no later one reads.
                np.take(rows, left[a:z], axis=0, out=block, mode="clip")
                rows[a:z] = block
            own = names(region.positions)
            region = Region(region.positions, _cut(region.boxes, own, lo, hi))
            cells = _cut(cells, own, lo, hi)
        region = _kept_object(region, self.before.get(table.id))
        self._shared[shrunk, table.positions] = self.regions[table.id] = region
        self.known[shrunk] = cells


def _kept_object(made: Region, last: Region | None) -> Region:
    """What was there before where it has the same rows: steps then stay bound to it."""
    return last if last is not None and last.same_rows(made) else made


def _kept(
    table: Table,
    region: Region,
    binder: Binder,
    views: Values,
    rows: Values,
    most: float,
    workspace: Workspace,
) -> NDArray[np.bool_]:
    """Which rows changed by more than a squared length, or by what is not a number."""
    source = Source(table.positions, PADDING_ROWS, None, 0)
    reads = natural_reads(table.positions)
    old = binder.templates.lookup(region.points, source, reads, (), ZERO)[:, 0]
    squares = np.empty(region.count, dtype=rows.dtype)
    for a, z in row_blocks(region.count, table.columns * rows.itemsize):
        change = workspace.array("x", (z - a, table.columns))
        np.take(views, old[a:z], axis=0, out=change, mode="clip")
        np.subtract(rows[a:z], change, out=change)
        np.einsum("ij,ij->i", change, change, out=squares[a:z])
    return np.asarray(~(squares <= most))


def _hull(region: Region, kept: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The smallest box around the rows of each query that are kept: lo and hi (queries, axes)."""
    at = np.flatnonzero(kept)
    query = region.query[at]
    lo = np.zeros((region.boxes.queries, len(region.positions)), dtype=np.int64)
    hi = np.zeros_like(lo)
    if len(at):
        starts = np.flatnonzero(np.diff(query, prepend=-1))
        for axis, coordinate in enumerate(region.coordinates):
            lo[query[starts], axis] = np.minimum.reduceat(coordinate[at], starts)
            hi[query[starts], axis] = np.maximum.reduceat(coordinate[at], starts) + 1
    return lo, hi


def _cut(boxes: Boxes, axes: tuple[str, ...], lo: Ints, hi: Ints) -> Boxes:
    """The boxes within one box per query over some of their axes; of features none is gained."""
    at = [boxes.axes.index(name) for name in axes]
    low, high = boxes.lo.copy(), boxes.hi.copy()
    low[:, :, at] = np.maximum(low[:, :, at], lo[:, None])
    high[:, :, at] = np.minimum(high[:, :, at], hi[:, None])
    some = (high > low).all(axis=2, keepdims=True)
    return Boxes(boxes.axes, np.where(some, low, 0), np.where(some, high, 0))


def together(regions: Iterable[Region]) -> Region:
    """The rows of several batches, one after the other."""
    several = list(regions)
    most = max(r.boxes.lo.shape[1] for r in several)

    def joined(side: str) -> Ints:
        sides = [getattr(r.boxes, side) for r in several]
        padded = [np.pad(s, ((0, 0), (0, most - s.shape[1]), (0, 0))) for s in sides]
        return np.concatenate(padded)

    first = several[0]
    return Region(first.positions, Boxes(first.boxes.axes, joined("lo"), joined("hi")))

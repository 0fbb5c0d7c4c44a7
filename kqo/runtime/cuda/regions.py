"""Region tables for a device: which rows each query has, as integers that kernels read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kqo.emit.cuda_program import Delta, Shapes
from kqo.ir.bind import Known, bind
from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Overlay
from kqo.ir.schema import Axes, names, shape
from kqo.planner.physical import PhysicalPlan

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RegionTable:
    """The delta rows of one or several tables, over all queries.

    Attributes:
        positions: position axes.
        boxes: boxes of each query over them.
    """

    positions: Axes
    boxes: Boxes

    @property
    def many(self) -> int:
        """Boxes per query."""
        return int(self.boxes.lo.shape[1])

    @cached_property
    def extents(self) -> Ints:
        """Extent of each box, 0 along all axes where it is empty; (queries, boxes, axes)."""
        found = np.maximum(self.boxes.hi - self.boxes.lo, 0)
        return np.asarray(np.where(found.prod(axis=2, keepdims=True) > 0, found, 0))

    @cached_property
    def whole(self) -> bool:
        """Whether every query has every position, in one box."""
        if self.many != 1:
            return False
        full = np.array(shape(self.positions), dtype=np.int64)
        return bool((self.boxes.lo == 0).all() and (self.boxes.hi[:, 0] == full).all())

    @cached_property
    def rows(self) -> Ints:
        """Rows of each box, (queries, boxes)."""
        return np.asarray(self.extents.prod(axis=2))

    def tiles(self, outputs: tuple[int, int]) -> Ints:
        """Tiles of each box, (queries, boxes), each of so many outputs along two axes."""
        return np.asarray((-(-self.extents // np.array(outputs))).prod(axis=2))

    def table(self, counts: Ints, batch: int) -> NDArray[np.int32]:
        """What kernels read: lo, extents, and the first row (or tile) of each box within its batch.

        Args:
            counts: rows or tiles of each box.
            batch: queries per batch.

        Returns:
            (queries, boxes, 2 * axes + 1).
        """
        starts = _starts(counts, batch)[:, :, None]
        parts = (self.boxes.lo, self.extents, starts)
        return np.concatenate(parts, axis=2).astype(np.int32)


def _starts(counts: Ints, batch: int) -> Ints:
    """First item of each box, counted from its batch's first."""
    found = np.empty_like(counts)
    for a in range(0, len(counts), batch):
        part = counts[a : a + batch].ravel()
        found[a : a + batch] = (np.cumsum(part) - part).reshape(-1, counts.shape[1])
    return found


def per_batch(counts: Ints, batch: int) -> Ints:
    """Items of each batch, from items of each box."""
    ends = np.add.reduceat(counts.sum(axis=1), np.arange(0, len(counts), batch))
    return np.asarray(ends, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a plan, shared by tables with equal rows.

    Attributes:
        tables: distinct regions.
        of: the region's number, by table of the plan.
        changed: by number of a patch step, the boxes that it changes.
    """

    tables: tuple[RegionTable, ...]
    of: Mapping[int, int]
    changed: Mapping[int, Boxes]

    @property
    def shapes(self) -> Shapes:
        """What kernels are specialised on."""
        deltas = {
            table: Delta(r, self.tables[r].many, self.tables[r].whole)
            for table, r in self.of.items()
        }
        changed = {n: (b.axes, int(b.lo.shape[1])) for n, b in self.changed.items()}
        return Shapes(deltas, changed)


def bind_regions(plan: PhysicalPlan, changed: Mapping[str, Boxes]) -> Regions:
    """Evaluate the regions of a plan's tables.

    Args:
        plan: the physical plan.
        changed: the region relation of each base relation, over the axes of its Scan.
    """
    known = Known()
    tables: list[RegionTable] = []
    seen: dict[tuple[object, ...], int] = {}
    of: dict[int, int] = {}
    for table in plan.tables:
        if table.region is None:
            continue
        own = names(table.positions)
        boxes = known.project(bind(table.region, changed, known), own)
        key = (table.positions, boxes.lo.shape, boxes.lo.tobytes(), boxes.hi.tobytes())
        if key not in seen:
            seen[key] = len(tables)
            tables.append(RegionTable(table.positions, boxes))
        of[table.id] = seen[key]
    patches = {
        number: bind(step.node.at, changed, known)
        for number, step in enumerate(plan.steps)
        if step.form == "patch" and isinstance(step.node, Overlay)
    }
    return Regions(tuple(tables), of, patches)


def changed_table(boxes: Boxes) -> NDArray[np.int32]:
    """Lo and hi of the boxes that a patch changes, (queries, boxes, 2 * axes)."""
    return np.concatenate([boxes.lo, boxes.hi], axis=2).astype(np.int32)

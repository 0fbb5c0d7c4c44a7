"""Row numbers: binding the joins of a plan to positions.

A relation is stored as a matrix of rows, one per position, one column per feature:

    [padding rows | view rows | delta rows of worker 0 | delta rows of worker 1 | ...]

Row :data:`ZERO` holds zeros and row :data:`LOWEST` minus infinity (row :data:`HIGHEST` infinity),
for keys that find no partner. View rows hold the materialized view, position by position in row-
major order. Delta rows are ragged: for each query of a batch the positions of its region, box after
box. A join with a window is then a list of row numbers, which this module computes from the region
table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.ir.boxes import Boxes
from kqo.ir.equations import Affine, Condition
from kqo.ir.schema import Axes, names, shape
from kqo.runtime.extents import cached_when_small

Ints = NDArray[np.int64]
Key = tuple[Ints, NDArray[np.bool_] | None]
"""Keys along one axis, and which of them are missing all the same (None where none are)."""
ZERO, LOWEST, HIGHEST = 0, 1, 2
PADDING_ROWS = 3
IDENTITY_ROW = {"sum": ZERO, "mean": ZERO, "": ZERO, "max": LOWEST, "min": HIGHEST}


@dataclass(frozen=True, eq=False)
class Grid:
    """Points of each query that make up one grid, query after query, row-major.

    Attributes:
        lo: first point of each query, shape (queries, axes).
        extent: from the first point to the last, and 1, shape (queries, axes).
        counts: points of each query, shape (queries,).
        spacing: distance between points along each axis.
    """

    lo: Ints
    extent: Ints
    counts: Ints
    spacing: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Points:
    """Output positions that read: rows, or origins of tiles.

    Attributes:
        positions: position axes.
        query: query of each point, shape (points,).
        coordinates: position along each axis, arrays of shape (points,).
        grid: how they lie, where each query's make up one grid.
    """

    positions: Axes
    query: Ints
    coordinates: tuple[Ints, ...]
    grid: Grid | None = None

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.query)


def joined(several: tuple[Points, ...]) -> Points:
    """The points of several, one after the other."""
    return Points(
        several[0].positions,
        np.concatenate([points.query for points in several]),
        tuple(map(np.concatenate, zip(*(points.coordinates for points in several), strict=True))),
    )


@cached_when_small
def within(extent: tuple[int, ...]) -> Ints:
    """Positions of a box that begins at 0, row-major, shape (axes, positions)."""
    found: Ints = np.indices(extent, dtype=np.int64).reshape(len(extent), math.prod(extent))
    found.flags.writeable = False
    return found


@dataclass(frozen=True, eq=False)
class Region:
    """The rows of a relation that a batch of queries has: the positions of its regions.

    Attributes:
        positions: position axes of the relation.
        boxes: disjoint boxes of each query over these axes.
    """

    positions: Axes
    boxes: Boxes

    @cached_property
    def sizes(self) -> Ints:
        """Rows of each box, shape (queries, boxes)."""
        extent = np.maximum(self.boxes.hi - self.boxes.lo, 0)
        return np.asarray(extent.prod(axis=2), dtype=np.int64)

    @cached_property
    def starts(self) -> Ints:
        """First row of each box, counted from the batch's first, shape (queries, boxes)."""
        ends = np.cumsum(self.sizes.ravel())
        return np.asarray(ends - self.sizes.ravel(), dtype=np.int64).reshape(self.sizes.shape)

    @cached_property
    def count(self) -> int:
        """Number of rows."""
        return int(self.sizes.sum())

    @cached_property
    def whole(self) -> bool:
        """Whether every query has every position, in one box."""
        if self.boxes.lo.shape[1] != 1:
            return False
        extents = np.array(shape(self.positions), dtype=np.int64)
        return bool((self.boxes.lo == 0).all() and (self.boxes.hi[:, 0] == extents).all())

    @cached_property
    def query(self) -> Ints:
        """Query of each row, shape (rows,)."""
        per_query = self.sizes.sum(axis=1)
        return np.repeat(np.arange(len(per_query)), per_query)

    @cached_property
    def coordinates(self) -> tuple[Ints, ...]:
        """Position of each row along each axis, arrays of shape (rows,)."""
        boxes, rank = self.sizes.size, len(self.positions)
        lo = self.boxes.lo.reshape(boxes, rank)
        extents = np.maximum(self.boxes.hi - self.boxes.lo, 0).reshape(boxes, rank)
        local_to = [within(tuple(extent)) for extent in extents.tolist()]
        local = np.concatenate([np.zeros((rank, 0), dtype=np.int64), *local_to], axis=1)
        local += np.repeat(lo, self.sizes.ravel(), axis=0).T
        return tuple(local)

    @cached_property
    def points(self) -> Points:
        """The rows' positions."""
        grid = None
        if self.boxes.lo.shape[1] == 1:
            lo, hi = self.boxes.lo[:, 0], self.boxes.hi[:, 0]
            grid = Grid(lo, hi - lo, self.sizes[:, 0], (1,) * len(self.positions))
        return Points(self.positions, self.query, self.coordinates, grid)

    def same_rows(self, other: Region) -> bool:
        """Whether both have the same rows in the same order."""
        return names(self.positions) == names(other.positions) and (
            self is other
            or (
                self.boxes.lo.shape == other.boxes.lo.shape
                and bool((self.boxes.lo == other.boxes.lo).all())
                and bool((self.boxes.hi == other.boxes.hi).all())
            )
        )


@dataclass(frozen=True, eq=False)
class Source:
    """Where the rows of a relation that is read lie.

    Attributes:
        positions: its position axes.
        view: row where its view begins, or -1 where it has none.
        region: which positions its delta rows cover, or None where it has none.
        slot: row where the delta rows of this worker begin.
    """

    positions: Axes
    view: int
    region: Region | None
    slot: int


def taps_of(out: Points, reads: tuple[tuple[str, Condition], ...], taps: Axes) -> list[Key]:
    """For each position axis of the left relation the key that each row and tap reads.

    Arrays broadcast to (rows, taps...); the mask marks keys that a scale does not divide or that
    lie beyond a range's end. Keys outside the relation are left for the caller to find.
    """
    rank = 1 + len(taps)
    known: dict[str, Ints] = {}
    for i, axis in enumerate(out.positions):
        known[axis.name] = out.coordinates[i].reshape((-1,) + (1,) * len(taps))
    for i, axis in enumerate(taps):
        along = [1] * rank
        along[i + 1] = axis.extent or 0
        known[axis.name] = np.arange(axis.extent or 0, dtype=np.int64).reshape(along)
    found: list[Key] = []
    for _, condition in reads:
        if isinstance(condition, Affine):
            key: Ints = np.full((1,) * rank, condition.offset, dtype=np.int64)
            for coefficient, name in condition.terms:
                key = key + coefficient * known[name] if coefficient != 1 else key + known[name]
            missing = None
            if condition.scale != 1:
                missing = key % condition.scale != 0
                key = key // condition.scale
        else:
            low = np.array(condition.lo, dtype=np.int64)[known[condition.out]]
            key = low + known[condition.tap]
            missing = key >= np.array(condition.hi, dtype=np.int64)[known[condition.out]]
        found.append((key, missing))
    return found


def lookup(
    out: Points,
    source: Source,
    reads: tuple[tuple[str, Condition], ...],
    taps: Axes,
    missing_row: int,
) -> Ints:
    """Row numbers in the source's buffer that each output row reads, shape (rows, taps).

    A key inside the query's region is a delta row, any other a view row; a key outside the relation
    is the row ``missing_row``.
    """
    return lookup_keys(out, source, taps_of(out, reads, taps), shape(taps), missing_row)


def lookup_keys(
    out: Points,
    source: Source,
    keys: list[Key],
    along: tuple[int, ...],
    missing_row: int,
) -> Ints:
    """As :func:`lookup`, for keys that are already known, broadcasting to (rows, *along)."""
    extents = shape(source.positions)
    # NumPy's loops run along the last axis: there are many rows, and few taps.
    turned = [(_rows_last(key), None if bad is None else _rows_last(bad)) for key, bad in keys]
    outside: NDArray[np.bool_] | None = None
    for (key, missing), extent in zip(turned, extents, strict=True):
        bad = (key < 0) | (key >= extent)
        if missing is not None:
            bad = bad | missing
        if bad.any():
            outside = bad if outside is None else outside | bad
    region = source.region
    rows: Ints | int = source.view
    if region is not None and region.whole:
        rows = (region.starts[:, 0] + source.slot)[out.query]
    elif region is not None and source.view < 0:
        raise PlanError("a relation without a view is read outside its delta rows")
    for i, (key, _) in enumerate(turned):
        rows = rows + key * math.prod(extents[i + 1 :])
    found: Ints = np.asarray(rows, dtype=np.int64)
    if region is not None and not region.whole:
        for box in range(region.boxes.lo.shape[1]):
            found = _overlaid(found, turned, out.query, region, box, source.slot)
    if outside is not None:
        found = np.where(outside, missing_row, found)
    full = np.broadcast_to(found, (*along, out.count)).reshape(math.prod(along), out.count)
    return np.ascontiguousarray(full.T)


def _rows_last(values: NDArray[Any]) -> NDArray[Any]:
    """Values of (rows, taps...) as (taps..., rows)."""
    return np.ascontiguousarray(values.transpose(*range(1, values.ndim), 0))


def _overlaid(
    rows: Ints, keys: list[Key], query: Ints, region: Region, box: int, slot: int
) -> Ints:
    """The row numbers, with delta rows in place of view rows in one box of each query."""
    lo = region.boxes.lo[:, box]
    width = region.boxes.hi[:, box] - lo
    inside: NDArray[np.bool_] = (region.sizes[:, box] > 0)[query]
    local: Ints = (region.starts[:, box] + slot)[query]
    for axis, (key, _) in enumerate(keys):
        offset = key - lo[query, axis]
        hit = (offset >= 0) & (offset < width[query, axis])
        inside = inside & hit
        local = local + offset * width[:, axis + 1 :].prod(axis=1)[query]
    return np.where(inside, local, rows)


def everything(positions: Axes, queries: int) -> Region:
    """All positions for each query."""
    from kqo.ir.boxes import everything as all_keys

    return Region(positions, all_keys(positions, queries))

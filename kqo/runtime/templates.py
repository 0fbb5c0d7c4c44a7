"""Row numbers of queries that look alike: computed for one of them, moved for the others.

A window that slides by the strides of the layers above reads rows that lie alike around it: the
row numbers of one query are those of another plus how far it has moved, in the view and in the
delta rows. Queries are put into classes by all that may make a difference (extents, remainders
under strides, edges in reach, where the changed rows lie); a class has one template, kept from
batch to batch.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.ir.equations import Affine, Condition
from kqo.ir.schema import Axes, names, shape
from kqo.runtime.rows import PADDING_ROWS, Grid, Ints, Points, Source, lookup

FEWEST_NUMBERS = 1 << 15
"""Below so many row numbers it costs more to find the classes than to compute the numbers."""
MOST_BYTES = 64 << 20
"""Of templates that are kept."""

Reads = tuple[tuple[str, Condition], ...]


@dataclass(frozen=True, eq=False)
class Template:
    """Row numbers of one query, less what moves with the query.

    Attributes:
        numbers: shape (points * taps,).
        common: whether most rows are delta rows; the numbers then move with these.
        others: places of rows of the other kind (view rows, or delta rows).
        missing: places of keys that have no row.
    """

    numbers: Ints
    common: bool
    others: Ints
    missing: Ints

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.numbers.nbytes + self.others.nbytes + self.missing.nbytes

    def moved(self, view: Ints, delta: Ints, missing_row: int) -> Ints:
        """Row numbers of several queries, shape (queries, points * taps).

        Args:
            view: where each query's view rows begin.
            delta: where its delta rows begin.
            missing_row: for keys that have no row.
        """
        most, rest = (delta, view) if self.common else (view, delta)
        found: Ints = self.numbers + most[:, None]
        if len(self.others):
            found[:, self.others] += (rest - most)[:, None]
        if len(self.missing):
            found[:, self.missing] = missing_row
        return found


class Templates:
    """Templates of a plan that is bound to positions. Any number of threads may use them.

    Args:
        most: bytes of those that are kept.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._kinds: dict[Any, int] = {}
        self._known: dict[tuple[int, bytes], Template] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def lookup(
        self, out: Points, source: Source, reads: Reads, taps: Axes, missing_row: int
    ) -> Ints:
        """What :func:`kqo.runtime.rows.lookup` gives, by templates where that pays."""
        grid, region = out.grid, source.region
        each = math.prod(shape(taps))
        if (
            grid is None
            or out.count * each < FEWEST_NUMBERS
            or (region is not None and region.boxes.lo.shape[1] != 1)
        ):
            return lookup(out, source, reads, taps, missing_row)
        some = np.flatnonzero(grid.counts)
        signature, moves = _signature(out.positions, grid, some, source, reads, taps)
        classes, first, of = np.unique(signature, axis=0, return_index=True, return_inverse=True)
        if 2 * len(classes) > len(some):
            return lookup(out, source, reads, taps, missing_row)
        sizes = shape(source.positions)
        strides = np.cumprod([1, *sizes[:0:-1]])[: len(sizes)][::-1]
        view = moves @ strides + source.view
        view_less = source.view < 0
        delta = np.zeros(len(some), dtype=np.int64)
        if region is not None:
            delta = region.starts[some, 0] + source.slot
        shared = (out.positions, source.positions, reads, taps, missing_row, grid.spacing)
        with self._lock:
            kind = self._kinds.setdefault((*shared, region is None, view_less), len(self._kinds))
        ends = np.cumsum(grid.counts)
        found = np.empty((out.count, each), dtype=np.int64)
        for number, one in enumerate(classes):
            members = np.flatnonzero(of.ravel() == number)
            key = (kind, one.tobytes())
            template = self._known.get(key)
            if template is None:
                at = some[first[number]]
                part = slice(int(ends[at] - grid.counts[at]), int(ends[at]))
                coordinates = tuple(c[part] for c in out.coordinates)
                points = Points(out.positions, out.query[part], coordinates)
                numbers = lookup(points, source, reads, taps, missing_row).ravel()
                begins = (int(view[first[number]]), int(delta[first[number]]))
                template = self._keep(key, _template(numbers, source, *begins))
            rows = template.moved(view[members], delta[members], missing_row)
            for row, member in zip(rows, some[members], strict=True):
                end = ends[member]
                found[end - grid.counts[member] : end].reshape(-1)[:] = row
        return found

    def _keep(self, key: tuple[int, bytes], made: Template) -> Template:
        with self._lock:
            if self._bytes + made.nbytes <= self._most and key not in self._known:
                self._known[key] = made
                self._bytes += made.nbytes
        return made


def _template(numbers: Ints, source: Source, view: int, delta: int) -> Template:
    """The template of a query with these numbers, whose rows begin at ``view`` and ``delta``."""
    missing = numbers < PADDING_ROWS
    changed = numbers >= source.slot if source.region is not None else np.zeros_like(missing)
    seen = ~changed & ~missing
    if source.view < 0 and seen.any():
        raise PlanError("a relation without a view is read outside its delta rows")
    numbers = numbers - np.where(changed, delta, np.where(missing, 0, view))
    common = bool(changed.sum() > seen.sum())
    others = np.flatnonzero(seen if common else changed)
    return Template(numbers, common, others, np.flatnonzero(missing))


def _signature(
    positions: Axes, grid: Grid, some: Ints, source: Source, reads: Reads, taps: Axes
) -> tuple[Ints, Ints]:
    """What row numbers depend on, for some queries, but for how far they have moved.

    Returns:
        an array (queries, ...) of equal rows for queries that look alike, and how far the keys of
        each have moved along each position axis of the source, (queries, axes).
    """
    lo, extent = grid.lo[some], grid.extent[some]
    where = {name: i for i, name in enumerate(names(positions))}
    widths = dict(taps)
    found = [extent]
    moves = np.zeros((len(some), len(reads)), dtype=np.int64)
    for i, (_, condition) in enumerate(reads):
        limit = shape(source.positions)[i]
        if not isinstance(condition, Affine):
            found.append(lo[:, [where[condition.out]]])
            continue
        base = np.full(len(some), condition.offset, dtype=np.int64)
        reach = np.ones(len(some), dtype=np.int64)
        for coefficient, name in condition.terms:
            if name in where:
                base = base + coefficient * lo[:, where[name]]
                reach = reach + abs(coefficient) * extent[:, where[name]]
            else:
                reach = reach + abs(coefficient) * (widths[name] or 1)
        move, remainder = np.divmod(base, condition.scale)
        moves[:, i] = move
        edges = (np.clip(-move, -reach, reach), np.clip(limit - move, -reach, reach))
        found.append(np.stack((remainder, *edges), axis=1))
    region: NDArray[Any] | None = None
    if source.region is not None:
        boxes = source.region.boxes
        low, high = boxes.lo[some, 0], boxes.hi[some, 0]
        filled = (high > low).all(axis=1, keepdims=True)
        region = np.concatenate([low - moves, high - low], axis=1) * filled
        found += [region, filled.astype(np.int64)]
    return np.concatenate(found, axis=1), moves

"""Rows that are equal in several queries, or at several positions, computed once.

What a row sees of the changed box decides its value, beside its position. Along each axis it sees
one end of the box, both, or none, being inside; so the rows of a query fall into pieces, boxes of
rows that see the same ends. Pieces that see equal ends have equal rows at equal positions, and a
query computes those that no query before it in the batch has. A piece that sees no end at all, of a
constant fill, has one value for all of its rows.

The same idea, for predicates that are costly to evaluate, is duplicate elimination before the call
(Hellerstein and Naughton, Query Execution Techniques for Caching Expensive Methods, SIGMOD 1996).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kqo.ir.boxes import Boxes
from kqo.planner.reach import Reach

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
FAR = 1 << 34
"""Beyond any position."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Rows of queries, and what they see of the changed box.

    Attributes:
        lo: first row of each query along each axis, (queries, axes).
        hi: one past the last.
        inner_lo: first row that does not see the low end of the changed box.
        inner_hi: one past the last row that does not see its high end; may be below ``inner_lo``.
        ends: both ends of the changed box along each axis, (queries, axes, 2).
        uniform: queries whose rows that see no end are all equal.
        keys: whatever else must be equal for rows to be: the changed features, the batch.
    """

    lo: Ints
    hi: Ints
    inner_lo: Ints
    inner_hi: Ints
    ends: Ints
    uniform: Flags
    keys: Ints

    def same_but_moved(self, other: Seen) -> bool:
        """Whether the rows of both are pieced together alike, each counted from its query's first
        row."""
        return all(map(np.array_equal, self._moved(), other._moved()))

    def _moved(self) -> tuple[NDArray[np.generic], ...]:
        return (
            self.hi - self.lo,
            self.inner_lo - self.lo,
            self.inner_hi - self.lo,
            self.lo - self.lo[:1],
            self.ends - self.ends[:1],
            self.uniform,
            self.keys - self.keys[:1],
        )


@dataclass(frozen=True, eq=False)
class Distinct:
    """The rows that each query computes, and those that it copies.

    Attributes:
        lo: first row of each box that is computed, (queries, boxes, axes); empty ones are 0 to 0.
        hi: one past the last.
        copies: pieces that are copied, each after those that it is copied from: the query, the one
            that it is copied from, first row, and one past the last. For rows that are all equal
            these are the rows of the query; the other one has computed its first.
        filled: of these, which are of rows that are all equal.
    """

    lo: Ints
    hi: Ints
    copies: tuple[tuple[int, int, tuple[int, ...], tuple[int, ...]], ...]
    filled: tuple[bool, ...]

    @property
    def rows(self) -> int:
        """Rows that are computed."""
        return int((self.hi - self.lo).prod(axis=2).sum())


def seen(rows: Boxes, changed: Boxes, reach: Reach, batch: Ints | None = None) -> Seen | None:
    """What the rows of queries see; None where a query changes several boxes, or computes several.

    Args:
        rows: to be computed, over the relation's position axes in its order.
        changed: where each query changes the base relation.
        reach: the receptive field of the rows.
        batch: of each query; by default they are all of one.
    """
    if rows.lo.shape[1] != 1 or changed.lo.shape[1] != 1:
        return None
    lo, hi = rows.lo[:, 0], np.maximum(rows.hi[:, 0], rows.lo[:, 0])
    own = [changed.axes.index(a.axis) for a in reach.along]
    others = [i for i in range(len(changed.axes)) if i not in own]
    extents = dict(reach.features)
    whole = np.array([extents[changed.axes[i]] for i in others], dtype=np.int64)
    ends = np.stack([changed.lo[:, 0, own], changed.hi[:, 0, own]], axis=2)
    stride, below, above, first, end = (
        np.array([getattr(a, name) for a in reach.along], dtype=np.int64)
        for name in ("stride", "lo", "hi", "first", "end")
    )
    inner_lo = -((below - ends[:, :, 0]) // stride)
    inner_hi = (ends[:, :, 1] - 1 - above) // stride + 1
    keys = np.concatenate([changed.lo[:, 0, others], changed.hi[:, 0, others]], axis=1)
    uniform = ((inner_lo >= first) & (inner_hi <= end)).all(axis=1) & reach.uniform
    uniform &= (keys == np.concatenate([np.zeros_like(whole), whole])).all(axis=1)
    if batch is not None:
        keys = np.concatenate([keys, batch[:, None]], axis=1)
    return Seen(lo, hi, inner_lo, inner_hi, ends, uniform, keys)


def distinct(rows: Seen) -> Distinct:
    """Which rows to compute, and which to copy."""
    queries, rank = rows.lo.shape
    one = np.clip(np.minimum(rows.inner_lo, rows.inner_hi), rows.lo, rows.hi)
    other = np.clip(np.maximum(rows.inner_lo, rows.inner_hi), rows.lo, rows.hi)
    edges = np.stack([rows.lo, one, other, rows.hi], axis=2)
    inside = rows.inner_lo <= rows.inner_hi
    grid = (3,) * rank
    lo = np.zeros((queries, math.prod(grid), rank), dtype=np.int64)
    hi = np.zeros_like(lo)
    copies: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = []
    filled: list[bool] = []
    for part in itertools.product(range(3), repeat=rank):
        first = np.stack([edges[:, axis, at] for axis, at in enumerate(part)], axis=1)
        last = np.stack([edges[:, axis, at + 1] for axis, at in enumerate(part)], axis=1)
        some = np.flatnonzero((last > first).all(axis=1))
        if not len(some):
            continue
        middle = all(at == 1 for at in part)
        equal = (rows.uniform & inside.all(axis=1))[some] if middle else np.zeros(len(some), bool)
        run = max((axis for axis, at in enumerate(part) if at == 1), default=rank - 1)
        key = [rows.keys[some, i] for i in range(rows.keys.shape[1])]
        for axis, at in enumerate(part):
            key += _ends(rows.ends[some, axis], inside[some, axis], at)
            if axis != run:
                key += [np.where(equal, 0, edge[some, axis]) for edge in (first, last)]
        key.append(equal.astype(np.int64))
        order = np.lexsort((first[some, run], *key))
        some, equal = some[order], equal[order]
        keys = np.stack(key)[:, order]
        group = np.cumsum(np.concatenate([[0], (keys[:, 1:] != keys[:, :-1]).any(axis=0)]))
        # The query before whose piece reaches furthest has all that is known of this one's.
        reached = last[some, run] + group * FAR
        furthest = np.maximum.accumulate(reached)
        holder = np.maximum.accumulate(np.where(reached == furthest, np.arange(len(some)), 0))
        before = np.concatenate([[-1], holder[:-1]])
        known = np.concatenate([[-1], furthest[:-1]]) - group * FAR
        follows = np.concatenate([[False], group[1:] == group[:-1]])
        begin, stop = first[some].copy(), last[some].copy()
        begin[:, run] = np.clip(np.where(follows, known, -1), begin[:, run], stop[:, run])
        copied = follows & (begin[:, run] > first[some, run])
        stop[equal] = np.where(follows[equal, None], 0, first[some[equal]] + 1)
        begin[equal] = np.where(follows[equal, None], 0, first[some[equal]])
        empty = (begin >= stop).any(axis=1)
        begin[empty] = stop[empty] = 0
        number = int(np.ravel_multi_index(part, grid))
        lo[some, number], hi[some, number] = begin, stop
        starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
        for at in np.flatnonzero(copied & ~equal).tolist():
            query, source = int(some[at]), int(some[before[at]])
            end = last[query].copy()
            end[run] = min(known[at], end[run])
            copies.append((query, source, tuple(first[query].tolist()), tuple(end.tolist())))
            filled.append(False)
        for at in np.flatnonzero(equal).tolist():
            query, source = int(some[at]), int(some[starts[group[at]]])
            piece = (tuple(first[query].tolist()), tuple(last[query].tolist()))
            copies.append((query, source, *piece))
            filled.append(True)
    _merge(lo.reshape(queries, *grid, rank), hi.reshape(queries, *grid, rank))
    used = np.flatnonzero((hi > lo).all(axis=2).any(axis=0))
    used = used if len(used) else np.array([0])
    return Distinct(lo[:, used], hi[:, used], tuple(copies), tuple(filled))


def _ends(ends: Ints, inside: Flags, at: int) -> list[Ints]:
    """The ends of the changed box that a piece sees along an axis; FAR for one that it does not."""
    low, high = ends[:, 0], ends[:, 1]
    never = np.full_like(low, FAR)
    if at == 0:
        return [low, never]
    if at == 2:
        return [never, high]
    return [np.where(inside, never, low), np.where(inside, never, high)]


def _merge(lo: Ints, hi: Ints) -> None:
    """Make one box of neighbouring pieces wherever they form one, so that tiles cover both."""
    rank = lo.shape[-1]
    for axis in range(rank):
        low, high = np.moveaxis(lo, axis + 1, 0), np.moveaxis(hi, axis + 1, 0)
        rest = [i for i in range(rank) if i != axis]
        for at in range(2):
            some = (high[at] > low[at]).all(axis=-1) & (high[at + 1] > low[at + 1]).all(axis=-1)
            joins = some & (high[at][..., axis] == low[at + 1][..., axis])
            joins &= (low[at][..., rest] == low[at + 1][..., rest]).all(axis=-1)
            joins &= (high[at][..., rest] == high[at + 1][..., rest]).all(axis=-1)
            low[at + 1][..., axis] = np.where(joins, low[at][..., axis], low[at + 1][..., axis])
            low[at][joins] = 0
            high[at][joins] = 0

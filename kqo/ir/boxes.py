"""Concrete regions: boxes per query, and what becomes of them from relation to relation.

Arrays are padded to the largest number of boxes of any query; an empty slot has ``lo >= hi`` on
some axis. All arithmetic is vectorized over queries. Every function may return a superset (a hull
where the exact set would need many boxes); none may lose a key.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.ir.equations import Affine, Condition, Ranged
from kqo.ir.schema import Axes, names, shape

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
MOST_BOXES = 8
MOST_TAPS = 4096
LOOSE = 1.02
"""Times as many keys that a hull may hold as the disjoint boxes that it stands for."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes per query over named axes.

    Attributes:
        axes: names of the key axes.
        lo: first key of each box, shape (queries, boxes, axes), int64.
        hi: one past its last key, same shape.
    """

    axes: tuple[str, ...]
    lo: Ints
    hi: Ints

    @property
    def queries(self) -> int:
        """Number of queries."""
        return int(self.lo.shape[0])

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """Which slots hold a box that is not empty, shape (queries, boxes)."""
        return _filled(self.lo, self.hi)

    def volume(self) -> Ints:
        """Keys per query, shape (queries,), read-only; right only where boxes are disjoint."""
        return self._volume

    @cached_property
    def _volume(self) -> Ints:
        found = np.asarray(_volumes(self.lo, self.hi).sum(axis=1), dtype=np.int64)
        found.flags.writeable = False
        return found

    def same(self, other: Boxes) -> bool:
        """Whether both have the same boxes in the same order over the same axes."""
        return (
            self.axes == other.axes
            and np.array_equal(self.lo, other.lo)
            and np.array_equal(self.hi, other.hi)
        )

    def select(self, queries: slice | Ints) -> Boxes:
        """The boxes of some queries."""
        return Boxes(self.axes, self.lo[queries], self.hi[queries])


def with_untouched(changed: Mapping[str, Boxes]) -> dict[str, Boxes]:
    """The regions with one more query, which changes nothing: its answer is the original output."""
    found = {}
    for name, boxes in changed.items():
        empty = np.zeros((1, *boxes.lo.shape[1:]), dtype=np.int64)
        found[name] = Boxes(
            boxes.axes, np.concatenate([boxes.lo, empty]), np.concatenate([boxes.hi, empty])
        )
    return found


def everything(axes: Axes, queries: int) -> Boxes:
    """One box per query that covers all keys."""
    extents = np.array(shape(axes), dtype=np.int64).reshape(1, 1, -1)
    hi = np.broadcast_to(extents, (queries, 1, extents.shape[2])).copy()
    return Boxes(names(axes), np.zeros_like(hi), hi)


def _filled(lo: Ints, hi: Ints) -> Flags:
    """Which boxes (..., axes) have a key; axis by axis, since NumPy reduces short axes slowly."""
    found = np.ones(lo.shape[:-1], dtype=np.bool_)
    for axis in range(lo.shape[-1]):
        found &= hi[..., axis] > lo[..., axis]
    return found


def _volumes(lo: Ints, hi: Ints) -> Ints:
    """Keys of each of the boxes (..., axes)."""
    found = np.ones(lo.shape[:-1], dtype=np.int64)
    for axis in range(lo.shape[-1]):
        found *= np.maximum(hi[..., axis] - lo[..., axis], 0)
    return found


def _within(lo: Ints, hi: Ints, other_lo: Ints, other_hi: Ints) -> Flags:
    """Which of the boxes (..., axes) have no key outside the others'."""
    found: Flags = np.ones(np.broadcast_shapes(lo.shape, other_lo.shape)[:-1], dtype=np.bool_)
    for axis in range(lo.shape[-1]):
        found &= lo[..., axis] >= other_lo[..., axis]
        found &= hi[..., axis] <= other_hi[..., axis]
    return found


def _tidy(axes: tuple[str, ...], lo: Ints, hi: Ints) -> Boxes:
    """Drop slots empty for every query, boxes inside others, and boxes beyond MOST_BOXES."""
    filled = _filled(lo, hi)
    if not filled.all():
        lo, hi = lo.copy(), hi.copy()
        lo[~filled] = hi[~filled] = 0
    if lo.shape[1] == 1:
        return Boxes(axes, lo, hi)
    # One box often covers the others: the parts of a concatenation grow from layer to layer.
    most = int(_volumes(lo, hi).sum(axis=0).argmax())
    cover = slice(most, most + 1)
    outside = ~_within(lo, hi, lo[:, cover], hi[:, cover]) & filled
    kept = np.flatnonzero(outside.any(axis=0) | (np.arange(lo.shape[1]) == most))
    lo, hi, filled = lo[:, kept], hi[:, kept], filled[:, kept]
    count = lo.shape[1]
    if 1 < count <= 64:
        for i, j in _may_be_inside(lo, hi, filled):
            gone = _within(lo[:, i], hi[:, i], lo[:, j], hi[:, j]) & filled[:, i] & filled[:, j]
            filled[gone, i] = False
        hi[~filled] = 0
        lo[~filled] = 0
    if count > 1:
        most = max(1, int(filled.sum(axis=1).max(initial=0)))
        if most > MOST_BOXES:
            return hull(Boxes(axes, lo, hi))
        if (filled[:, 1:] & ~filled[:, :-1]).any():
            order = np.argsort(~filled, axis=1, kind="stable")
            lo = np.take_along_axis(lo, order[:, :, None], axis=1)
            hi = np.take_along_axis(hi, order[:, :, None], axis=1)
        lo, hi = lo[:, :most], hi[:, :most]
    return Boxes(axes, lo, hi)


def _may_be_inside(lo: Ints, hi: Ints, filled: Flags) -> list[tuple[int, int]]:
    """Pairs of slots of which the first may hold a box inside the second's, for some query.

    The parts of a concatenation lie side by side, so that none of their many pairs may.
    """
    may: Flags = np.ones((lo.shape[1],) * 2, dtype=np.bool_)
    slots = range(lo.shape[1])
    for axis in range(lo.shape[2]):
        low = [lo[filled[:, i], i, axis] for i in slots]
        high = [hi[filled[:, i], i, axis] for i in slots]
        may &= _may_hold(low, high)
    return [(i, j) for i, j in itertools.permutations(slots, 2) if may[i, j]]


def _may_hold(lo: Sequence[Ints], hi: Sequence[Ints]) -> Flags:
    """For the ends of several intervals, each per query, whether the first may lie in the second of
    each pair."""
    far = np.iinfo(np.int64).max
    least_lo, least_hi = (
        np.array([each.min(initial=far) for each in ends], dtype=np.int64) for ends in (lo, hi)
    )
    most_lo, most_hi = (
        np.array([each.max(initial=0) for each in ends], dtype=np.int64) for ends in (lo, hi)
    )
    return np.asarray((most_lo[:, None] >= least_lo) & (least_hi[:, None] <= most_hi))


def hull(boxes: Boxes) -> Boxes:
    """The smallest single box per query that covers its boxes."""
    if boxes.lo.shape[1] == 1:
        filled = boxes.filled[:, :, None]
        return Boxes(boxes.axes, np.where(filled, boxes.lo, 0), np.where(filled, boxes.hi, 0))
    filled = boxes.filled[:, :, None]
    lo = np.where(filled, boxes.lo, np.iinfo(np.int64).max)
    hi = np.where(filled, boxes.hi, 0)
    low, high = lo[:, 0].copy(), hi[:, 0].copy()
    for at in range(1, lo.shape[1]):
        for axis in range(lo.shape[2]):
            np.minimum(low[:, axis], lo[:, at, axis], out=low[:, axis])
            np.maximum(high[:, axis], hi[:, at, axis], out=high[:, axis])
    return Boxes(boxes.axes, np.where(high > 0, low, 0)[:, None], high[:, None])


def union(several: Sequence[Boxes]) -> Boxes:
    """Union of regions over the same axes."""
    first = several[0]
    if any(b.axes != first.axes for b in several):
        raise PlanError(f"union of regions over different axes: {[b.axes for b in several]}")
    parts = list({id(b): b for b in several}.values())
    if len(parts) > MOST_BOXES and _side_by_side(parts):
        return _hull_of(parts)
    most = max(parts, key=lambda b: int(b.volume().sum()))
    if most.lo.shape[1] == 1 and all(b is most or _inside(b, most) for b in parts):
        return _tidy(first.axes, most.lo, most.hi)  # as the parts of a concatenation mostly are
    lo = np.concatenate([b.lo for b in parts], axis=1)
    hi = np.concatenate([b.hi for b in parts], axis=1)
    return _tidy(first.axes, lo, hi)


def _side_by_side(parts: Sequence[Boxes]) -> bool:
    """Whether parts are one box for each of the same queries, of which none may hold another: of
    so many, a union is their hull."""
    if not all(b.lo.shape[1] == 1 for b in parts):
        return False
    filled = parts[0].filled[:, 0]
    if not filled.any() or not all(np.array_equal(b.filled[:, 0], filled) for b in parts):
        return False
    apart = ~np.eye(len(parts), dtype=np.bool_)
    for axis in range(len(parts[0].axes)):
        low, high = ([getattr(b, end)[filled, 0, axis] for b in parts] for end in ("lo", "hi"))
        apart &= _may_hold(low, high)
        if not apart.any():
            return True
    return False


def _hull_of(parts: Sequence[Boxes]) -> Boxes:
    """The smallest box per query that covers those of parts of one box each, which lack one for the
    same queries."""
    lo, hi = parts[0].lo.copy(), parts[0].hi.copy()
    for part in parts[1:]:
        np.minimum(lo, part.lo, out=lo)
        np.maximum(hi, part.hi, out=hi)
    return Boxes(parts[0].axes, lo, hi)


def _inside(boxes: Boxes, one: Boxes) -> bool:
    """Whether each query's box of the other covers all its boxes."""
    return bool((_within(boxes.lo, boxes.hi, one.lo, one.hi) | ~boxes.filled).all())


def disjoint(boxes: Boxes) -> Boxes:
    """The same keys in boxes that do not overlap; a hull where that holds as few keys."""
    if boxes.lo.shape[1] == 1:
        return boxes
    pieces: list[tuple[Ints, Ints]] = []
    for i in range(boxes.lo.shape[1]):
        parts = [(boxes.lo[:, i], boxes.hi[:, i])]
        for j in range(i):
            parts = [
                piece
                for lo, hi in parts
                for piece in _subtract(lo, hi, boxes.lo[:, j], boxes.hi[:, j])
            ]
        pieces += parts
    lo = np.stack([p[0] for p in pieces], axis=1)
    hi = np.stack([p[1] for p in pieces], axis=1)
    split = _tidy(boxes.axes, lo, hi)
    whole = hull(boxes)
    if int(whole.volume().sum()) <= LOOSE * int(split.volume().sum()):
        return whole
    return split


def _subtract(lo: Ints, hi: Ints, cut_lo: Ints, cut_hi: Ints) -> list[tuple[Ints, Ints]]:
    """One box per query minus another, as at most two boxes an axis; all arrays (queries, axes)."""
    meets = np.asarray(((cut_hi > lo) & (cut_lo < hi) & (cut_hi > cut_lo)).all(axis=1))
    found = []
    lo, hi = lo.copy(), hi.copy()
    untouched = np.where(meets[:, None], 0, hi)
    found.append((lo.copy(), untouched))
    hi = np.where(meets[:, None], hi, 0)
    for axis in range(lo.shape[1]):
        below_hi = hi.copy()
        below_hi[:, axis] = np.minimum(hi[:, axis], cut_lo[:, axis])
        above_lo = lo.copy()
        above_lo[:, axis] = np.maximum(lo[:, axis], cut_hi[:, axis])
        found += [(lo.copy(), below_hi), (above_lo, hi.copy())]
        lo[:, axis] = np.maximum(lo[:, axis], cut_lo[:, axis])
        hi[:, axis] = np.minimum(hi[:, axis], cut_hi[:, axis])
    return [(a, b) for a, b in found if _filled(a, b).any()]


def project(boxes: Boxes, axes: tuple[str, ...]) -> Boxes:
    """Disjoint boxes over some of the axes: the shadow of a region, as rows are the shadow of
    cells."""
    index = [boxes.axes.index(name) for name in axes]
    if not index:
        # A relation without positions has one row; it is recomputed for every query.
        none = np.zeros((boxes.queries, 1, 0), dtype=np.int64)
        return Boxes((), none, none)
    empty = ~boxes.filled
    lo, hi = boxes.lo[:, :, index], boxes.hi[:, :, index]
    lo[empty] = hi[empty] = 0
    return disjoint(_tidy(axes, lo, hi))


Intervals = list[tuple[Ints, Ints]]


def _affine_intervals(
    lo: Ints, hi: Ints, condition: Affine, out: str, sizes: Mapping[str, int]
) -> Intervals:
    """Output keys along ``out`` that read a key in [lo, hi): intervals, ascending and disjoint."""
    step = 0
    others: list[range] = []
    for coefficient, name in condition.terms:
        if name == out:
            step += coefficient
        elif coefficient:
            others.append(range(0, coefficient * sizes[name], coefficient))
    extent = sizes[out]
    if step <= 0:
        return [(np.zeros_like(lo), np.full_like(hi, extent))]
    first = condition.scale * lo - condition.offset
    last = condition.scale * (hi - 1) - condition.offset
    taps: Sequence[int] = ()
    if math.prod(map(len, others)) <= MOST_TAPS:
        taps = sorted({sum(combo) for combo in itertools.product(*others)}, reverse=True)
    side_by_side = bool(taps) and condition.scale == 1 and taps[0] - taps[-1] == len(taps) - 1
    if not taps or side_by_side:  # of so many, the hull; of taps without gaps, one interval
        shifts = [sum(min(r) for r in others), sum(max(r) for r in others)]
        start = -((shifts[1] - first) // step)
        end = (last - shifts[0]) // step + 1
        return [(np.clip(start, 0, extent), np.clip(end, 0, extent))]
    found: Intervals = []
    reach = np.full(lo.shape, -1, dtype=np.int64)
    for tap in taps:
        start = np.maximum(-((tap - first) // step), 0)
        end = np.minimum((last - tap) // step + 1, extent)
        if condition.scale > 1 and found:
            start = np.minimum(start, reach + 1)
        start = np.maximum(start, reach)
        some = end > start
        if found:
            before_lo, before_hi = found[-1]
            joins = (start <= before_hi) | ~some | (before_hi <= before_lo)
            if bool(joins.all()):
                fresh = before_hi <= before_lo
                found[-1] = (
                    np.where(some & fresh, start, before_lo),
                    np.where(some, end, before_hi),
                )
                reach = np.where(some, end, reach)
                continue
        found.append((start, np.where(some, end, start)))
        reach = np.where(some, end, reach)
    return found


def _ranged_intervals(lo: Ints, hi: Ints, condition: Ranged) -> Intervals:
    """Output keys whose range of the tables meets [lo, hi)."""
    start = np.searchsorted(np.array(condition.hi), lo, side="right")
    end = np.searchsorted(np.array(condition.lo), hi, side="left")
    return [(start.astype(np.int64), end.astype(np.int64))]


def image(boxes: Boxes, on: tuple[Condition, ...], taps: Axes, into: Axes) -> Boxes:
    """Forward image of a region through a join's conditions: see :class:`kqo.ir.region.Image`.

    For one axis of a window this is the exact form of Krypton's output patch (SIGMOD 2019,
    equations 2 to 5), with the true alignment and border of every query in place of its upper
    bound.
    """
    sizes = {axis.name: axis.extent or 0 for axis in (*taps, *into)}
    index = {name: i for i, name in enumerate(boxes.axes)}
    bound = {condition.axis: condition for condition in on}
    per_axis: list[Intervals] = []
    empty = ~boxes.filled
    for axis in into:
        extent = sizes[axis.name]
        choices: Intervals | None = None
        if axis.name in index and axis.name not in bound:
            i = index[axis.name]
            choices = [(boxes.lo[:, :, i], np.minimum(boxes.hi[:, :, i], extent))]
        else:
            for condition in on:
                if condition.axis not in index or axis.name not in condition.reads:
                    continue
                i = index[condition.axis]
                lo, hi = boxes.lo[:, :, i], boxes.hi[:, :, i]
                if isinstance(condition, Affine):
                    choices = _affine_intervals(lo, hi, condition, axis.name, sizes)
                elif axis.name == condition.out:
                    choices = _ranged_intervals(lo, hi, condition)
        if choices is None:
            zero = np.zeros(boxes.lo.shape[:2], dtype=np.int64)
            choices = [(zero, zero + extent)]
        per_axis.append(choices)
    lows, highs = [], []
    for combo in itertools.product(*per_axis):
        lo, hi = np.empty((2, *boxes.lo.shape[:2], len(combo)), dtype=np.int64)
        for i, (low, high) in enumerate(combo):
            lo[:, :, i], hi[:, :, i] = low, high
        lows.append(lo)
        highs.append(hi)
    for ends in (*lows, *highs):
        ends[empty] = 0
    return _tidy(names(into), np.concatenate(lows, axis=1), np.concatenate(highs, axis=1))


def clip(boxes: Boxes, tau: float, into: Axes) -> Boxes:
    """Cut each position axis to round(tau * extent), around the region's centre.

    Krypton's projective-field threshold (SIGMOD 2019, equations 15 and 16), on the exact region.
    """
    from kqo.ir.schema import is_position

    whole = hull(boxes)
    lo, hi = boxes.lo.copy(), boxes.hi.copy()
    for i, axis in enumerate(into):
        if not is_position(axis.name) or axis.extent is None:
            continue
        most = max(1, round(tau * axis.extent))
        width = whole.hi[:, :, i] - whole.lo[:, :, i]
        start = whole.lo[:, :, i] + np.maximum(width - most, 0) // 2
        end = np.where(width > most, start + most, whole.hi[:, :, i])
        lo[:, :, i] = np.clip(lo[:, :, i], start, end)
        hi[:, :, i] = np.clip(hi[:, :, i], start, end)
    return _tidy(boxes.axes, lo, hi)


def shift(boxes: Boxes, axis: str, offset: int) -> Boxes:
    """A region moved along one axis."""
    lo, hi = boxes.lo.copy(), boxes.hi.copy()
    at, filled = boxes.axes.index(axis), boxes.filled
    lo[:, :, at] += offset * filled
    hi[:, :, at] += offset * filled
    if not filled.all():
        lo[~filled] = hi[~filled] = 0
    return Boxes(boxes.axes, lo, hi)


def regroup(boxes: Boxes, source: Axes, order: tuple[str, ...], into: Axes) -> Boxes:
    """Image under a Rekey: exact on axes that are kept or merged from one end, whole on others."""
    extents = {axis.name: axis.extent or 0 for axis in source}
    index = {name: i for i, name in enumerate(boxes.axes)}
    zero = np.zeros(boxes.lo.shape[:2], dtype=np.int64)
    lows: list[Ints] = []
    highs: list[Ints] = []
    for olds, news in aligned(tuple((n, extents[n]) for n in order), into):
        if len(news) == 1:
            start, end = zero, zero
            for name in olds:
                start = start * extents[name] + boxes.lo[:, :, index[name]]
                end = end * extents[name] + boxes.hi[:, :, index[name]] - 1
            lows.append(start)
            highs.append(end + 1)
            continue
        for axis in news:
            lows.append(zero)
            highs.append(zero + (axis.extent or 0))
    filled = boxes.filled[:, :, None]
    lo = np.where(filled, np.stack(lows, axis=2), 0)
    hi = np.where(filled, np.stack(highs, axis=2), 0)
    return _tidy(names(into), lo, hi)


def aligned(old: tuple[tuple[str, int], ...], new: Axes) -> list[tuple[tuple[str, ...], Axes]]:
    """Split a reshape into the smallest runs of old and new axes with equal products."""
    runs: list[tuple[tuple[str, ...], Axes]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news = [], []
        left = right = 1
        if i < len(old):
            olds.append(old[i][0])
            left = old[i][1]
            i += 1
        if j < len(new):
            news.append(new[j])
            right = new[j].extent or 0
            j += 1
        while left != right:
            if left < right:
                olds.append(old[i][0])
                left *= old[i][1]
                i += 1
            else:
                news.append(new[j])
                right *= new[j].extent or 0
                j += 1
        runs.append((tuple(olds), tuple(news)))
    return runs

"""Running a step on distinct rows, and copying them to where each query has them.

The step computes its distinct rows (:mod:`kqo.planner.distinct`) into scratch memory, by the code
that computes all of them elsewhere: only where rows begin and end is another. One gather then
copies them into the rows of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.boxes import Boxes
from kqo.planner.distinct import Distinct, Seen, distinct, seen
from kqo.planner.physical import PhysicalPlan
from kqo.planner.reach import Reach, reaches
from kqo.planner.share import BATCH, BATCHES
from kqo.runtime.bind import Binder, Bound
from kqo.runtime.rows import Ints, Region
from kqo.runtime.workspace import Workspace

Function = Callable[[Bound, Mapping[str, Any], Workspace, list[tuple[int, int]]], None]


@dataclass(frozen=True, eq=False)
class Shared:
    """How the rows of a batch are put together from distinct ones.

    Attributes:
        seen: what the rows see of the changed boxes.
        lo: first row of each box that is computed, from its query's first, (queries, boxes, axes).
        hi: one past the last.
        copies: for each row of the batch which of the distinct rows it is.
        target: the rows of the batch.
    """

    seen: Seen
    lo: Ints
    hi: Ints
    copies: Ints
    target: NDArray[Any]


class Sharing:
    """The steps of a plan that compute distinct rows, for batches of any queries.

    Args:
        plan: the physical plan, whose steps say which of them do.
        changed: where each query changes the base relations.
    """

    def __init__(self, plan: PhysicalPlan, changed: Mapping[str, Boxes]) -> None:
        self._plan = plan
        known = reaches(plan) if any(step.shared for step in plan.steps) else {}
        self.reaches: dict[int, Reach] = {
            number: known[step.table] for number, step in enumerate(plan.steps) if step.shared
        }
        self._changed = changed[plan.changing[0].name] if self.reaches else None

    def of_all(self, boxes: Mapping[int, Boxes], batches: list[Ints]) -> dict[int, Boxes]:
        """The boxes of rows that each of the steps computes over all batches, by its number."""
        return {} if self._changed is None else self._computed(boxes, self._changed, batches)

    def _computed(
        self, boxes: Mapping[int, Boxes], changed: Boxes, batches: list[Ints]
    ) -> dict[int, Boxes]:
        batch = np.empty(changed.queries, dtype=np.int64)
        for number, queries in enumerate(batches):
            batch[queries] = number
        found = {}
        for number, reach in self.reaches.items():
            own = boxes[self._table(number)]
            rows = seen(own, changed, reach, batch)
            if rows is not None:
                made = distinct(rows)
                found[number] = Boxes(own.axes, made.lo, made.hi)
        return found

    def shares(self, boxes: Mapping[int, Boxes]) -> dict[int, float]:
        """Of the rows of each of the steps those that it computes, in batches of usual size."""
        if self._changed is None:
            return {}
        every = np.arange(min(self._changed.queries, BATCH * BATCHES))
        parts = {table: own.select(every) for table, own in boxes.items()}
        batches = [every[at : at + BATCH] for at in range(0, len(every), BATCH)]
        found = self._computed(parts, self._changed.select(every), batches)
        return {
            number: own.volume().sum() / max(1, parts[self._table(number)].volume().sum())
            for number, own in found.items()
        }

    def _table(self, number: int) -> int:
        return self._plan.steps[number].table

    def bind(
        self, number: int, binder: Binder, out: Region, batch: Ints, last: Bound | None
    ) -> Bound:
        """The step bound to the distinct ones of the rows ``out``; to all where none are equal."""
        step = self._plan.steps[number]
        assert self._changed is not None
        rows = seen(out.boxes, self._changed.select(batch), self.reaches[number])
        if rows is None or not out.count:
            return binder.bind(step, out, last)
        before = last.shared if last is not None else None
        if before is not None and before.seen.same_but_moved(rows):
            lo, hi, copies = before.lo, before.hi, before.copies
        else:
            made = distinct(rows)
            first = np.where(made.hi > made.lo, rows.lo[:, None], 0)
            lo, hi = made.lo - first, made.hi - first
            copies = copied_from(rows, made)
        moved = np.where(hi > lo, rows.lo[:, None], 0)
        region = Region(out.positions, Boxes(out.boxes.axes, lo + moved, hi + moved))
        bound = binder.bind(step, region, last)
        bound.shared = Shared(rows, lo, hi, copies, binder.target(step, out))
        return bound


def copied_from(rows: Seen, made: Distinct) -> Ints:
    """For each row of the queries, one after the other, which of the distinct rows it is."""
    extents = rows.hi - rows.lo
    volumes = extents.prod(axis=1)
    found = np.empty(int(volumes.sum()), dtype=np.int64)
    ends = np.cumsum(volumes)
    each = [
        found[end - volume : end].reshape(extent)
        for end, volume, extent in zip(ends, volumes, extents, strict=True)
    ]

    def part(query: int, lo: Any, hi: Any) -> tuple[slice, ...]:
        first = rows.lo[query]
        return tuple(slice(int(a), int(z)) for a, z in zip(lo - first, hi - first, strict=True))

    number = 0
    for query, box in zip(*np.nonzero((made.hi > made.lo).all(axis=2)), strict=True):
        lo, hi = made.lo[query, box], made.hi[query, box]
        count = int((hi - lo).prod())
        each[query][part(query, lo, hi)] = np.arange(number, number + count).reshape(hi - lo)
        number += count
    for (query, source, lo, hi), filled in zip(made.copies, made.filled, strict=True):
        if not filled:
            each[query][part(query, lo, hi)] = each[source][part(source, lo, hi)]
    equal = [copy for copy, filled in zip(made.copies, made.filled, strict=True) if filled]
    if equal:
        _, source, lo, hi = next(copy for copy in equal if copy[0] == copy[1])
        one = each[source][part(source, lo, hi)].flat[0]
        for query, _, lo, hi in equal:
            each[query][part(query, lo, hi)] = one
    return found


def run(bound: Bound, function: Function, constants: Mapping[str, Any], space: Workspace) -> None:
    """Run a step that is bound to rows of a batch, or to distinct ones of them."""
    shared = bound.shared
    if shared is None:
        function(bound, constants, space, bound.blocks)
        return
    bound.target = space.array("distinct", (bound.region.count, shared.target.shape[1]))
    function(bound, constants, space, bound.blocks)
    # mode="clip" lets NumPy write straight into out.
    np.take(bound.target, shared.copies, axis=0, out=shared.target, mode="clip")

"""Memory of a run: views, delta rows, scratch and row numbers; batches that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace

import numpy as np

from kqo.ir.boxes import LOOSE, Boxes
from kqo.ir.nodes import GROUPED, Physical
from kqo.ir.schema import size
from kqo.ir.window import group_products, roles, tiling
from kqo.planner.cost import BLOCK_BYTES, FEWEST_ROWS, FEWEST_TILES
from kqo.planner.physical import PhysicalPlan, Step
from kqo.runtime.rows import Ints
from kqo.runtime.slots import ALIGNMENT, Arena, Spans, pack
from kqo.runtime.tail import QUERIES, Tail

BATCHES = (96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
EVEN_PARTS = 4
"""Equal batches per worker that are tried beside these sizes."""
LEAST_MEMORY, MOST_MEMORY = 96 << 20, 256 << 20
"""Beside the views, where no memory is given: more for larger layers, as dense engines have it."""
FEW = 16
"""Queries per worker up to which it is the most: each batch reads every kernel."""
NUMBER = 8
"""Bytes of a row number."""
MARGIN = 1.5
"""Factor on scratch where a budget is to be kept: what pooling, epilogues and the constants that
they compare with hold beside the largest step's arrays was at most 0.45 of these in the zoo."""


def scratch_bytes(step: Step, itemsize: int, rows: int | None = None) -> int:
    """Bytes of scratch for one block of a step, an upper estimate.

    Args:
        step: of the plan.
        itemsize: bytes of a number.
        rows: that the step computes at most, where that is known.
    """
    node = step.node
    if not isinstance(node, Physical) or step.form not in ("gather_gemm", GROUPED, "winograd"):
        return BLOCK_BYTES
    window = roles(node)
    deep, wide = size(window.left_features), size(window.columns)
    if step.form == GROUPED:
        deep //= group_products(window, node.weight)
    if step.form in ("gather_gemm", GROUPED):
        fewest = FEWEST_ROWS if rows is None else min(FEWEST_ROWS, rows)
        return max(fewest * window.tap_count * deep * itemsize, BLOCK_BYTES)
    sizes = tiling(window, node.tile)
    points = math.prod(m + r - 1 for m, r in sizes)
    outputs = math.prod(m for m, _ in sizes)
    tiles = max(FEWEST_TILES, BLOCK_BYTES // (points * deep * itemsize))
    tiles = tiles if rows is None else min(tiles, rows)
    return tiles * (points * max(deep, wide) + max(points * deep, outputs * wide)) * itemsize


def number_bytes(step: Step, rows: int, in_place: bool) -> int:
    """Bytes of the row numbers of a step that computes so many rows, an estimate."""
    node = step.node
    if not isinstance(node, Physical) or in_place:
        return 0
    if step.form == "winograd":
        sizes = tiling(roles(node), node.tile)
        points = math.prod(m + r - 1 for m, r in sizes)
        outputs = math.prod(m for m, _ in sizes)
        return NUMBER * (rows + 2 * rows * points // outputs)
    taps = roles(node).tap_count if node.agg else 1
    return NUMBER * rows * taps


@dataclass(frozen=True, eq=False)
class Footprint:
    """What a plan bound to positions needs.

    Attributes:
        plan: the physical plan.
        boxes: regions of the tables with delta rows.
        spans: steps at which delta rows are needed.
        tail: the steps that several batches are run through at once, if there are any.
        workers: threads.
        queries: of the workload.
        cut: the batches of a size.
        distinct: of the rows of a step that computes equal ones once, the share that it computes.
        moving: tables whose rows are bound anew for each batch.
        margin: factor on scratch.
    """

    plan: PhysicalPlan
    boxes: Mapping[int, Boxes]
    spans: Spans
    tail: Tail | None
    workers: int
    queries: int
    cut: Callable[[int], list[Ints]]
    distinct: Mapping[int, float] = field(default_factory=dict)
    moving: Set[int] = frozenset()
    margin: float = 1.0

    @property
    def view_bytes(self) -> int:
        """Bytes of all views."""
        views = sum(t.rows * t.columns for t in self.plan.tables if t.view)
        return views * np.dtype(self.plan.dtype).itemsize

    @property
    def usual(self) -> int:
        """Bytes that a run takes where no memory is given."""
        if self.queries <= FEW * self.workers:
            return self.view_bytes + MOST_MEMORY
        return self.view_bytes + min(LEAST_MEMORY + 2 * self.view_bytes, MOST_MEMORY)

    def capacities(self, batches: list[Ints], group: int = 1) -> dict[int, int]:
        """By table the most delta rows that it holds at a time.

        Args:
            batches: queries of each.
            group: batches that are run through the tail at once.
        """
        order = np.concatenate(batches)
        begins = np.cumsum([0, *map(len, batches[:-1])])
        found: dict[int, int] = {}
        known: dict[int, int] = {}
        several = self.tail.tables if self.tail is not None else ()
        for table, boxes in self.boxes.items():
            if id(boxes) not in known:
                volume = boxes.volume()[order]
                known[id(boxes)] = int(np.add.reduceat(volume, begins).max())
            rows = known[id(boxes)]
            if table in self.moving:  # a batch may take a hull where all queries take boxes
                rows = math.floor(LOOSE * rows)
            found[table] = rows * (group if table in several else 1)
        return found

    def arena(self, capacities: Mapping[int, int]) -> Arena:
        """Elements of one worker for the tables whose delta rows are only read in place."""
        spans, tables = self.spans.in_place, self.plan.tables
        return pack(spans, {t: capacities[t] * tables[t].columns for t in spans}, ALIGNMENT)

    def area(self, capacities: Mapping[int, int]) -> Arena:
        """Elements of one worker for the other tables, each with a row to spare: it begins at a
        multiple of its columns, counted from where all tables begin."""
        spans, tables = self.spans.gathered, self.plan.tables
        return pack(spans, {t: (capacities[t] + 1) * tables[t].columns for t in spans})

    def needed(self, size: int, group: int) -> int:
        """Bytes of a run in batches of this size."""
        itemsize = np.dtype(self.plan.dtype).itemsize
        capacities = self.capacities(self.cut(size), group)
        view_rows = {table.id: table.rows for table in self.plan.tables}
        numbers = sum(
            number_bytes(s, capacities[s.table], s.sources[0] in self.spans.in_place)
            for s in self.plan.steps
            if s.delta
        )
        scratch = max(
            scratch_bytes(s, itemsize, (capacities if s.delta else view_rows).get(s.table))
            for s in self.plan.steps
        )
        copied = max((self._distinct(n, capacities) for n in self.distinct), default=0)
        rows = (self.arena(capacities).size + self.area(capacities).size + copied) * itemsize
        each = rows + numbers + math.ceil(self.margin * scratch)
        return self.view_bytes + each * self.workers

    def _distinct(self, number: int, capacities: Mapping[int, int]) -> int:
        """Elements of the distinct rows of a step."""
        table = self.plan.tables[self.plan.steps[number].table]
        return math.ceil(self.distinct[number] * capacities[table.id]) * table.columns

    def batch(self, memory: int) -> int:
        """Queries of a batch for which the memory suffices."""
        # Each worker reads every kernel once per batch: of few queries it had better have one.
        share = max(1, -(-self.queries // self.workers))
        even = {-(-share // parts) for parts in range(1, EVEN_PARTS + 1)}
        for queries in sorted({*BATCHES, *even}, reverse=True):
            if queries > min(share, BATCHES[0]):
                continue
            if self.needed(queries, 1) <= memory:
                count = -(-self.queries // queries)
                count = -(-count // self.workers) * self.workers
                return max(1, -(-self.queries // count))
        return 1

    @property
    def least(self) -> int:
        """Bytes that one worker takes for one query at a time: no run takes less."""
        return replace(self, workers=1, margin=MARGIN).needed(1, 1)

    def fitted(self, memory: int) -> Footprint:
        """For a budget: no more workers than it has memory for with one query each, but one."""
        each = max(1, self.least - self.view_bytes)
        fitting = (memory - self.view_bytes) // each
        workers = max(1, min(self.workers, fitting))
        return replace(self, workers=workers, margin=MARGIN)

    def group(self, size: int, memory: int) -> int:
        """Batches of this size that are run through the tail at once."""
        most = 1 if self.tail is None else max(1, min(QUERIES, self.queries) // size)
        return max((n for n in range(1, most + 1) if self.needed(size, n) <= memory), default=1)

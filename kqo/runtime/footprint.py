"""Memory of a run: views, delta rows, scratch and row numbers; batches that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from kqo.ir.boxes import LOOSE, Boxes
from kqo.ir.nodes import GROUPED, Physical
from kqo.ir.schema import size
from kqo.ir.window import group_products, roles, tiling
from kqo.ir.winograd import points_of
from kqo.planner.cost import BLOCK_BYTES, FEWEST_ROWS, PRODUCT_FORMS, tiles_in_block
from kqo.planner.physical import PhysicalPlan, Step
from kqo.runtime.numbers import NUMBER, number_bytes
from kqo.runtime.reads import Reads
from kqo.runtime.rows import PADDING_ROWS, Ints
from kqo.runtime.scratch import arrays_of, together
from kqo.runtime.slots import ALIGNMENT, Arena, Spans, pack
from kqo.runtime.tail import QUERIES, Tail
from kqo.runtime.templates import MOST_BYTES

BATCHES = (96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
EVEN_PARTS = 4
"""Equal batches per worker that are tried beside these sizes."""
LEAST_MEMORY, MOST_MEMORY = 96 << 20, 256 << 20
"""Beside the views, where no memory is given: more for larger layers, as dense engines have it."""
FEW = 16
"""Queries per worker up to which it is the most: each batch reads every kernel."""
BINDING = 4
"""Times its row numbers that a step takes while they are worked out."""
TEMPLATES = 2
"""Templates may take one part in so many of what the row numbers of a batch take."""


def _in_order(batches: list[Ints]) -> tuple[Ints, Ints]:
    """All queries, batch after batch, and where each batch begins."""
    return np.concatenate(batches), np.cumsum([0, *map(len, batches[:-1])])


def _largest_arrays(step: Step, itemsize: int, rows: int) -> int:
    """Bytes of the largest arrays of one block of a step.

    Args:
        step: of the plan.
        itemsize: bytes of a number.
        rows: that the step computes at most.
    """
    node = step.node
    if not isinstance(node, Physical) or step.form not in PRODUCT_FORMS:
        return BLOCK_BYTES
    window = roles(node)
    deep, wide = size(window.left_features), size(window.columns)
    if step.form == GROUPED:
        deep //= group_products(window, node.weight)
    if step.form in ("gather_gemm", GROUPED):
        least = min(FEWEST_ROWS, rows) * itemsize
        wide = sum(size(roles(member.node).columns) for member in step.members)
        product = max(least * wide, BLOCK_BYTES) if step.siblings else 0
        return max(least * window.tap_count * deep, BLOCK_BYTES) + product
    sizes = tiling(window, node.tile)
    points, outputs = points_of(sizes), math.prod(m for m, _ in sizes)
    tiles = min(tiles_in_block(points * deep * itemsize), rows)
    return tiles * (points * max(deep, wide) + max(points * deep, outputs * wide)) * itemsize


def _window_numbers(step: Step, rows: int, in_place: bool) -> int:
    """Bytes of the row numbers of a step's windows, roughly, for so many rows."""
    node = step.node
    if not isinstance(node, Physical) or in_place or step.leader is not None:
        return 0
    if step.form == "winograd":
        sizes = tiling(roles(node), node.tile)
        points = points_of(sizes)
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
        memory: bytes that a run may take; None: what it usually takes.
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
    memory: int | None = None

    @cached_property
    def _reads(self) -> Reads:
        return Reads(self.plan, self.boxes, self.moving)

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
        order, begins = _in_order(batches)
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

    @property
    def fixed_bytes(self) -> int:
        """Bytes beside what each worker takes: views, with row numbers and rows for padding."""
        tables = self.plan.tables
        padding = (PADDING_ROWS + 1) * sum(table.columns for table in tables)
        return self.view_bytes + padding * self._itemsize + sum(self._view_numbers())

    @property
    def _itemsize(self) -> int:
        return np.dtype(self.plan.dtype).itemsize

    def _view_numbers(self) -> list[int]:
        """Bytes of the row numbers of each step that computes a view."""
        tables = self.plan.tables
        return [
            number_bytes(s, tables, tables[s.table].rows, (), self._reads.of_view(s))
            for s in self.plan.steps
            if not s.delta
        ]

    def needed(self, size: int, group: int) -> int:
        """Bytes of a run in batches of this size: no array of a megabyte is left out."""
        batches = self.cut(size)
        capacities = self.capacities(batches, group)
        numbers = self._numbers(capacities, batches)
        templates = sum(numbers) // TEMPLATES
        order = _in_order(batches)
        scratch = together(
            arrays_of(
                step,
                self.plan.tables,
                self._itemsize,
                self._rows(step, capacities),
                self.spans.in_place,
                self._reads.of_batches(number, *order) if step.delta else self._reads.of_view(step),
            )
            for number, step in enumerate(self.plan.steps)
        )
        each = self._row_bytes(capacities) + sum(numbers) + self._positions(capacities) + scratch
        # Views are bound by one thread, before there are delta rows.
        numbering = (max(self._view_numbers(), default=0), max(numbers, default=0) * self.workers)
        binding = BINDING * max(numbering)
        return self.fixed_bytes + templates + binding + each * self.workers

    def holds(self, size: int, group: int) -> bool:
        """Whether the memory suffices for batches of this size."""
        capacities = self.capacities(self.cut(size), group)
        rows = self.view_bytes + self._row_bytes(capacities) * self.workers
        if self.memory is not None:  # to count all takes longer
            return rows <= self.memory and self.needed(size, group) <= self.memory
        windows = sum(
            _window_numbers(step, capacities[step.table], step.sources[0] in self.spans.in_place)
            for step in self.plan.steps
            if step.delta
        )
        scratch = max(
            _largest_arrays(step, self._itemsize, self._rows(step, capacities))
            for step in self.plan.steps
        )
        return rows + (windows + scratch) * self.workers <= self.usual

    def template_bytes(self, size: int, group: int) -> int:
        """Bytes of the templates of row numbers that are kept at most."""
        if self.memory is None:
            return MOST_BYTES
        batches = self.cut(size)
        return sum(self._numbers(self.capacities(batches, group), batches)) // TEMPLATES

    def _rows(self, step: Step, capacities: Mapping[int, int]) -> int:
        """Rows that a step computes at most."""
        return capacities[step.table] if step.delta else self.plan.tables[step.table].rows

    def _row_bytes(self, capacities: Mapping[int, int]) -> int:
        """Bytes of one worker's delta rows."""
        copied = max((self._distinct(n, capacities) for n in self.distinct), default=0)
        rows = self.arena(capacities).size + self.area(capacities).size + copied
        return rows * self._itemsize

    def _numbers(self, capacities: Mapping[int, int], batches: list[Ints]) -> list[int]:
        """Bytes of the row numbers of each step that computes delta rows."""
        order, tables, in_place = _in_order(batches), self.plan.tables, self.spans.in_place
        return [
            number_bytes(
                s, tables, capacities[s.table], in_place, self._reads.of_batches(n, *order)
            )
            for n, s in enumerate(self.plan.steps)
            if s.delta
        ]

    def _positions(self, capacities: Mapping[int, int]) -> int:
        """Bytes of the positions of delta rows: of each the query, and a key along each axis."""
        tables = self.plan.tables
        regions = {
            (id(boxes), tables[table].positions): NUMBER * (rank + 1) * capacities[table]
            for table, boxes in self.boxes.items()
            if (rank := len(tables[table].positions))
        }
        return sum(regions.values())

    def _distinct(self, number: int, capacities: Mapping[int, int]) -> int:
        """Elements of the distinct rows of a step."""
        table = self.plan.tables[self.plan.steps[number].table]
        return math.ceil(self.distinct[number] * capacities[table.id]) * table.columns

    def batch(self) -> int:
        """Queries of a batch for which the memory suffices."""
        # Each worker reads every kernel once per batch: of few queries it had better have one.
        share = max(1, -(-self.queries // self.workers))
        even = {-(-share // parts) for parts in range(1, EVEN_PARTS + 1)}
        for queries in sorted({*BATCHES, *even}, reverse=True):
            if queries > min(share, BATCHES[0]):
                continue
            if self.holds(queries, 1):
                count = -(-self.queries // queries)
                count = -(-count // self.workers) * self.workers
                return max(1, -(-self.queries // count))
        return 1

    @property
    def least(self) -> int:
        """Bytes that one worker takes for one query at a time: no run takes less."""
        return replace(self, workers=1).needed(1, 1)

    def fitted(self, memory: int) -> Footprint:
        """For a budget: no more workers than it has memory for with one query each, but one."""
        each = max(1, self.least - self.fixed_bytes)
        fitting = (memory - self.fixed_bytes) // each
        return replace(self, workers=max(1, min(self.workers, fitting)))

    def group(self, size: int) -> int:
        """Batches of this size that are run through the tail at once."""
        most = 1 if self.tail is None else max(1, min(QUERIES, self.queries) // size)
        return max((n for n in range(1, most + 1) if self.holds(size, n)), default=1)

"""Binding: what a step needs to run on a batch of queries, or on a whole relation for a view."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.ir.equations import Condition, equal
from kqo.ir.nodes import GROUPED, Domain, Node, Physical
from kqo.ir.schema import Axes, shape, size
from kqo.ir.window import Window, group_products, roles, tiling
from kqo.ir.winograd import points_of
from kqo.planner.cost import BLOCK_BYTES, FEWEST_ROWS
from kqo.planner.physical import Step, Table
from kqo.runtime.hulls import read_hulls
from kqo.runtime.rows import (
    IDENTITY_ROW,
    PADDING_ROWS,
    ZERO,
    Ints,
    Region,
    Source,
    joined,
    lookup,
)
from kqo.runtime.strips import has_strips, read_strips
from kqo.runtime.templates import FEWEST_NUMBERS, Reads, Templates
from kqo.runtime.tiles import FEWEST_SHARED, Tiles, place
from kqo.runtime.workspace import Input

if TYPE_CHECKING:
    from kqo.runtime.sharing import Shared

Values = NDArray[Any]
SHARED = 400_000
"""Elementwise operations that are worth handing a part of to another thread."""
PRODUCTS = 64
"""Multiply-adds of a matrix product that take as long as one elementwise operation."""


@dataclass(eq=False)
class Bound:
    """A step bound to rows. Emitted code reads it as ``s``.

    Attributes:
        target: the rows that the step writes, shape (rows, columns).
        inputs: what it reads; None for constants, which emitted code takes from ``k``.
        blocks: ranges of rows (of tiles, for a Winograd form) that are worked on together.
        tiles: for a Winograd form, how its rows are covered.
        kinds: for a Winograd form, the input rows of each tile, by kind.
        counts: for a mean, members of each row's group.
        plain: for a plain form, computes and writes a range of rows.
        overlay: for the rows that the workload changed, writes a range of rows.
        starts: for an additive form, changed rows before those of each query, and of all.
        view: for an additive form, the view rows of what it reads.
        shared: how the rows of the batch are put together, where the step computes distinct ones.
        siblings: of a step that computes other steps' rows too, what these write and read.
    """

    target: Values
    inputs: tuple[Input | None, ...]
    blocks: list[tuple[int, int]]
    region: Region
    tiles: Tiles | None = None
    kinds: tuple[Input, ...] = ()
    counts: Values | None = None
    plain: Callable[[int, int], None] | None = None
    overlay: Callable[[int, int], None] | None = None
    starts: Ints | None = None
    view: Values | None = None
    shared: Shared | None = None
    siblings: tuple[Bound, ...] = ()

    def old_sum(self) -> Values:
        """The sum over all view rows, added up in float64, shape (columns,)."""
        assert self.view is not None
        total: Values = np.add.reduce(self.view, axis=0, dtype=np.float64)
        return total.astype(self.view.dtype)

    def members(self, a: int, z: int) -> Values:
        """Members of the groups of rows a to z, shape (z - a, 1)."""
        assert self.counts is not None
        return self.counts[a:z]


def row_blocks(
    rows: int, bytes_per_row: int, fewest: int = FEWEST_ROWS, parts: int = 1
) -> list[tuple[int, int]]:
    """Ranges of rows whose scratch stays within the cache, of nearly equal length.

    Args:
        rows: number of rows.
        bytes_per_row: of scratch.
        fewest: rows of a block, however many bytes they take.
        parts: blocks to cut into at least.
    """
    most = max(fewest, BLOCK_BYTES // max(1, bytes_per_row))
    count = max(-(-rows // most), min(parts, rows // FEWEST_SHARED))
    if count == 0:
        return []
    size = -(-rows // count)
    return [(a, min(a + size, rows)) for a in range(0, rows, size)]


def _query_blocks(starts: Ints, bytes_per_row: int) -> list[tuple[int, int]]:
    """Ranges of queries whose changed rows stay within the cache."""
    most = max(FEWEST_ROWS, BLOCK_BYTES // max(1, bytes_per_row))
    blocks: list[tuple[int, int]] = []
    a, count = 0, len(starts) - 1
    while a < count:
        z = max(int(np.searchsorted(starts, starts[a] + most, side="right")) - 1, a + 1)
        blocks.append((a, min(z, count)))
        a = blocks[-1][1]
    return blocks


def _in_parts(rows: Input, parts: int) -> Input:
    """Rows that are read in parts: each part of the columns is a row of its own."""
    assert rows.index is not None
    columns = rows.buffer.shape[1] // parts
    return Input(rows.buffer.reshape(-1, columns), rows.index * parts)


def natural_reads(positions: Axes) -> tuple[tuple[str, Condition], ...]:
    """Conditions of a natural join: every position axis is read at its own name."""
    return tuple((axis.name, equal(axis.name, axis.name)) for axis in positions)


class Binder:
    """Binds steps to rows, given the tables and where their rows lie.

    Args:
        tables: of the plan.
        buffers: their rows.
        regions: which rows are delta rows, by table.
        slots: where those begin, by table.
        templates: of row numbers.
        parts: threads that share a step's rows where the step is worth it.
        ends: the row behind the last that each table has memory for, where that is to be checked.
    """

    def __init__(
        self,
        tables: tuple[Table, ...],
        buffers: list[Values],
        regions: dict[int, Region],
        slots: dict[int, int],
        templates: Templates | None = None,
        parts: int = 1,
        ends: Mapping[int, int] | None = None,
    ) -> None:
        self.parts = parts
        self.tables = tables
        self.buffers = buffers
        self.regions = regions
        self.slots = slots
        self.templates = templates or Templates()
        self.ends = ends

    def parts_of(self, operations: int) -> int:
        """Into how many parts a step is cut: handing over less takes longer than doing it."""
        return self.parts if operations > SHARED else 1

    def target(self, step: Step, out: Region) -> Values:
        """The rows that a step writes, shape (rows, columns).

        Raises:
            PlanError: the table has no memory for as many. Other tables lie behind it, which would
                be written over: all rows of delta steps are asked for here, batch by batch.
        """
        start = self.slots[step.table] if step.delta else PADDING_ROWS
        if step.delta and self.ends is not None and start + out.count > self.ends[step.table]:
            room = self.ends[step.table] - start
            raise PlanError(
                f"step {step.name or step.form} has {out.count} rows in a batch, and there is"
                f" memory for {room}",
                hint="an error of kqo; please report it with the model, the workload and options",
            )
        return self.buffers[step.table][start : start + out.count]

    def source(self, table: int, delta: bool) -> Source:
        """Where a table's rows lie for a step that computes delta rows, or view rows."""
        about = self.tables[table]
        region = self.regions.get(table) if delta else None
        view = PADDING_ROWS if about.view else -1
        return Source(about.positions, view, region, self.slots.get(table, 0))

    def read(
        self,
        table: int,
        out: Region,
        reads: tuple[tuple[str, Condition], ...],
        taps: Axes,
        missing: int,
        delta: bool,
    ) -> Input:
        """Row numbers for reading a table through a join's conditions."""
        source = self.source(table, delta)
        buffer = self.buffers[table]
        natural = not taps and all(c == equal(a, a) for a, c in reads)
        if natural and tuple(a for a, _ in reads) == tuple(a.name for a in out.positions):
            if source.region is not None and source.region.same_rows(out):
                return Input(buffer, None, source.slot)
            # Of other extents, as in padding, equal keys have other row numbers.
            same = source.positions == out.positions
            if source.region is None and same and out.whole and out.boxes.queries == 1:
                return Input(buffer, None, source.view)
        return Input(buffer, self.templates.lookup(out.points, source, reads, taps, missing))

    def bind(self, step: Step, out: Region, last: Bound | None = None) -> Bound:
        """Bind a step to the output rows ``out``; ``last`` is what it was bound to before."""
        table = self.tables[step.table]
        target = self.target(step, out)
        if step.form == "opaque":
            return Bound(target, (), [(0, out.count)] if out.count else [], out)
        if step.form in ("plain", "patch"):
            parts = self.parts_of(out.count * table.columns)
            blocks = row_blocks(out.count, table.columns * 16, parts=parts)
            bound = Bound(target, (), blocks, out)
            return bound
        if step.form == "concat":
            read = self._all_natural(step, step.node.inputs, out)
            parts = self.parts_of(out.count * table.columns)
            blocks = row_blocks(out.count, table.columns * 8, parts=parts)
            return Bound(target, read, blocks, out)
        assert isinstance(step.node, Physical)
        window = roles(step.node)
        agg = step.node.agg
        operands = self._all_natural(step, step.node.inputs, out, skip=2)
        assert step.sources[0] is not None
        if step.form == "winograd":
            before = last.tiles if last is not None else None
            return self._bind_winograd(step, step.node, window, out, target, operands, before)
        if step.form == "additive":
            return self._bind_additive(step, out, target, operands)
        weighted = step.form == "taps" and not isinstance(step.node.weight, Domain)
        overlapping = self._overlapping_reads(step, window, out, weighted)
        if overlapping is not None:
            first, blocks = overlapping
            return Bound(target, (first, None, *operands), blocks, out)
        reads = window.reads if agg else natural_reads(self.tables[step.sources[0]].positions)
        taps = window.taps if agg else ()
        first = self.read(step.sources[0], out, reads, taps, IDENTITY_ROW[agg], step.delta)
        by_column = step.form in ("taps", "rowwise")
        one_by_one = by_column and not weighted
        if step.form == GROUPED and first.index is not None:
            first = _in_parts(first, group_products(window, step.node.weight))
        per_row = table.columns if one_by_one else window.tap_count * first.buffer.shape[1]
        fewest = 32 if by_column else FEWEST_ROWS
        each = window.tap_count if by_column else per_row // PRODUCTS
        columns = sum(self.tables[written].columns for written in step.writes)
        parts = self.parts_of(out.count * columns * each)
        per_row = max(per_row, columns) if step.siblings else per_row
        blocks = row_blocks(out.count, per_row * target.itemsize, fewest, parts)
        bound = Bound(target, (first, None, *operands), blocks, out)
        bound.siblings = tuple(self._sibling(sibling, out) for sibling in step.siblings)
        if agg == "mean" and first.index is not None:
            present = (first.index >= PADDING_ROWS).sum(axis=1, keepdims=True)
            bound.counts = np.maximum(present, 1).astype(target.dtype)
        elif agg == "mean":
            bound.counts = np.ones((out.count, 1), dtype=target.dtype)
        return bound

    def _sibling(self, step: Step, out: Region) -> Bound:
        """What a sibling of a step writes, and reads beside the product."""
        operands = self._all_natural(step, step.node.inputs, out, skip=2)
        return Bound(self.target(step, out), (None, None, *operands), [], out)

    def _bind_additive(
        self, step: Step, out: Region, target: Values, operands: tuple[Input | None, ...]
    ) -> Bound:
        """The view's sum, and the changed rows of each query with those that they replace."""
        table = step.sources[0]
        assert table is not None
        region, about, buffer = self.regions[table], self.tables[table], self.buffers[table]
        reads = natural_reads(about.positions)
        view = Source(about.positions, PADDING_ROWS, None, 0)
        old = self.templates.lookup(region.points, view, reads, (), ZERO)[:, 0]
        starts = np.concatenate([[0], np.cumsum(region.sizes.sum(axis=1))])
        first = Input(buffer, old, self.slots[table])
        blocks = _query_blocks(starts, about.columns * target.itemsize)
        bound = Bound(target, (first, None, *operands), blocks, out)
        bound.starts = starts
        bound.view = buffer[PADDING_ROWS : PADDING_ROWS + about.rows]
        return bound

    def _overlapping_reads(
        self, step: Step, window: Window, out: Region, weighted: bool
    ) -> tuple[Input, list[tuple[int, int]]] | None:
        """What a step reads, and its blocks, where windows overlap and what they read is gathered
        once: in strips, or in the hulls of boxes. None where each is gathered by itself.

        Args:
            step: of the plan.
            window: its window.
            out: output rows.
            weighted: whether it has one filter per feature.
        """
        assert step.sources[0] is not None
        buffer = self.buffers[step.sources[0]]
        columns = buffer.shape[1]
        source, each = self.source(step.sources[0], step.delta), columns * buffer.itemsize
        if step.form == "gather_gemm" and has_strips(window, columns, buffer.itemsize):
            each *= window.tap_count
            strips = read_strips(out, source, window, self.templates, row_bytes=each)
            if strips is not None:
                return Input(buffer, strips.index, strips=strips.strips), strips.blocks
        elif weighted and step.delta:
            found = read_hulls(out, source, window, self.templates, each, columns)
            if found is not None:
                return Input(buffer, None, hulls=found[0]), found[1]
        return None

    def _all_natural(
        self, step: Step, nodes: tuple[Node, ...], out: Region, skip: int = 0
    ) -> tuple[Input | None, ...]:
        found: list[Input | None] = []
        for _, table in list(zip(nodes, step.sources, strict=True))[skip:]:
            if table is None:
                found.append(None)
                continue
            reads = natural_reads(self.tables[table].positions)
            found.append(self.read(table, out, reads, (), ZERO, step.delta))
        return tuple(found)

    def _bind_winograd(
        self,
        step: Step,
        node: Physical,
        window: Window,
        out: Region,
        target: Values,
        operands: tuple[Input | None, ...],
        before: Tiles | None,
    ) -> Bound:
        """Tiles of each box, strip after strip, so that a block's outputs are one run of rows."""
        assert step.sources[0] is not None
        sizes = tiling(window, node.tile)
        buffer = self.buffers[step.sources[0]]
        inputs = points_of(sizes)
        per_tile = inputs * buffer.shape[1] * buffer.itemsize
        work = out.count * inputs // math.prod(m for m, _ in sizes) * buffer.shape[1]
        work = work * self.tables[step.table].columns // PRODUCTS
        tiles = place(out, window, sizes, per_tile, self.parts_of(work), before)
        source = self.source(step.sources[0], step.delta)
        numbers = self._tile_rows(tiles, source, window.reads)
        bound = Bound(target, (None, None, *operands), list(tiles.blocks), out)
        bound.tiles, bound.kinds = tiles, tuple(Input(buffer, rows) for rows in numbers)
        return bound

    def _tile_rows(self, tiles: Tiles, source: Source, reads: Reads) -> list[Ints]:
        """For each kind of tile the rows of its inputs."""
        every = list(zip(tiles.points, tiles.layout.windows, strict=True))
        if any(points.count * size(taps) >= FEWEST_NUMBERS for points, taps in every):
            return [self.templates.lookup(p, source, reads, taps, ZERO) for p, taps in every]
        # At once, as if all were large: of few tiles, calls take longer than the numbers.
        points, taps = joined(tiles.points), max(tiles.layout.windows, key=size)
        extents = shape(taps)
        numbers = lookup(points, source, reads, taps, ZERO).reshape(points.count, *extents)
        found: list[Ints] = []
        done = 0
        for own, fewer in every:
            kept = tuple(slice(0, extent) for extent in shape(fewer))
            rows = numbers[(slice(done, done + own.count), *kept)]
            found.append(rows.reshape(own.count, size(fewer)))
            done += own.count
        return found

"""Memory of an engine on a device: rows, region tables and scratch for a size of batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.emit.cuda_program import STATE, Arg, Extent, Program
from kqo.emit.cuda_rows import PADDING_ROWS
from kqo.planner.physical import PhysicalPlan
from kqo.runtime.cuda.device import Device
from kqo.runtime.cuda.memory import Layout, lay_out
from kqo.runtime.cuda.regions import Regions, changed_table, per_batch

WORD = 4


class Capacities:
    """How many rows and tiles the largest batch has, for a size of batch."""

    def __init__(self, plan: PhysicalPlan, program: Program, regions: Regions, batch: int) -> None:
        self.plan = plan
        self.program = program
        self.batch = batch
        self.counts = [r.rows for r in regions.tables]
        self.counts += [regions.tables[r].tiles(m) for r, m in program.tilings]
        self.regions = len(regions.tables)
        self.each = [per_batch(count, batch) for count in self.counts]
        self.most = [int(each.max()) for each in self.each]
        self.of = regions.of
        tables = [*regions.tables, *(regions.tables[r] for r, _ in program.tilings)]
        self._region_words = sum(r.rows.size * (2 * len(r.positions) + 1) for r in tables)
        self.itemsize = np.dtype(program.stored).itemsize

    def items(self, extent: Extent) -> int:
        """Most items that a launch covers."""
        if extent.queries:
            return self.batch
        if extent.tiling >= 0:
            return self.most[self.regions + extent.tiling]
        return self.most[extent.region] if extent.region >= 0 else extent.fixed

    @cached_property
    def layout(self) -> Layout:
        """Where rows lie."""
        return lay_out(
            self.plan, {t: self.most[r] for t, r in self.of.items()}, self.program.placed
        )

    def scratch(self) -> dict[str, int]:
        """Floats of each piece of scratch memory: what the largest step takes."""
        found: dict[str, int] = {}
        for piece in self.program.scratch:
            size = self.items(piece.extent) * piece.floats
            found[piece.name] = max(found.get(piece.name, 0), size)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of rows, region tables, row numbers and scratch, without constants and results."""
        words = 2 * sum(self.most) + sum(self.scratch().values()) + self._region_words
        return self.itemsize * self.layout.elements + WORD * words


class Buffers:
    """Arrays on the device for one size of batch, and the arguments of launches."""

    def __init__(
        self,
        device: Device,
        plan: PhysicalPlan,
        program: Program,
        regions: Regions,
        *,
        constants: Mapping[str, Any],
        batch: int,
    ) -> None:
        xp = device.xp
        self.capacities = Capacities(plan, program, regions, batch)
        self.batch = batch
        self.tables = []
        layout = self.capacities.layout
        self.rows = xp.empty(max(1, layout.elements), dtype=program.stored)
        for table, first in zip(plan.tables, layout.tables, strict=True):
            rows = PADDING_ROWS + (table.rows if table.view else 0)
            part = self.rows[first : first + rows * table.columns]
            buffer = part.reshape(rows, table.columns)
            buffer[0], buffer[1], buffer[2] = 0, -math.inf, math.inf
            self.tables.append(buffer)
        spans = [
            (first + PADDING_ROWS * table.columns, table.rows * table.columns)
            for table, first in zip(plan.tables, layout.tables, strict=True)
            if table.view
        ]
        self.spans = xp.asarray(np.array(spans or [(0, 0)], dtype=np.int64))
        self.constants = constants
        self.scratch = {
            name: xp.empty(max(1, size), dtype=xp.float32)
            for name, size in self.capacities.scratch().items()
        }
        self.changed = {
            number: xp.asarray(changed_table(boxes).ravel())
            for number, boxes in regions.changed.items()
        }
        self.results: dict[str, Any] = {}
        self._bind(device, program, regions)

    def _bind(self, device: Device, program: Program, regions: Regions) -> None:
        """The pools of integers: region tables, what bind_rows needs to know, the schedule."""
        xp, capacities = device.xp, self.capacities
        about: list[list[int]] = []
        extents: list[int] = []
        pool: list[NDArray[np.int32]] = []
        self._boxes: list[tuple[int, int]] = []
        self._points: list[int] = []
        entries = [(r, (0, 0)) for r in range(len(regions.tables))]
        boxes_at = points_at = 0
        for number, (place, outputs) in enumerate([*entries, *program.tilings]):
            region = regions.tables[place]
            table = region.table(capacities.counts[number], self.batch)
            rank = len(region.positions)
            about.append([boxes_at, points_at, region.many, rank, *outputs, len(extents), 0])
            self._boxes.append((boxes_at, boxes_at + table.size))
            self._points.append(points_at)
            extents += [a.extent or 0 for a in region.positions]
            pool.append(table.ravel())
            boxes_at += table.size
            points_at += capacities.most[number]
        self.entries = len(about)
        self.regions = len(regions.tables)
        self.most_boxes = max((r.many for r in regions.tables), default=1)
        self.about = xp.asarray(np.array(about or [[0] * 8], dtype=np.int32))
        self.extents = xp.asarray(np.array(extents or [0], dtype=np.int32))
        joined = np.concatenate(pool) if pool else np.zeros(1, dtype=np.int32)
        self.pool = xp.asarray(joined)
        self.points = xp.empty((max(1, points_at), 2), dtype=xp.int32)
        self.schedule = self._schedule(regions)
        self.width = self.schedule.shape[1]
        self.schedule = xp.asarray(self.schedule)
        self.state = xp.zeros(STATE + self.entries, dtype=xp.int32)

    def _schedule(self, regions: Regions) -> NDArray[np.int32]:
        """Of each batch: first query, queries, rows of each region, tiles of each tiling."""
        some = next(iter(regions.tables), None)
        queries = some.boxes.queries if some is not None else 1
        firsts = np.arange(0, queries, self.batch)
        counts = np.minimum(self.batch, queries - firsts)
        return np.stack([firsts, counts, *self.capacities.each], axis=1).astype(np.int32)

    def argument(self, arg: Arg) -> Any:
        """The array or number that an argument means."""
        ref = arg.ref
        if arg.kind == "state":
            return self.state
        if isinstance(ref, str):
            where = {"constant": self.constants, "scratch": self.scratch, "result": self.results}
            return where[arg.kind][ref]
        if arg.kind == "count":
            return self.state[STATE + ref :]
        if arg.kind == "tile_count":
            return self.state[STATE + self.regions + ref :]
        if arg.kind == "points":
            return self.points[self._points[ref] :]
        if arg.kind == "tiles":
            return self.points[self._points[self.regions + ref] :]
        if arg.kind == "boxes":
            return self.pool[self._boxes[ref][0] : self._boxes[ref][1]]
        if arg.kind == "start":
            return self.capacities.layout.starts[ref]
        if arg.kind == "stride":
            return self.capacities.most[self.regions + ref]
        return self.changed[ref] if arg.kind == "changed" else self.tables[ref]

    @property
    def nbytes(self) -> int:
        """Bytes on the device, without constants."""
        arrays = [self.rows, *self.scratch.values(), *self.changed.values()]
        arrays += [self.pool, self.points, self.schedule, self.state, *self.results.values()]
        return sum(int(a.nbytes) for a in arrays)

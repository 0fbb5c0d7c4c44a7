"""The arrays of a run: views, delta rows and scratch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.plan import Array
from kqo.planner.physical import Table
from kqo.runtime.footprint import Footprint
from kqo.runtime.plain import layout
from kqo.runtime.rows import PADDING_ROWS
from kqo.runtime.workspace import Workspace

Values = NDArray[Any]


class Storage:
    """Memory for all tables of a plan, and where each worker's delta rows lie in it.

    Attributes:
        buffers: by table, its padding rows, its view, and delta rows somewhere behind them.
        rows: the same as each worker sees them: with its own rows of the tables read in place.
        slots: for each worker the first delta row of each table, counted in that buffer.
        ends: for each worker the row behind the last that each table has memory for.
        workspaces: scratch of each worker.

    Args:
        footprint: of the plan.
        capacities: by table the most delta rows that it holds at a time.
    """

    def __init__(self, footprint: Footprint, capacities: Mapping[int, int]) -> None:
        self._tables = footprint.plan.tables
        self._dtype = np.dtype(footprint.plan.dtype)
        workers = range(footprint.workers)
        self.slots: list[dict[int, int]] = [{} for _ in workers]
        self.buffers = self._shared(footprint, capacities)
        for table in self._tables:
            if table.view and table.name in footprint.plan.constants:
                self.fill(table, footprint.plan.constants[table.name])
        self.workspaces = [Workspace(self._dtype) for _ in workers]
        arena = footprint.arena(capacities)
        self._arenas = [np.empty(arena.size, dtype=self._dtype) for _ in workers]
        self.rows = [list(self.buffers) for _ in workers]
        for table_id, offset in arena.offsets.items():
            rows, columns = capacities[table_id], self._tables[table_id].columns
            for worker in workers:
                part = self._arenas[worker][offset : offset + rows * columns]
                self.rows[worker][table_id] = part.reshape(rows, columns)
                self.slots[worker][table_id] = 0
        self.ends = [{t: at + capacities[t] for t, at in slots.items()} for slots in self.slots]

    def _shared(self, footprint: Footprint, capacities: Mapping[int, int]) -> list[Values]:
        """The buffers: one array, seen in rows of each width, at whose end tables share memory."""
        begins: dict[int, int] = {}
        end = 0
        for table in self._tables:
            begins[table.id] = -(-end // table.columns)
            rows = PADDING_ROWS + (table.rows if table.view else 0)
            end = (begins[table.id] + rows) * table.columns
        area = footprint.area(capacities)
        self._array = np.empty(end + footprint.workers * area.size, self._dtype)
        for table_id, offset in area.offsets.items():
            columns = self._tables[table_id].columns
            for worker, slots in enumerate(self.slots):
                first = -(-(end + worker * area.size + offset) // columns)
                slots[table_id] = first - begins[table_id]
        found = []
        for table in self._tables:
            count = self._array.size // table.columns
            rows_of = self._array[: count * table.columns].reshape(count, table.columns)
            found.append(rows_of[begins[table.id] :])
        for buffer in found:
            buffer[0], buffer[1], buffer[2] = 0, -math.inf, math.inf
        return found

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held: list[Values | Workspace] = [self._array, *self._arenas, *self.workspaces]
        return sum(a.nbytes for a in held)

    def views(self) -> Iterator[Values]:
        """The rows of base relations and views."""
        for table in self._tables:
            if table.view:
                yield self.buffers[table.id][PADDING_ROWS : PADDING_ROWS + table.rows]

    def fill(self, table: Table, value: Array) -> None:
        """Write a whole relation, shaped as its axes, into the table's view rows."""
        order = np.argsort(layout(table.axes))
        rows = np.asarray(value).transpose(order).reshape(table.rows, table.columns)
        self.buffers[table.id][PADDING_ROWS : PADDING_ROWS + table.rows] = rows

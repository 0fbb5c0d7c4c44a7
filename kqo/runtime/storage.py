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

    def _shared(self, footprint: Footprint, capacities: Mapping[int, int]) -> list[Values]:
        """The buffers: parts of one array per width, at whose end its tables share rows."""
        begins: dict[int, int] = {}
        ends: dict[int, int] = {}
        for table in self._tables:
            begins[table.id] = ends.get(table.columns, 0)
            rows = PADDING_ROWS + (table.rows if table.view else 0)
            ends[table.columns] = begins[table.id] + rows
        areas = footprint.areas(capacities)
        whole = {}
        for columns, end in ends.items():
            size = areas[columns].size if columns in areas else 0
            whole[columns] = np.empty((end + footprint.workers * size, columns), self._dtype)
        for columns, area in areas.items():
            for table_id, offset in area.offsets.items():
                for worker, slots in enumerate(self.slots):
                    first = ends[columns] + worker * area.size + offset
                    slots[table_id] = first - begins[table_id]
        self._arrays = list(whole.values())
        found = [whole[table.columns][begins[table.id] :] for table in self._tables]
        for buffer in found:
            buffer[0], buffer[1], buffer[2] = 0, -math.inf, math.inf
        return found

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held: list[Values | Workspace] = [*self._arrays, *self._arenas, *self.workspaces]
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

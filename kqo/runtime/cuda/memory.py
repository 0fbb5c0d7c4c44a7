"""Where rows lie in a device's memory: delta rows that are not needed at the same time share it.

Each table begins with padding and view rows of its own. Its delta rows lie in a common area behind
all tables, a whole number of its rows away from its beginning, so that kernels number view and
delta rows alike. Places are given out greedily by size: Pisarchyk and Lee, "Efficient Memory
Management for Deep Neural Net Inference", 2020, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kqo.emit.cuda_rows import PADDING_ROWS
from kqo.planner.physical import PhysicalPlan

ALIGNED = 64
"""Elements that the beginning of a table is aligned to: more than any copy of a kernel needs."""
NARROW = 16
"""Tables of fewer columns have delta rows of their own: row numbers are 32-bit integers."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets, in elements, within one piece of memory.

    Attributes:
        tables: first element of each table, by id.
        starts: number of the first delta row, by table that has delta rows.
        elements: of the whole.
    """

    tables: tuple[int, ...]
    starts: Mapping[int, int]
    elements: int


def lives(plan: PhysicalPlan, placed: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """For each table with delta rows the first step that writes and the last that reads them.

    Args:
        plan: the physical plan.
        placed: by table whose delta rows are columns of another table's, that table.
    """
    found: dict[int, tuple[int, int]] = {}
    for number, step in enumerate(plan.steps):
        if step.delta:
            written = placed.get(step.table, step.table)
            found.setdefault(written, (number, number))
            for table in (written, *step.sources):
                if table in found:
                    found[table] = (found[table][0], number)
    for _, table, _ in plan.roots:
        if table in found:
            found[table] = (found[table][0], len(plan.steps))
    return found


def lay_out(plan: PhysicalPlan, delta_rows: Mapping[int, int], placed: Mapping[int, int]) -> Layout:
    """Places for all rows.

    Args:
        plan: the physical plan.
        delta_rows: of the largest batch, by table that has delta rows.
        placed: by table whose delta rows are columns of another table's, that table.
    """
    delta_rows = {t: rows for t, rows in delta_rows.items() if t not in placed}
    tables: list[int] = []
    starts: dict[int, int] = {}
    end = 0
    for table in plan.tables:
        tables.append(end)
        rows = PADDING_ROWS + (table.rows if table.view else 0)
        if table.id in delta_rows and table.columns < NARROW:
            starts[table.id] = rows
            rows += delta_rows[table.id]
        end = _up(end + rows * table.columns, 0, ALIGNED)
    alive = lives(plan, placed)
    shared = [t for t in delta_rows if t not in starts]
    shared.sort(key=lambda t: (-delta_rows[t] * plan.tables[t].columns, t))
    given: list[tuple[int, int, tuple[int, int]]] = []  # first element, last, life
    for number in shared:
        columns, base = plan.tables[number].columns, tables[number]
        size, life = delta_rows[number] * columns, alive.get(number, (0, len(plan.steps)))
        at = _up(end, base, columns)
        for first, last, other in sorted(given):
            if other[1] < life[0] or life[1] < other[0]:
                continue
            if at + size <= first:
                break
            at = max(at, _up(last, base, columns))
        given.append((at, at + size, life))
        starts[number] = (at - base) // columns
    return Layout(tuple(tables), starts, max([end, *(last for _, last, _ in given)]))


def _up(offset: int, base: int, step: int) -> int:
    """The first place from ``offset`` on that is a multiple of ``step`` away from ``base``."""
    return base - (base - offset) // step * step

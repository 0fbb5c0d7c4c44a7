"""Where delta rows lie: beside a view where a gather needs both, otherwise in memory that is
reused.

A relation that later steps gather from has its delta rows in the same buffer as its view, so that
one row number tells them apart. One that is only ever read in place, row for row, needs no view
within a
batch: its rows lie in an arena, in which relations that are not alive at the same time share
memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kqo.ir.boxes import Boxes
from kqo.ir.equations import equal
from kqo.ir.nodes import Node, Physical
from kqo.ir.schema import names, positions
from kqo.ir.window import roles
from kqo.planner.physical import PhysicalPlan, Step

ALIGNMENT = 64
"""Elements that arena offsets are multiples of."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Offsets, in elements, of the relations that share memory, and how much they need together."""

    offsets: Mapping[int, int]
    size: int


def _in_place(plan: PhysicalPlan, step: Step, number: int, boxes: Mapping[int, Boxes]) -> bool:
    """Whether a step reads its input of this number row for row, without row numbers."""
    source = step.sources[number]
    node: Node = step.node
    if source is None or not step.delta or not isinstance(node, Physical):
        return False
    own, other = plan.tables[step.table], plan.tables[source]
    if own.positions != other.positions or boxes.get(source) is not boxes[step.table]:
        return False
    if number > 0 or not node.agg:
        return True
    window = roles(node)
    return (
        step.form != "winograd"
        and not window.taps
        and all(condition == equal(axis, axis) for axis, condition in window.reads)
        and names(window.rows) == names(positions(node.input.schema))
    )


def unpinned(plan: PhysicalPlan, boxes: Mapping[int, Boxes]) -> dict[int, tuple[int, int]]:
    """Tables whose delta rows are only read in place, with the steps at which they are alive."""
    found: dict[int, tuple[int, int]] = {}
    pinned = {table for _, table, _ in plan.roots}
    for at, step in enumerate(plan.steps):
        if step.delta:
            if step.form in ("plain", "patch"):
                pinned.add(step.table)
            found.setdefault(step.table, (at, at))
        for number, source in enumerate(step.sources):
            if source is None or source not in boxes or not step.delta:
                continue
            if _in_place(plan, step, number, boxes):
                first, last = found.get(source, (at, at))
                found[source] = (first, max(last, at))
            else:
                pinned.add(source)
    return {table: span for table, span in found.items() if table not in pinned}


def pack(spans: Mapping[int, tuple[int, int]], sizes: Mapping[int, int]) -> Arena:
    """Place tables in an arena, the largest first, each at the lowest offset that is free while it
    lives.

    Args:
        spans: first and last step at which each table is alive.
        sizes: elements of each table.
    """
    placed: list[tuple[int, int, int, int]] = []
    offsets: dict[int, int] = {}
    for table in sorted(spans, key=lambda t: (-sizes[t], t)):
        first, last = spans[table]
        size = -(-sizes[table] // ALIGNMENT) * ALIGNMENT
        at = 0
        for low, high, begins, ends in sorted(placed):
            if begins <= last and first <= ends:
                if at + size <= low:
                    break
                at = max(at, high)
        placed.append((at, at + size, first, last))
        offsets[table] = at
    return Arena(offsets, max((high for _, high, _, _ in placed), default=0))

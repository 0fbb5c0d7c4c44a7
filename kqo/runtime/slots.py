"""Where delta rows lie, in memory that relations share which are not alive at the same time.

A relation that later steps gather from has its delta rows in the same buffer as its view, so that
one row number tells them apart: all relations share that buffer, each in rows of its own width; it
begins with their views. One that is only ever read in place, row for row, needs no view within a
batch: its rows lie in an arena.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kqo.ir.boxes import Boxes
from kqo.ir.equations import equal
from kqo.ir.nodes import Node, Physical
from kqo.ir.schema import names, positions
from kqo.ir.window import roles
from kqo.planner.physical import PhysicalPlan, Step

ALIGNMENT = 64
"""Elements that offsets of rows read in place are multiples of."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Offsets, in elements or rows, of the relations that share memory, and what they need."""

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


@dataclass(frozen=True, slots=True)
class Spans:
    """First and last step at which delta rows are needed, by table.

    Attributes:
        in_place: tables whose rows are only read in place.
        gathered: the others.
    """

    in_place: Mapping[int, tuple[int, int]]
    gathered: Mapping[int, tuple[int, int]]


def spans_of(plan: PhysicalPlan, boxes: Mapping[int, Boxes], kept: Collection[int] = ()) -> Spans:
    """The spans of the tables with delta rows.

    Args:
        plan: the physical plan.
        boxes: regions of the tables with delta rows.
        kept: tables whose rows are needed from one batch to the next.
    """
    end = len(plan.steps)
    found: dict[int, tuple[int, int]] = {}
    gathered = set(kept)
    for at, step in enumerate(plan.steps):
        if not step.delta:
            continue
        for table in step.writes:
            found.setdefault(table, (at, at))
        if step.form in ("plain", "patch"):
            gathered.add(step.table)
        for number, source in enumerate(step.sources):
            if source is None or source not in boxes:
                continue
            first, last = found.get(source, (at, at))
            found[source] = (first, max(last, at))
            if not _in_place(plan, step, number, boxes):
                gathered.add(source)
    for _, table, _ in plan.roots:
        if table in boxes:
            found[table] = (found[table][0] if table in found else 0, end)
            gathered.add(table)
    found |= dict.fromkeys(kept, (0, end))
    return Spans(
        {t: s for t, s in found.items() if t not in gathered},
        {t: s for t, s in found.items() if t in gathered},
    )


def pack(
    spans: Mapping[int, tuple[int, int]], sizes: Mapping[int, int], alignment: int = 1
) -> Arena:
    """Place tables in an arena, the largest first, each at the lowest offset that is free while it
    lives.

    Args:
        spans: first and last step at which each table is alive.
        sizes: elements, or rows, of each table.
        alignment: what offsets are multiples of.
    """
    placed: list[tuple[int, int, int, int]] = []
    offsets: dict[int, int] = {}
    for table in sorted(spans, key=lambda t: (-sizes[t], t)):
        first, last = spans[table]
        size = -(-sizes[table] // alignment) * alignment
        at = 0
        for low, high, begins, ends in sorted(placed):
            if begins <= last and first <= ends:
                if at + size <= low:
                    break
                at = max(at, high)
        placed.append((at, at + size, first, last))
        offsets[table] = at
    return Arena(offsets, max((high for _, high, _, _ in placed), default=0))

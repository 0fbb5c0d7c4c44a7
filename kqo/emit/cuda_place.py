"""Columns in place: parts of a concatenation are written where the concatenation wants them.

A part whose delta rows nothing else reads, and whose region is the concatenation's, needs no rows
of its own: the kernel that computes it writes its columns of the concatenation's rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kqo.emit.cuda_program import Shapes
from kqo.ir.nodes import Physical
from kqo.ir.scalar import V
from kqo.planner.physical import PhysicalPlan

ALIGNED = 4
"""Kernels write up to so many neighbouring columns at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table's delta rows are written: columns of another table's delta rows.

    Attributes:
        table: the other table.
        column: first of the columns there.
    """

    table: int
    column: int


def places(plan: PhysicalPlan, shapes: Shapes) -> dict[int, Place]:
    """For each table whose delta rows are written in place, where; through concatenations of
    concatenations."""
    readers = Counter(t for s in plan.steps if s.delta for t in s.sources if t is not None)
    readers.update(table for _, table, _ in plan.roots)
    writers = Counter(s.table for s in plan.steps if s.delta)
    patched = {s.table for s in plan.steps if s.form == "patch"}
    found: dict[int, Place] = {}
    for step in plan.steps:
        node = step.node
        if not (step.delta and step.form == "concat" and isinstance(node, Physical)):
            continue
        if node.tail != V or plan.tables[step.table].columns % ALIGNED:
            continue
        column = 0
        for part in (plan.tables[t] for t in step.sources if t is not None):
            mine, whole = shapes.deltas.get(part.id), shapes.deltas[step.table]
            alone = readers[part.id] == writers[part.id] == 1 and part.id not in patched
            aligned = part.columns % ALIGNED == column % ALIGNED == 0
            if mine is not None and mine.region == whole.region and alone and aligned:
                found[part.id] = Place(step.table, column)
            column += part.columns
    return {table: _resolved(place, found) for table, place in found.items()}


def _resolved(place: Place, found: Mapping[int, Place]) -> Place:
    while place.table in found:
        outer = found[place.table]
        place = Place(outer.table, outer.column + place.column)
    return place

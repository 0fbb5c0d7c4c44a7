"""Row numbers that a plan's steps are bound to, counted before a run."""

from __future__ import annotations

from collections.abc import Collection

from kqo.ir.nodes import Opaque, Overlay, Physical, Rekey
from kqo.ir.schema import size
from kqo.ir.window import roles
from kqo.planner.physical import Step, Table
from kqo.runtime.plain import moved_columns
from kqo.runtime.scratch import reads_in_place

NUMBER = 8
"""Bytes of a row number."""


def number_bytes(
    step: Step,
    tables: tuple[Table, ...],
    rows: int,
    in_place: Collection[int],
    reads: int | None = None,
) -> int:
    """Bytes of the row numbers of a step that computes so many rows, an upper estimate.

    Args:
        step: of the plan.
        tables: of the plan.
        rows: that it computes.
        in_place: tables whose delta rows are only read in place.
        reads: row numbers of what its windows read, where that is known.
    """
    if isinstance(step.node, Opaque):
        return 0
    if not isinstance(step.node, Physical):
        return _plain_bytes(step, rows, tables[step.table].columns)
    others = range(1, len(step.sources))
    found = sum(NUMBER * rows for n in others if not reads_in_place(step, n, tables, in_place))
    if step.leader is not None or reads_in_place(step, 0, tables, in_place):
        return found
    if reads is None:
        reads = rows * (roles(step.node).tap_count if step.node.agg else 1)
    # Of a Winograd form also where each row is among the outputs of tiles.
    return found + NUMBER * (reads + rows if step.form == "winograd" else reads)


def _plain_bytes(step: Step, rows: int, columns: int) -> int:
    node = step.node
    if isinstance(node, Overlay):
        return rows * (2 * NUMBER + columns)  # of old and new rows, and which columns change
    if isinstance(node, Rekey):
        return NUMBER * rows * (1 if moved_columns(node) is not None else 2 * columns)
    if not node.inputs:
        return 0  # of a relation of ones nothing is read
    window = roles(node)
    return NUMBER * rows * max(size((*window.taps, *window.kept)), len(step.sources))

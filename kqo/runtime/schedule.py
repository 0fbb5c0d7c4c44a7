"""Which queries make up a batch, and in which order a worker takes the batches.

Queries of a grid are cut into blocks of columns, and a worker walks down such a block: from one
batch to the next the regions of deep layers, whose strides are large, mostly stay the same, so that
their row numbers are not computed anew.
"""

from __future__ import annotations

import threading

import numpy as np

from kqo.ir.boxes import Boxes
from kqo.runtime.rows import Ints

RUN = 8
"""Batches that a worker takes at a time, at most."""
MORE_BATCHES = 1.25
"""How many more batches are run for the sake of blocks of one row."""


def row_length(changed: Boxes) -> int:
    """Queries of one row of the grid that the queries make up, or 0 where they are none.

    Args:
        changed: where each query changes the input.
    """
    if changed.lo.shape[1] != 1 or not changed.queries:
        return 0
    lo = changed.lo[:, 0]
    columns = np.unique(lo[:, -1])
    wide = len(columns)
    if len(lo) % wide:
        return 0
    grid = lo.reshape(-1, wide, lo.shape[1])
    in_order = (grid[:, :, -1] == columns).all() and (grid[:, :, :-1] == grid[:, :1, :-1]).all()
    return wide if in_order else 0


def batches_of(changed: Boxes, size: int) -> list[Ints]:
    """The queries of each batch, in the order in which they are best run.

    Args:
        changed: where each query changes the input; the last query changes nothing.
        size: queries per batch, at most.
    """
    queries = changed.queries
    count = queries - 1
    wide = row_length(changed.select(slice(0, count))) if count else 0
    if not wide or wide <= size:
        return _cut(np.arange(queries), size)
    columns, rows = _block(wide, count // wide, size)
    grid = np.arange(count, dtype=np.int64).reshape(-1, wide)
    found: list[Ints] = []
    for part in np.array_split(np.arange(wide), -(-wide // columns)):
        for at in range(0, len(grid), rows):
            found.append(np.ascontiguousarray(grid[at : at + rows, part]).ravel())
    smallest = min(range(len(found)), key=lambda b: len(found[b]))
    if len(found[smallest]) < size:
        found[smallest] = np.append(found[smallest], count)
    else:
        found.append(np.array([count]))
    return found


def _cut(queries: Ints, size: int) -> list[Ints]:
    """Consecutive queries, in batches of nearly equal length."""
    count = -(-len(queries) // size)
    return [np.asarray(part) for part in np.array_split(queries, count)]


def _block(wide: int, tall: int, size: int) -> tuple[int, int]:
    """Columns and rows of a block of a grid: one row, unless that takes many more batches."""
    shapes = []
    for parts in range(-(-wide // size), wide + 1):
        columns = -(-wide // parts)
        rows = min(tall, size // columns)
        shapes.append((-(-wide // columns) * -(-tall // rows), columns, rows))
    best = min(shapes)
    _, columns, rows = shapes[0] if shapes[0][0] <= MORE_BATCHES * best[0] else best
    return columns, rows


class Queue:
    """Batches still to be run: each worker takes runs of them, which get shorter at the end.

    Args:
        count: batches.
        workers: that take them.
        group: batches that a worker runs together, where it has so many.
    """

    def __init__(self, count: int, workers: int, group: int = 1) -> None:
        self._next = 0
        self._count = count
        self._workers = workers
        self._group = group
        self._lock = threading.Lock()

    def take(self) -> range:
        """The next batches for a worker; empty when none are left."""
        with self._lock:
            left = self._count - self._next
            many = max(1, min(RUN, left // (2 * self._workers)))
            many -= many % self._group if many > self._group else 0
            begin = self._next
            self._next = min(self._count, begin + many)
            return range(begin, self._next)

"""A workload bound to the shape of an input: which boxes of it change, query by query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kqo.ir.boxes import Boxes
from kqo.ir.schema import Axes, names

Ints = NDArray[np.int64]


class Lattice(NamedTuple):
    """Evenly spaced window starts: how many, the first one, and the step, on each window axis."""

    shape: tuple[int, ...]
    origin: tuple[int, ...]
    step: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Placed:
    """The region relation R(query, boxes) of a workload over one input, with its coordinates.

    Attributes:
        shape: extents of the input's axes, channels first, without the batch axis.
        query: (boxes,) number of the query that a box belongs to, in ascending order; every query
            has at least one box.
        lo: (boxes, axes) first key of each box on every axis of the input.
        hi: (boxes, axes) the key after the last; at most ``shape``.
        starts: (queries, window axes) window start of each query, on the axes that windows move
            along: the last ones of the input. For explicit regions the corner of all boxes.
        grid: shape of the grid of window starts, row-major with the last axis fastest; None where
            the queries lie on no grid.
        cells: (queries,) number of each query's cell of the grid; None where there is no grid.
    """

    shape: tuple[int, ...]
    query: Ints
    lo: Ints
    hi: Ints
    starts: Ints
    grid: tuple[int, ...] | None = None
    cells: Ints | None = None

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.starts)

    def boxes(self, axes: Axes) -> Boxes:
        """R(query, boxes) in the form that symbolic regions are evaluated in.

        Args:
            axes: key axes of the input's relation, without the query axis.
        """
        first = np.searchsorted(self.query, np.arange(len(self)))
        slot = np.arange(len(self.query)) - first[self.query]
        slots = int(slot.max()) + 1
        lo, hi = (np.zeros((len(self), slots, len(self.shape)), dtype=np.int64) for _ in range(2))
        lo[self.query, slot], hi[self.query, slot] = self.lo, self.hi
        return Boxes(names(axes), lo, hi)

    def lattice(self) -> Lattice | None:
        """The lattice that the starts fill in row-major order, None where they fill none."""
        values = [np.unique(column) for column in self.starts.T]
        steps = [np.diff(column) for column in values]
        if any(len(step) and (step != step[0]).any() for step in steps):
            return None
        whole = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(values))
        if whole.shape != self.starts.shape or (whole != self.starts).any():
            return None
        return Lattice(
            tuple(len(column) for column in values),
            tuple(int(column[0]) for column in values),
            tuple(int(step[0]) if len(step) else 1 for step in steps),
        )

    def mask(self, query: int) -> NDArray[np.bool_]:
        """Which elements of the input a query replaces, shaped as the input."""
        found = np.zeros(self.shape, dtype=np.bool_)
        first, last = np.searchsorted(self.query, [query, query + 1])
        for box in range(first, last):
            found[tuple(map(slice, self.lo[box], self.hi[box]))] = True
        return found

    def take(self, queries: Ints) -> Placed:
        """The workload of only the given queries, in the order given."""
        queries = np.asarray(queries, dtype=np.int64)
        first = np.searchsorted(self.query, queries)
        count = np.searchsorted(self.query, queries, side="right") - first
        new = np.repeat(np.arange(len(queries)), count)
        within = np.arange(len(new)) - np.repeat(np.cumsum(count) - count, count)
        rows = np.repeat(first, count) + within
        cells = None if self.cells is None else self.cells[queries]
        return Placed(
            self.shape, new, self.lo[rows], self.hi[rows], self.starts[queries], self.grid, cells
        )

"""Scratch memory of one worker: buffers grow once and are reused by every step and batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kqo.runtime.heap import scratch

if TYPE_CHECKING:
    from kqo.runtime.hulls import Hulls

Values = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Strips:
    """Runs of rows along the last axis of a window.

    Attributes:
        index: row numbers of each strip, shape (strips, taps of the last axis).
        spans: strips of each block, by its first row.
    """

    index: Ints
    spans: dict[int, tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Input:
    """Rows that a step reads.

    Attributes:
        buffer: the relation's rows, shape (all rows, columns).
        index: row numbers, shape (rows, taps), or None where row r reads row ``first + r``.
        first: the first row, where ``index`` is None.
        strips: runs of rows; ``index`` then holds numbers of strips, from the block's first on.
        hulls: what the windows of whole boxes read; ``index`` is then None.
    """

    buffer: Values
    index: Ints | None
    first: int = 0
    strips: Strips | None = None
    hulls: Hulls | None = None


class Workspace:
    """Named scratch arrays of one dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._pool: dict[str, Values] = {}
        self._filled: dict[float, Values] = {}

    @property
    def arrays(self) -> list[Values]:
        """What is held."""
        return [*self._pool.values(), *self._filled.values()]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self.arrays)

    def array(self, name: str, shape: tuple[int, ...]) -> Values:
        """An uninitialized array of this shape; the same memory for the same name."""
        size = math.prod(shape)
        held = self._pool.get(name)
        if held is None or held.size < size:
            held = None
            self._pool.pop(name, None)  # before more is taken
            self._pool[name] = held = scratch(size, self.dtype)
        return held[:size].reshape(shape)

    def temp(self, name: str, like: Values) -> Values:
        """An uninitialized array of the shape of another."""
        return self.array(name, like.shape)

    def filled(self, value: float, like: Values) -> Values:
        """An array of the shape of another that holds one value, not to be written to."""
        held = self._filled.get(value)
        if held is None or held.size < like.size:
            held = None
            self._filled.pop(value, None)
            self._filled[value] = held = scratch(like.size, self.dtype)
            held[:] = value
        return held[: like.size].reshape(like.shape)

    def gather(self, source: Input, a: int, z: int, name: str = "x") -> Values:
        """The rows that output rows a to z read, side by side: shape (z - a, taps * columns).

        Where rows are read in place this is a view of the buffer, not to be written to.
        """
        if source.index is None:
            return source.buffer[source.first + a : source.first + z]
        if source.strips is not None:
            return self._put_together(source, source.strips, a, z)
        index = source.index[a:z].ravel()
        out = self.array(name, (len(index), source.buffer.shape[1]))
        # mode="clip" lets NumPy write straight into out; "raise" goes through a copy, 4x slower.
        np.take(source.buffer, index, axis=0, out=out, mode="clip")
        return out.reshape(z - a, -1)

    def part(self, source: Input, number: int, parts: int, a: int, z: int) -> Values:
        """One of several equal parts of the columns of what :meth:`gather` gives.

        Shape (z - a, taps * columns / parts). Of a source with row numbers, the buffer has a row
        for each part, and the numbers are those of the first.
        """
        if source.index is None:
            wide = source.buffer.shape[1] // parts
            rows = source.buffer[source.first + a : source.first + z]
            return rows[:, number * wide : (number + 1) * wide]
        index = source.index[a:z].ravel()
        out = self.array("x", (len(index), source.buffer.shape[1]))
        np.take(source.buffer[number:], index, axis=0, out=out, mode="clip")
        return out.reshape(z - a, -1)

    def changes(self, source: Input, starts: Ints, a: int, z: int) -> Values:
        """For queries a to z the sum of their changed rows, less that of the rows they replace.

        Args:
            source: changed rows from ``first`` on; ``index`` are those that they replace.
            starts: changed rows before those of each query, and of all.
        """
        low, high = int(starts[a]), int(starts[z])
        columns = source.buffer.shape[1]
        found = self.array("changes", (z - a, columns))
        found[:] = 0
        if low == high or source.index is None:
            return found
        rows = self.array("x", (high - low, columns))
        np.take(source.buffer, source.index[low:high], axis=0, out=rows, mode="clip")
        np.subtract(source.buffer[source.first + low : source.first + high], rows, out=rows)
        begins = starts[a:z] - low
        some = np.flatnonzero(np.diff(starts[a : z + 1]))
        found[some] = np.add.reduceat(rows, begins[some], axis=0)
        return found

    def _put_together(self, source: Input, strips: Strips, a: int, z: int) -> Values:
        """The windows of output rows a to z, a block: its strips first, then whole runs of them."""
        assert source.index is not None
        low, high = strips.spans[a]
        rows = strips.index[low:high].ravel()
        columns = source.buffer.shape[1]
        runs = self.array("strips", (len(rows), columns))
        np.take(source.buffer, rows, axis=0, out=runs, mode="clip")
        runs = runs.reshape(high - low, -1)
        index = source.index[a:z].ravel()
        out = self.array("x", (len(index), runs.shape[1]))
        np.take(runs, index, axis=0, out=out, mode="clip")
        return out.reshape(z - a, -1)

    def windows(
        self, source: Input, t: Values, a: int, z: int, taps: tuple[int, ...]
    ) -> Iterator[tuple[Values, Values]]:
        """The windows of output rows a to z, a block, and the part of these rows, ``t``, that is
        theirs: shapes (extents..., taps..., columns) and (extents..., columns).

        Windows are views of memory that the next ones are written to.
        """
        columns = source.buffer.shape[1]
        if source.hulls is None:
            ones = (1,) * (len(taps) - 1)
            x = self.gather(source, a, z)
            yield x.reshape(z - a, *ones, *taps, columns), t.reshape(z - a, *ones, columns)
            return
        steps = source.hulls.steps
        for band in source.hulls.bands[a]:
            rows = self.array("x", (band.end - band.first, columns))
            index = source.hulls.index[band.first : band.end]
            np.take(source.buffer, index, axis=0, out=rows, mode="clip")
            own = rows.reshape(*band.hull, columns).strides
            strides = (
                *(n * stride for n, (stride, _, _) in zip(own[:-1], steps, strict=True)),
                *(n * dilation for n, (_, dilation, _) in zip(own[:-1], steps, strict=True)),
                own[-1],
            )
            shape = (*band.extent, *taps, columns)
            seen: Values = np.ndarray(shape, rows.dtype, rows, 0, strides)
            yield seen, t[band.row - a : band.row - a + band.rows].reshape(*band.extent, columns)

    def tap(self, source: Input, j: int, a: int, z: int, name: str = "tap") -> Values:
        """The rows that output rows a to z read at tap j: shape (z - a, columns).

        Where rows are read in place this is a view of the buffer, not to be written to. Never the
        target itself: NumPy would copy it, being of the same array as the buffer.
        """
        if source.index is None:
            return source.buffer[source.first + a : source.first + z]
        out = self.array(name, (z - a, source.buffer.shape[1]))
        np.take(source.buffer, source.index[a:z, j], axis=0, out=out, mode="clip")
        return out

    def transposed(self, name: str, x: Values) -> Values:
        """A contiguous copy of (rows, taps, columns) as (rows, columns, taps)."""
        rows, taps, columns = x.shape
        out = self.array(name + "_t", (rows, columns, taps))
        np.copyto(out, x.transpose(0, 2, 1))
        return out

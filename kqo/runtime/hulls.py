"""Windows within a box: what they read is gathered once, not once per tap.

The windows of a box of rows read one box of keys, its hull. Its rows are gathered, and the windows
are then views of them: a 3x3 window of stride 1 reads each row nine times from the cache, and a
little more than once from the relation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kqo.ir.boxes import Boxes
from kqo.ir.equations import Affine, equal
from kqo.ir.schema import names
from kqo.ir.window import Window, steps_of
from kqo.planner.cost import BLOCK_BYTES
from kqo.runtime.rows import ZERO, Ints, Region, Source
from kqo.runtime.templates import Templates

Steps = tuple[tuple[int, int, int], ...]
"""Stride, dilation and taps along each axis."""
FEWEST = 1 << 14
"""Elements of a box, in the mean, from which on each is worked on by itself."""


@dataclass(frozen=True, slots=True)
class Band:
    """Some planes of a box along its first axis.

    Attributes:
        first: of the numbers of the rows that it reads.
        end: one behind the last.
        row: its first output row, counted from the step's first.
        extent: of its output rows along each axis.
        hull: of what it reads along each axis.
    """

    first: int
    end: int
    row: int
    extent: tuple[int, ...]
    hull: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of output rows."""
        return math.prod(self.extent)


@dataclass(frozen=True, eq=False)
class Hulls:
    """What the windows of a batch's boxes read.

    Attributes:
        index: row numbers of all hulls, box after box.
        bands: of each block, by its first row.
        steps: stride, dilation and taps along each axis.
    """

    index: Ints
    bands: dict[int, tuple[Band, ...]]
    steps: Steps


def hull_of(window: Window, steps: Steps, lo: Ints, extent: Ints) -> tuple[Ints, Ints]:
    """Where what boxes read begins along each axis, and its extents: 0 along all for empty boxes.

    Args:
        window: of the step.
        steps: stride, dilation and taps along the first axes; others are left as they are.
        lo: where the boxes begin, shape (..., axes).
        extent: of the boxes, alike.
    """
    low, wide = lo.copy(), extent.copy()
    for axis, (stride, dilation, taps) in enumerate(steps):
        condition = window.reads[axis][1]
        assert isinstance(condition, Affine)
        low[..., axis] = stride * lo[..., axis] + condition.offset
        wide[..., axis] = stride * (extent[..., axis] - 1) + dilation * (taps - 1) + 1
    wide *= (extent > 0).all(axis=-1, keepdims=True)
    return low, wide


class HullSizes(NamedTuple):
    """What the windows of each of some boxes read; nothing for empty boxes.

    Attributes:
        height: planes of outputs in a band.
        rows: rows that are read.
        banded: rows of the bands, which read what lies between them twice.
        largest: rows of the largest band.
    """

    height: Ints
    rows: Ints
    banded: Ints
    largest: Ints


def hull_sizes(steps: Steps, extent: Ints, row_bytes: int) -> HullSizes:
    """The rows of hulls and of their bands, which stay in the cache, but have one plane at least.

    Args:
        steps: stride, dilation and taps along each axis.
        extent: of the boxes, shape (..., axes).
        row_bytes: of a row of the relation.
    """
    wide = [s * (extent[..., n] - 1) + d * (k - 1) + 1 for n, (s, d, k) in enumerate(steps)]
    plane = math.prod(wide[1:], start=(extent > 0).all(axis=-1).astype(np.int64))
    deep, (stride, dilation, taps) = extent[..., 0], steps[0]
    reach = dilation * (taps - 1) + 1
    most = np.maximum((BLOCK_BYTES // np.maximum(plane * row_bytes, 1) - reach) // stride + 1, 1)
    height = -(-deep // np.maximum(-(-deep // most), 1))
    bands = -(-deep // np.maximum(height, 1))
    return HullSizes(
        height,
        wide[0] * plane,
        (stride * (deep - bands) + reach * bands) * plane,
        (stride * (height - 1) + reach) * plane,
    )


def read_hulls(
    out: Region, source: Source, window: Window, templates: Templates, row_bytes: int, columns: int
) -> tuple[Hulls, list[tuple[int, int]]] | None:
    """The hulls of a region's boxes, and blocks of whole bands.

    None where gathering window by window is better: boxes are small, windows hardly overlap, or
    what one plane of outputs reads is too large for a block.

    Args:
        out: output rows.
        source: where the rows of the relation that is read lie.
        window: of the step.
        templates: of row numbers.
        row_bytes: of a row of the relation.
        columns: of a row.
    """
    steps = steps_of(window)
    boxes = int(np.count_nonzero(out.sizes))
    if steps is None or not boxes or out.count * columns < FEWEST * boxes:
        return None
    extent = np.maximum(out.boxes.hi - out.boxes.lo, 0)
    sizes = hull_sizes(steps, extent, row_bytes)
    # Bands read what lies between them twice, and have one plane at least.
    if 2 * int(sizes.banded.sum()) > out.count * window.tap_count:
        return None
    if int(sizes.largest.max()) * row_bytes > BLOCK_BYTES:
        return None
    low, wide = hull_of(window, steps, out.boxes.lo, extent)
    read = Region(source.positions, Boxes(names(source.positions), low, low + wide))
    natural = tuple((axis, equal(axis, axis)) for axis in names(source.positions))
    index = templates.lookup(read.points, source, natural, (), ZERO)[:, 0]
    some = out.sizes.ravel() > 0
    shapes = (part.reshape(-1, len(steps))[some].tolist() for part in (extent, wide))
    bands = list(_bands(zip(*shapes, sizes.height.ravel()[some].tolist(), strict=True), steps))
    blocks: dict[int, tuple[Band, ...]] = {}
    held: list[Band] = []
    for band in bands:
        if held and (band.row + band.rows - held[0].row) * row_bytes > BLOCK_BYTES:
            blocks[held[0].row] = tuple(held)
            held = []
        held.append(band)
    if held:
        blocks[held[0].row] = tuple(held)
    ranges = [(row, bands[-1].row + bands[-1].rows) for row, bands in blocks.items()]
    return Hulls(index, blocks, steps), ranges


def _bands(boxes: Iterator[tuple[list[int], list[int], int]], steps: Steps) -> Iterator[Band]:
    """Bands of boxes, each of an extent, with a hull, and with bands of so many planes."""
    stride, dilation, taps = steps[0]
    reach = dilation * (taps - 1) + 1
    row = first = 0
    for extent, wide, height in boxes:
        plane, beside = math.prod(wide[1:]), math.prod(extent[1:])
        for top in range(0, extent[0], height):
            planes = min(height, extent[0] - top)
            deep = stride * (planes - 1) + reach
            begin = first + stride * top * plane
            yield Band(
                begin,
                begin + deep * plane,
                row + top * beside,
                (planes, *extent[1:]),
                (deep, *wide[1:]),
            )
        row += extent[0] * beside
        first += wide[0] * plane

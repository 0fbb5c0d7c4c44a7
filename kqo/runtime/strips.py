"""Strips: windows over relations of few columns, read a run of keys at a time.

The rows of an image are short: to gather a 7x7x7 window of them one by one takes 343 row numbers
and moves a few bytes for each. Neighbouring windows share their runs along the last axis, so these
are gathered first, once per block, and windows are then put together from whole runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kqo.ir.boxes import Boxes
from kqo.ir.equations import equal
from kqo.ir.schema import names, shape
from kqo.ir.window import Window, steps_of
from kqo.planner.cost import FEWEST_ROWS, SHORT_ROW
from kqo.runtime.hulls import hull_of
from kqo.runtime.rows import ZERO, Ints, Region, Source
from kqo.runtime.templates import Templates
from kqo.runtime.workspace import Strips

STRIP_BYTES = 2 << 20
"""Of windows in a block: more than elsewhere, since blocks share no strips."""


@dataclass(frozen=True, eq=False)
class StripReads:
    """A window that is read in strips.

    Attributes:
        index: for each output row the strips that it is made of, counted from the block's first,
            shape (rows, taps of the other axes).
        strips: the strips.
        blocks: ranges of output rows that are worked on together.
    """

    index: Ints
    strips: Strips
    blocks: list[tuple[int, int]]


def has_strips(window: Window, columns: int, itemsize: int) -> bool:
    """Whether reading in strips pays: rows are short, and the axes of the window are separate."""
    if columns * itemsize > SHORT_ROW or len(window.rows) < 2:
        return False
    return steps_of(window) is not None and (window.taps[-1].extent or 0) > 1


def read_strips(
    out: Region,
    source: Source,
    window: Window,
    templates: Templates,
    *,
    row_bytes: int,
) -> StripReads | None:
    """The strips of a window that :func:`has_strips`; None where queries have several boxes.

    Args:
        out: output rows.
        source: where the rows of the relation that is read lie.
        window: the window.
        templates: of row numbers.
        row_bytes: of a window, put together.
    """
    if out.boxes.lo.shape[1] != 1:
        return None
    some = out.sizes > 0
    lo = out.boxes.lo[:, 0]
    extent = (out.boxes.hi[:, 0] - lo) * some
    every = steps_of(window)
    assert every is not None
    steps = every[:-1]
    low, wide = hull_of(window, steps, lo, extent)
    begins, ends = low[:, None], (low + wide)[:, None]
    read = Region(out.positions, Boxes(names(out.positions), begins, ends))
    first = read.starts[:, 0]
    keys = tuple((axis.name, equal(axis.name, axis.name)) for axis in out.positions[:-1])
    reads = (*keys, window.reads[-1])
    index = templates.lookup(read.points, source, reads, window.taps[-1:], ZERO)
    blocks = _blocks(extent, row_bytes)
    pieces, spans, ranges, row = [], {}, [], 0
    patterns: dict[bytes, Ints] = {}
    for members in blocks:
        begin = row
        start = int(first[members[0][0]] + _plane(wide, members[0], steps))
        end = start
        for member, top, bottom in members:
            shape_of = np.array([bottom - top, *extent[member, 1:]])
            if (pattern := patterns.get(shape_of.tobytes())) is None:
                pattern = patterns[shape_of.tobytes()] = _pattern(shape_of, steps)
            at = int(first[member]) + _plane(wide, (member, top, bottom), steps)
            pieces.append(pattern + (at - start))
            row += len(pattern)
            stride, dilation, taps = steps[0]
            planes = stride * (bottom - top - 1) + dilation * (taps - 1) + 1
            end = at + planes * int(wide[member, 1:].prod())
        spans[begin] = (start, end)
        ranges.append((begin, row))
    each = math.prod(shape(window.taps[:-1]))
    numbers = np.concatenate(pieces) if pieces else np.empty((0, each), dtype=np.int64)
    return StripReads(numbers, Strips(index, spans), ranges)


Steps = tuple[tuple[int, int, int], ...]
"""Stride, dilation and taps along each axis but the last."""
Member = tuple[int, int, int]
"""A query's box, and the planes of it from first to last, along the first axis."""


def _plane(wide: Ints, member: Member, steps: Steps) -> int:
    """Strips of a box before those that a plane of it reads."""
    number, top, _ = member
    return steps[0][0] * top * int(wide[number, 1:].prod())


def _blocks(extent: Ints, row_bytes: int) -> list[list[Member]]:
    """Whole boxes together where they are small, planes of one box where it is large."""
    most = max(FEWEST_ROWS, STRIP_BYTES // row_bytes)
    blocks: list[list[Member]] = []
    held = most
    for number, box in enumerate(extent):
        rows, plane = int(box.prod()), int(box[1:].prod())
        if not rows:
            continue
        if held + rows <= most:
            blocks[-1].append((number, 0, int(box[0])))
            held += rows
            continue
        planes = max(1, most // plane)
        count = -(-int(box[0]) // planes)
        planes = -(-int(box[0]) // count)
        for top in range(0, int(box[0]), planes):
            blocks.append([(number, top, min(top + planes, int(box[0])))])
        held = rows if count == 1 else most
    return blocks


def _pattern(extent: Ints, steps: Steps) -> Ints:
    """Strips that each row of a box is made of, counted from its first, (rows, taps)."""
    rank = len(extent)
    wide = [s * (int(e) - 1) + d * (k - 1) + 1 for (s, d, k), e in zip(steps, extent, strict=False)]
    strides = np.cumprod([1, int(extent[-1]), *wide[:0:-1]])[::-1]
    found: Ints = np.zeros((1,) * (2 * rank - 1), dtype=np.int64)
    for axis, along in enumerate(extent):
        step, dilation, taps = steps[axis] if axis < rank - 1 else (1, 1, 0)
        place = [1] * (2 * rank - 1)
        place[axis] = int(along)
        found = found + (strides[axis] * step * np.arange(along)).reshape(place)
        if taps:
            place = [1] * (2 * rank - 1)
            place[rank + axis] = taps
            found = found + (strides[axis] * dilation * np.arange(taps)).reshape(place)
    return np.ascontiguousarray(found).reshape(int(extent.prod()), -1)

"""Placing Winograd tiles: large and small ones in each box, sorted by kind within a block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kqo.ir.schema import Axis
from kqo.ir.window import Window
from kqo.ir.winograd import Sizes, cover, kinds, products
from kqo.planner.cost import BLOCK_BYTES, FEWEST_TILES
from kqo.runtime.rows import Grid, Ints, Points, Region

Flags = NDArray[np.bool_]
FEWEST_SHARED = 64
"""Rows or tiles of a part that one thread takes: each part reads the kernel."""


@dataclass(frozen=True, slots=True)
class Share:
    """The tiles of one kind in a block.

    Attributes:
        kind: which.
        low: the first of them among the block's tiles.
        high: one behind the last.
        first: of them among all tiles of this kind.
        row: where their outputs begin among the block's.
    """

    kind: int
    low: int
    high: int
    first: int
    row: int


@dataclass(frozen=True, slots=True)
class Block:
    """Tiles that are worked on together, sorted by kind.

    Attributes:
        shares: by kind, without empty ones.
        products: points ``first`` to ``end`` for tiles ``low`` to ``high`` of the block.
        outputs: outputs of its tiles, those that no row takes included.
        rows: the step's rows that it computes, from the first to one behind the last.
    """

    shares: tuple[Share, ...]
    products: tuple[tuple[int, int, int, int], ...]
    outputs: int
    rows: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """How boxes of given extents are covered, wherever they lie.

    Attributes:
        extent: of each box that is not empty, shape (boxes, axes).
        windows: for each kind the taps of a tile: as many as it has inputs.
        box: for each kind the box of each tile.
        local: for each kind, by axis, where each tile begins in its box.
        grids: for each kind the first tile of each box, their distance, and their number.
        blocks: by the number of their first tile and that of the tile behind their last.
        outputs: for each row of the step the output among those of its block.
    """

    extent: Ints
    windows: tuple[tuple[Axis, ...], ...]
    box: tuple[Ints, ...]
    local: tuple[tuple[Ints, ...], ...]
    grids: tuple[tuple[Ints, Ints, Ints], ...]
    blocks: dict[tuple[int, int], Block]
    outputs: Ints


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of a step.

    Attributes:
        layout: how its boxes are covered.
        points: origins of each kind's tiles.
    """

    layout: Layout
    points: tuple[Points, ...]

    @property
    def blocks(self) -> dict[tuple[int, int], Block]:
        """By the number of their first tile and that of the tile behind their last."""
        return self.layout.blocks

    @property
    def outputs(self) -> Ints:
        """For each row of the step the output among those of its block."""
        return self.layout.outputs


@dataclass(frozen=True, eq=False)
class _Along:
    """How runs along one axis are covered, by their length.

    Attributes:
        counts: large and small tiles, shape (lengths, 2).
        begins: first output of each tile, shape (lengths, tiles).
        heights: outputs of each tile that are wanted, alike.
        tile: of each output the tile, shape (lengths, outputs).
    """

    counts: Ints
    begins: Ints
    heights: Ints
    tile: Ints


@cache
def _along(m: int, r: int, longest: int) -> _Along:
    counts = np.array(cover(m, r, longest), dtype=np.int64)
    most = max(1, int(counts.sum(axis=1).max()))
    number = np.arange(most)
    large = counts[:, :1]
    begins = m * np.minimum(number, large) + (m - 1) * np.maximum(number - large, 0)
    length = np.arange(longest + 1)[:, None]
    sizes = np.where(number < large, m, m - 1)
    heights = np.clip(length - begins, 0, sizes) * (number < counts.sum(axis=1)[:, None])
    output = np.arange(longest)
    tile = np.where(output < m * large, output // m, large + (output - m * large) // max(1, m - 1))
    return _Along(counts, begins, heights, tile)


def place(
    out: Region,
    window: Window,
    sizes: Sizes,
    per_tile: int,
    parts: int,
    before: Tiles | None = None,
) -> Tiles:
    """Cover each box of a region with tiles, strip after strip.

    Args:
        out: rows to be computed.
        window: of the step.
        sizes: outputs and taps of a large tile, by axis.
        per_tile: bytes of a large tile's inputs.
        parts: blocks to cut into at least, where they stay large enough.
        before: tiles of the same step for another batch, whose layout is kept where it fits.
    """
    boxes, rank = out.boxes, len(sizes)
    volumes = out.sizes.ravel()
    some = volumes > 0
    lo = boxes.lo.reshape(len(volumes), rank)[some]
    extent = (boxes.hi - boxes.lo).reshape(len(volumes), rank)[some]
    query = np.repeat(np.arange(boxes.queries), boxes.lo.shape[1])[some]
    if before is not None and np.array_equal(before.layout.extent, extent):
        layout = before.layout
    else:
        layout = _layout(extent, window, sizes, per_tile, parts)
    single = boxes.lo.shape[1] == 1 and bool(some.all())
    points = []
    for box, local, (begins, spacing, counts) in zip(
        layout.box, layout.local, layout.grids, strict=True
    ):
        coordinates = tuple(lo[box, i] + local[i] for i in range(rank))
        spread = None
        if single:
            reach = spacing * (counts - 1) + 1
            spread = Grid(lo + begins, reach, counts.prod(axis=1), tuple(spacing.tolist()))
        points.append(Points(out.positions, query[box], coordinates, spread))
    return Tiles(layout, tuple(points))


def _layout(extent: Ints, window: Window, sizes: Sizes, per_tile: int, parts: int) -> Layout:
    """Cover boxes with strips: all tiles of a box at one place of the first axis.

    The outputs of a strip are one run of rows, so that those of a block are one as well.
    """
    rank = len(sizes)
    longest = extent.max(axis=0, initial=0)
    along = [_along(m, r, int(w)) for (m, r), w in zip(sizes, longest, strict=True)]
    large = np.stack([a.counts[extent[:, i], 0] for i, a in enumerate(along)], axis=1)
    grid = np.stack([a.counts[extent[:, i]].sum(axis=1) for i, a in enumerate(along)], axis=1)
    box, at = _numbered(grid)
    local = [a.begins[extent[box, i], at[:, i]] for i, a in enumerate(along)]
    small = at >= large[box]
    every = kinds(sizes)
    kind = np.zeros(len(box), dtype=np.int64)
    tile = np.array([m for m, _ in sizes])
    boxes, locals_, grids, windows = [], [], [], []
    for number, one in enumerate(every):
        mine = (small == np.array(one.small)).all(axis=1)
        kind[mine] = number
        boxes.append(box[mine])
        locals_.append(tuple(local[i][mine] for i in range(rank)))
        less = np.array(one.small)
        first = np.where(less, tile * large, 0)
        grids.append((first, tile - less, np.where(less, grid - large, large)))
        extents = iter([m + r - 1 - s for (m, r), s in zip(sizes, one.small, strict=True) if r > 1])
        windows.append(
            tuple(Axis(a.name, next(extents) if a.extent != 1 else 1) for a in window.taps)
        )
    cuts = _cut(grid, along[0].heights[extent[:, 0]], extent, per_tile, parts)
    ends = np.array([end for end, _ in cuts], dtype=np.int64)
    block = np.searchsorted(ends, np.arange(len(box)), side="right")
    areas = [int(np.prod([m - s for (m, _), s in zip(sizes, k.small, strict=True)])) for k in every]
    tallies = np.zeros((len(cuts), len(every)), dtype=np.int64)
    np.add.at(tallies, (block, kind), 1)
    # Tiles of a block by kind, and where the outputs of each begin.
    order = np.lexsort((kind, block))
    area = np.array(areas)[kind[order]]
    begins = np.empty(len(box), dtype=np.int64)
    begins[order] = np.cumsum(area) - area
    begins -= np.concatenate([[0], np.cumsum(tallies @ np.array(areas))])[block]
    return Layout(
        extent,
        tuple(windows),
        tuple(boxes),
        tuple(locals_),
        tuple(grids),
        _blocks(cuts, tallies, areas, products(sizes)),
        _outputs(sizes, along, extent, grid, begins, small),
    )


def _numbered(grid: Ints) -> tuple[Ints, Ints]:
    """The box of each tile and its place in the box's grid, row-major."""
    tiles = grid.prod(axis=1)
    box = np.repeat(np.arange(len(tiles)), tiles)
    number = np.arange(len(box)) - (np.cumsum(tiles) - tiles)[box]
    extents = grid[box]
    found: list[Ints] = []
    for axis in reversed(range(grid.shape[1])):
        found.append(number % extents[:, axis])
        number = number // extents[:, axis]
    return box, np.stack(found[::-1], axis=1)


def _cut(
    grid: Ints, heights: Ints, extent: Ints, per_tile: int, parts: int
) -> list[tuple[int, int]]:
    """Blocks of whole strips: the tile and the row behind the last of each."""
    strips = int(grid[:, 0].sum())
    box = np.repeat(np.arange(len(grid)), grid[:, 0])
    down = np.arange(strips) - np.repeat(np.cumsum(grid[:, 0]) - grid[:, 0], grid[:, 0])
    tiles_end = np.cumsum(grid[box, 1:].prod(axis=1))
    rows_end = np.cumsum(heights[box, down] * extent[box, 1:].prod(axis=1))
    most = max(FEWEST_TILES, BLOCK_BYTES // per_tile)
    if parts > 1 and strips and tiles_end[-1] >= parts * FEWEST_SHARED:
        most = min(most, -(-int(tiles_end[-1]) // parts))
    found: list[tuple[int, int]] = []
    at = done = 0
    while at < strips:
        at = max(int(np.searchsorted(tiles_end, done + most, side="right")), at + 1)
        done = int(tiles_end[at - 1])
        found.append((done, int(rows_end[at - 1])))
    return found


def _blocks(
    cuts: list[tuple[int, int]],
    tallies: Ints,
    areas: list[int],
    groups: tuple[tuple[int, int, int, int], ...],
) -> dict[tuple[int, int], Block]:
    found: dict[tuple[int, int], Block] = {}
    firsts = [0] * len(areas)
    a = row = 0
    for (z, last), tally in zip(cuts, tallies.tolist(), strict=True):
        ends = [0, *np.cumsum(tally).tolist()]
        shares, at = [], 0
        for kind, (count, area) in enumerate(zip(tally, areas, strict=True)):
            if count:
                shares.append(Share(kind, ends[kind], ends[kind + 1], firsts[kind], at))
            firsts[kind] += count
            at += count * area
        made = tuple((p, q, ends[i], ends[j]) for p, q, i, j in groups if ends[j] > ends[i])
        found[a, z] = Block(tuple(shares), made, at, (row, last))
        a, row = z, last
    return found


def _outputs(
    sizes: Sizes, along: list[_Along], extent: Ints, grid: Ints, begins: Ints, small: Flags
) -> Ints:
    """For each row the output that it takes, among those of its block."""
    box, at = _numbered(extent)
    first = (np.cumsum(grid.prod(axis=1)) - grid.prod(axis=1))[box]
    tile = np.zeros(len(box), dtype=np.int64)
    places: list[Ints] = []
    for axis, known in enumerate(along):
        which = known.tile[extent[box, axis], at[:, axis]]
        places.append(at[:, axis] - known.begins[extent[box, axis], which])
        tile = tile * grid[box, axis] + which
    tile += first
    inner = np.zeros(len(box), dtype=np.int64)
    for axis, (m, _) in enumerate(sizes):
        inner = inner * (m - small[tile, axis]) + places[axis]
    return np.asarray(begins[tile] + inner)

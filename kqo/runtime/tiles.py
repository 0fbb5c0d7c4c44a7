"""Placing Winograd tiles: large and small ones in each box, sorted by kind within a block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kqo.ir.schema import Axis
from kqo.ir.window import Window
from kqo.ir.winograd import Sizes, covered, kinds, products
from kqo.planner.cost import tiles_in_block
from kqo.runtime.extents import cached_when_small
from kqo.runtime.rows import Grid, Ints, Points, Region, within

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
    """How a run of outputs along one axis is covered.

    Attributes:
        large: large tiles, which come first.
        tiles: large and small ones.
        begins: first output of each tile.
        heights: outputs of each tile that are wanted.
        tile: of each output the tile.
    """

    large: int
    tiles: int
    begins: Ints
    heights: Ints
    tile: Ints


def _along(m: int, r: int, length: int) -> _Along:
    large, small = covered(m, r, length)
    number, output = np.arange(large + small), np.arange(length)
    begins = m * np.minimum(number, large) + (m - 1) * np.maximum(number - large, 0)
    heights = np.clip(length - begins, 0, np.where(number < large, m, m - 1))
    tile = np.where(output < m * large, output // m, large + (output - m * large) // max(1, m - 1))
    return _Along(large, large + small, begins, heights, tile)


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


@dataclass(frozen=True, eq=False)
class _Box:
    """How a box of some extents is covered: strips of tiles at one place of the first axis.

    Attributes:
        large: large tiles along each axis.
        grid: tiles along each axis.
        kinds: of each tile, strip after strip, row-major.
        begins: where each tile begins, shape (axes, tiles).
        tile: of each row the tile.
        inner: of each row the output of the tile.
        strip_rows: rows of each strip.
    """

    large: tuple[int, ...]
    grid: tuple[int, ...]
    kinds: Ints
    begins: Ints
    tile: Ints
    inner: Ints
    strip_rows: Ints


@cached_when_small
def _box(extent: tuple[int, ...], sizes: Sizes) -> _Box:
    """The cover of a box of these extents."""
    along = [_along(m, r, length) for (m, r), length in zip(sizes, extent, strict=True)]
    large, grid = tuple(a.large for a in along), tuple(a.tiles for a in along)
    at = np.indices(grid).reshape(len(grid), math.prod(grid))
    begins = np.stack([a.begins[n] for a, n in zip(along, at, strict=True)])
    small = at >= np.array(large)[:, None]
    numbers = np.zeros(at.shape[1], dtype=np.int64)
    for number, kind in enumerate(kinds(sizes)):
        numbers[(small == np.array(kind.small)[:, None]).all(axis=0)] = number
    places = within(extent)
    tile = np.zeros(places.shape[1], dtype=np.int64)
    inner = np.zeros(places.shape[1], dtype=np.int64)
    for place, one, (m, _) in zip(places, along, sizes, strict=True):
        which = one.tile[place]
        tile = tile * one.tiles + which
        inner = inner * (m - (which >= one.large)) + place - one.begins[which]
    beside = math.prod(extent[1:])
    return _Box(large, grid, numbers, begins, tile, inner, along[0].heights * beside)


def _concatenated(parts: list[Ints], axis: int = 0) -> Ints:
    return np.concatenate(parts, axis=axis) if parts else np.zeros(0, dtype=np.int64)


def _layout(extent: Ints, window: Window, sizes: Sizes, per_tile: int, parts: int) -> Layout:
    """Cover boxes with strips: all tiles of a box at one place of the first axis.

    The outputs of a strip are one run of rows, so that those of a block are one as well.
    """
    rank = len(sizes)
    found = [_box(tuple(one), sizes) for one in extent.tolist()]
    counts = np.array([len(one.kinds) for one in found], dtype=np.int64)
    box = np.repeat(np.arange(len(found)), counts)
    kind = _concatenated([one.kinds for one in found])
    local = _concatenated([one.begins for one in found], axis=1).reshape(rank, -1)
    large = np.array([one.large for one in found], dtype=np.int64).reshape(-1, rank)
    grid = np.array([one.grid for one in found], dtype=np.int64).reshape(-1, rank)
    every = kinds(sizes)
    tile = np.array([m for m, _ in sizes])
    boxes, locals_, grids, windows = [], [], [], []
    for number, one in enumerate(every):
        mine = np.flatnonzero(kind == number)
        boxes.append(box[mine])
        locals_.append(tuple(local[:, mine]))
        less = np.array(one.small)
        first = np.where(less, tile * large, 0)
        grids.append((first, tile - less, np.where(less, grid - large, large)))
        extents = iter([m + r - 1 - s for (m, r), s in zip(sizes, one.small, strict=True) if r > 1])
        windows.append(
            tuple(Axis(a.name, next(extents) if a.extent != 1 else 1) for a in window.taps)
        )
    tiles_end = np.cumsum(np.repeat(grid[:, 1:].prod(axis=1), grid[:, 0]))
    rows_end = np.cumsum(_concatenated([one.strip_rows for one in found]))
    cuts = _cut(tiles_end, rows_end, per_tile, parts)
    ends = np.array([end for end, _ in cuts], dtype=np.int64)
    block = np.searchsorted(ends, np.arange(len(box)), side="right")
    areas = [int(np.prod([m - s for (m, _), s in zip(sizes, k.small, strict=True)])) for k in every]
    # Tiles of a block by kind, and where the outputs of each begin.
    sorted_by = block * len(every) + kind
    tallies = np.bincount(sorted_by, minlength=len(cuts) * len(every)).reshape(-1, len(every))
    order = np.argsort(sorted_by, kind="stable")
    area = np.array(areas)[kind[order]]
    begins = np.empty(len(box), dtype=np.int64)
    begins[order] = np.cumsum(area) - area
    begins -= np.concatenate([[0], np.cumsum(tallies @ np.array(areas))])[block]
    rows = [len(one.tile) for one in found]
    tile_of = _concatenated([one.tile for one in found]) + np.repeat(
        np.cumsum(counts) - counts, rows
    )
    return Layout(
        extent,
        tuple(windows),
        tuple(boxes),
        tuple(locals_),
        tuple(grids),
        _blocks(cuts, tallies, areas, products(sizes)),
        begins[tile_of] + _concatenated([one.inner for one in found]),
    )


def _cut(tiles_end: Ints, rows_end: Ints, per_tile: int, parts: int) -> list[tuple[int, int]]:
    """Blocks of whole strips: the tile and the row behind the last of each.

    Args:
        tiles_end: tiles of each strip and those before.
        rows_end: rows of each and those before.
        per_tile: bytes of a large tile's inputs.
        parts: blocks to cut into at least, where they stay large enough.
    """
    strips = len(tiles_end)
    most = tiles_in_block(per_tile)
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

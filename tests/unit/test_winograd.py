"""Winograd's form: matrices, tiles of two sizes, windows that have one tap along an axis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.ir.boxes import Boxes
from kqo.ir.schema import Axis
from kqo.ir.winograd import SIZES, cover, kinds, matrices, point_order, products, smaller
from kqo.runtime.rows import Region
from kqo.runtime.tiles import Tiles, place
from tests.property.asked import random_costs


def _filtered(d: np.ndarray, g: np.ndarray, outputs: int) -> np.ndarray:
    return np.array([d[i : i + len(g)] @ g for i in range(outputs)])


@pytest.mark.parametrize(("m", "r"), sorted(SIZES))
def test_both_tiles_filter_by_one_transformed_kernel(m: int, r: int) -> None:
    rng = np.random.default_rng(m * r)
    g, d = rng.standard_normal(r), rng.standard_normal(m + r - 1)
    a, kernel, b = matrices(m, r)
    transformed = kernel @ g
    np.testing.assert_allclose(a @ (transformed * (b @ d)), _filtered(d, g, m), atol=1e-12)
    a, b = smaller(m, r)
    found = a @ (transformed[:-1] * (b @ d[:-1]))
    np.testing.assert_allclose(found, _filtered(d, g, m - 1), atol=1e-12)


@pytest.mark.parametrize(("m", "r"), sorted(SIZES))
def test_cover_takes_the_fewest_points(m: int, r: int) -> None:
    for run, (large, small) in enumerate(cover(m, r, 30)):
        assert large * m + small * (m - 1) >= run
        points = large * (m + r - 1) + small * (m + r - 2)
        for big in range(31):
            rest = max(0, run - big * m)
            assert points <= big * (m + r - 1) + -(-rest // (m - 1)) * (m + r - 2)


@pytest.mark.parametrize("sizes", [((4, 3), (4, 3)), ((2, 5), (2, 3)), ((4, 7), (1, 1))])
def test_every_point_of_every_kind_is_in_one_product(sizes) -> None:
    n = tuple(m + r - 1 for m, r in sizes if r > 1)
    points: dict[int, list[int]] = {number: [] for number in range(len(kinds(sizes)))}
    for first, end, low, high in products(sizes):
        for kind in range(low, high):
            points[kind] += range(first, end)
    full = np.array(point_order(n, (False,) * len(n)))
    for number, kind in enumerate(kinds(sizes)):
        assert sorted(points[number]) == list(range(kind.first, kind.end))
        less = tuple(s for s, (_, r) in zip(kind.small, sizes, strict=True) if r > 1)
        extents = [e - s for e, s in zip(n, less, strict=True)]
        own = np.stack(np.unravel_index(point_order(n, less), extents))
        np.testing.assert_array_equal(
            own, np.stack(np.unravel_index(full[kind.first : kind.end], n))
        )


def _boxes(rng: np.random.Generator, queries: int, per_query: int, extent: int) -> Boxes:
    lo = rng.integers(0, extent, (queries, per_query, 2))
    hi = np.minimum(lo + rng.integers(0, 16, lo.shape), extent)
    return Boxes((Axis("y", extent), Axis("x", extent)), lo, np.maximum(lo, hi))


def _written(tiles: Tiles, sizes) -> np.ndarray:
    """Query, y and x of the output that each row takes."""
    every = kinds(sizes)
    found = np.full((len(tiles.outputs), 3), -1)
    done = 0
    for (a, z), block in tiles.blocks.items():
        assert block.rows[0] == done
        done = block.rows[1]
        assert sum(share.high - share.low for share in block.shares) == z - a
        of = np.full((block.outputs, 3), -1)
        for share in block.shares:
            points = tiles.points[share.kind]
            area = [m - s for (m, _), s in zip(sizes, every[share.kind].small, strict=True)]
            inner = list(itertools.product(*map(range, area)))
            for number in range(share.high - share.low):
                tile = share.first + number
                begin = share.row + number * len(inner)
                for place_, (y, x) in enumerate(inner):
                    of[begin + place_] = (
                        points.query[tile],
                        points.coordinates[0][tile] + y,
                        points.coordinates[1][tile] + x,
                    )
        found[block.rows[0] : block.rows[1]] = of[tiles.outputs[block.rows[0] : block.rows[1]]]
    assert done == len(tiles.outputs)
    return found


@pytest.mark.parametrize("per_query", [1, 2])
@pytest.mark.parametrize("sizes", [((4, 3), (4, 3)), ((2, 3), (2, 5)), ((1, 1), (4, 7))])
def test_each_row_takes_the_output_at_its_place(sizes, per_query: int) -> None:
    from kqo.ir.window import Window

    rng = np.random.default_rng(per_query)
    taps = tuple(Axis(n, r) for n, (_, r) in zip(("ky", "kx"), sizes, strict=True) if r > 1)
    out = Region((Axis("y", 40), Axis("x", 40)), _boxes(rng, 120, per_query, 40))
    window = Window(out.positions, (), taps, (), (), (), (), (), plain=True)
    # So large that blocks have as few tiles as they may.
    tiles = place(out, window, sizes, per_tile=1 << 30, parts=1)
    assert len(tiles.blocks) > 1
    moved = Region(out.positions, Boxes(out.boxes.axes, out.boxes.lo + 1, out.boxes.hi + 1))
    again = place(moved, window, sizes, per_tile=1 << 30, parts=1, before=tiles)
    assert again.layout is tiles.layout
    np.testing.assert_array_equal(
        _written(again, sizes), _written(tiles, sizes) + np.array((0, 1, 1))
    )
    other = Region(out.positions, _boxes(rng, 120, per_query, 40))
    fresh = place(other, window, sizes, per_tile=1 << 30, parts=1, before=tiles)
    assert fresh.layout is not tiles.layout
    wanted = np.stack([out.query, *out.coordinates], axis=1)
    np.testing.assert_array_equal(_written(tiles, sizes), wanted)
    for kind, points in enumerate(tiles.points):
        assert points.count == sum(
            share.high - share.low
            for block in tiles.blocks.values()
            for share in block.shares
            if share.kind == kind
        )


@pytest.mark.parametrize("kernel", [(3, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("costs", range(8))
def test_one_tap_along_an_axis(kernel: tuple[int, int], costs: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, kernel), nn.ReLU(), nn.Conv2d(4, 3, kernel))
    model = model.double().eval()
    image = torch.randn(1, 2, 11, 12, dtype=torch.float64)
    options = kqo.Options(without=("DropUnitTaps",))
    with random_costs(costs):
        plan = kqo.compile(model, (image,), kqo.Occlusion(window=3, stride=2), options)
    result = plan.run(image[0])
    (found,), (first,) = result.outputs.values(), result.originals.values()
    with torch.inference_mode():
        dense = model(image)[0].numpy()
        changed = image[0].clone()
        changed[:, :3, :3] = 0
        second = model(changed[None])[0].numpy()
    np.testing.assert_allclose(first, dense, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.reshape(-1, *dense.shape)[0], second, rtol=0, atol=1e-12)

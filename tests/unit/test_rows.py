"""Row numbers against their definition, key by key."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kqo.errors import PlanError
from kqo.ir.boxes import Boxes
from kqo.ir.equations import window
from kqo.ir.schema import Axis
from kqo.runtime.rows import PADDING_ROWS, ZERO, Points, Region, Source, joined, lookup

HEIGHT, WIDTH = 9, 7
POSITIONS = (Axis("y", HEIGHT), Axis("x", WIDTH))


def _region(rng: np.random.Generator, queries: int, boxes: int) -> Region:
    lo = rng.integers(0, (HEIGHT, WIDTH), (queries, boxes, 2))
    hi = np.minimum(lo + rng.integers(0, 6, lo.shape), (HEIGHT, WIDTH))
    hi = np.maximum(lo, hi)
    if boxes == 2:  # one box may be empty, and boxes never overlap
        lo[:, 1], hi[:, 1] = (HEIGHT - 1, 0), (HEIGHT, 2)
        hi[:, 0] = np.minimum(hi[:, 0], (HEIGHT - 1, WIDTH))
        lo[:, 0] = np.minimum(lo[:, 0], hi[:, 0])
    return Region(POSITIONS, Boxes(("y", "x"), lo, hi))


def _numbered(region: Region) -> dict[tuple[int, int, int], int]:
    """The delta row of each query and position, box after box."""
    found: dict[tuple[int, int, int], int] = {}
    for query in range(region.boxes.queries):
        for lo, hi in zip(region.boxes.lo[query], region.boxes.hi[query], strict=True):
            for y, x in itertools.product(range(lo[0], hi[0]), range(lo[1], hi[1])):
                found[query, y, x] = len(found)
    return found


@pytest.mark.parametrize("boxes", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_rows_are_those_of_their_keys(seed: int, boxes: int) -> None:
    rng = np.random.default_rng(seed)
    region, out = _region(rng, 5, boxes), _region(rng, 5, 1)
    stride, dilation, padding = (int(n) for n in rng.integers(1, 3, 3))
    reads = tuple((a, window(a, f"k{a}", stride, dilation, padding)) for a in "yx")
    taps = (Axis("ky", 3), Axis("kx", 2))
    slot = 1000
    delta = _numbered(region)
    found = lookup(out.points, Source(POSITIONS, PADDING_ROWS, region, slot), reads, taps, ZERO)
    assert found.shape == (out.count, 6)
    assert found.flags.c_contiguous
    for row, (query, y, x) in enumerate(zip(out.query, *out.coordinates, strict=True)):
        for tap, (ky, kx) in enumerate(itertools.product(range(3), range(2))):
            key = (stride * y + dilation * ky - padding, stride * x + dilation * kx - padding)
            wanted = ZERO
            if 0 <= key[0] < HEIGHT and 0 <= key[1] < WIDTH:
                view = PADDING_ROWS + key[0] * WIDTH + key[1]
                at = (query, *key)
                wanted = delta[at] + slot if at in delta else view
            assert found[row, tap] == wanted


def test_positions_of_a_region_are_listed_box_by_box() -> None:
    region = _region(np.random.default_rng(0), 4, 2)
    listed = list(zip(region.query, *region.coordinates, strict=True))
    assert listed == list(_numbered(region))
    everywhere = Region((), Boxes((), np.zeros((3, 1, 0), int), np.zeros((3, 1, 0), int)))
    assert everywhere.count == 3
    assert everywhere.coordinates == ()


def test_no_rows_have_no_numbers() -> None:
    empty = Points(POSITIONS, np.zeros(0, int), (np.zeros(0, int), np.zeros(0, int)))
    reads = tuple((a, window(a, f"k{a}")) for a in "yx")
    source = Source(POSITIONS, PADDING_ROWS, None, 0)
    assert lookup(empty, source, reads, (Axis("ky", 3), Axis("kx", 2)), ZERO).shape == (0, 6)


def test_points_are_joined_in_their_order() -> None:
    first, second = (_region(np.random.default_rng(n), 3, 1).points for n in (1, 2))
    both = joined((first, second))
    assert both.count == first.count + second.count
    np.testing.assert_array_equal(both.coordinates[1][first.count :], second.coordinates[1])


def test_what_has_no_view_is_read_within_its_region_only() -> None:
    rng = np.random.default_rng(3)
    region, out = _region(rng, 2, 1), _region(rng, 2, 1)
    reads = tuple((a, window(a, f"k{a}")) for a in "yx")
    with pytest.raises(PlanError, match="without a view"):
        lookup(
            out.points,
            Source(POSITIONS, -1, region, 9),
            reads,
            (Axis("ky", 1), Axis("kx", 1)),
            ZERO,
        )

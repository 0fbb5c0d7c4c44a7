"""Boxes of many queries: unions, hulls and shadows against sets of keys; equal ones are one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kqo.ir.bind import Known, bind
from kqo.ir.boxes import MOST_BOXES, Boxes, image, project, shift, union
from kqo.ir.equations import Affine
from kqo.ir.region import Changed, Either, Shift
from kqo.ir.schema import Axis

AXES = ("c", "y")


def _boxes(*several: list[tuple[int, int, int, int]]) -> Boxes:
    """A query per list, its boxes as (c from, c to, y from, y to)."""
    most = max(map(len, several))
    full = [[*boxes, *[(0, 0, 0, 0)] * (most - len(boxes))] for boxes in several]
    ends = np.array(full, dtype=np.int64)
    return Boxes(AXES, ends[:, :, ::2].copy(), ends[:, :, 1::2].copy())


def _keys(boxes: Boxes) -> list[set[tuple[int, ...]]]:
    return [
        {
            key
            for low, high in zip(lo, hi, strict=True)
            for key in itertools.product(*map(range, low, high))
        }
        for lo, hi in zip(boxes.lo.tolist(), boxes.hi.tolist(), strict=True)
    ]


def _random(generator: np.random.Generator, count: int, empty: bool) -> Boxes:
    def query() -> list[tuple[int, int, int, int]]:
        found = []
        for _ in range(count):
            c, y = generator.integers(0, 8, 2).tolist()
            high = generator.integers(1, 6, 2).tolist()
            found.append((c, c + high[0], y, y + high[1]))
        return found

    return _boxes(*(query() for _ in range(5)), *([[]] if empty else []))


@pytest.mark.parametrize("seed", range(20))
def test_a_union_of_few_boxes_has_their_keys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts = [_random(generator, count, empty=seed % 2 == 0) for count in (1, 2, 3)]
    wanted = [set().union(*keys) for keys in zip(*map(_keys, parts), strict=True)]
    found = union(parts)
    assert _keys(found) == wanted
    assert found.lo.shape[1] <= MOST_BOXES


@pytest.mark.parametrize("gone", [None, 0, 2])
def test_many_boxes_side_by_side_become_their_hull(gone: int | None) -> None:
    queries = [[(0, 4, y, y + 3)] if y != gone else [] for y in range(4)]
    one = _boxes(*queries)
    parts = [shift(one, "c", 4 * i) for i in range(MOST_BOXES + 2)]
    found = union(parts)
    whole = [[(0, 4 * len(parts), y, y + 3)] if y != gone else [] for y in range(4)]
    assert found.same(_boxes(*whole))
    held = [*parts[:-1], union(parts)]  # one box holds the others
    assert union(held).same(found)


def test_a_part_that_lacks_a_query_is_not_taken_for_the_others() -> None:
    parts = [shift(_boxes([(0, 1, 3, 5)], [(0, 1, 6, 9)]), "c", i) for i in range(MOST_BOXES + 1)]
    parts.append(shift(_boxes([(0, 1, 2, 4)], []), "c", MOST_BOXES + 1))
    assert union(parts).same(_boxes([(0, MOST_BOXES + 2, 2, 5)], [(0, MOST_BOXES + 1, 6, 9)]))


@pytest.mark.parametrize("seed", range(10))
def test_a_shadow_has_the_keys_of_its_region(seed: int) -> None:
    boxes = _random(np.random.default_rng(seed), 3, empty=True)
    found = project(boxes, ("y",))
    wanted = [{key[1:] for key in keys} for keys in _keys(boxes)]
    assert all(few <= many for few, many in zip(wanted, _keys(found), strict=True))
    assert found.volume().tolist() == list(map(len, _keys(found)))  # the boxes are disjoint


def test_equal_boxes_are_one_object_and_have_one_shadow() -> None:
    axes = (Axis("c", 8), Axis("y", 9))
    changed = {"image": _boxes([(0, 2, 3, 5)], [(1, 2, 0, 4)])}
    there = Changed("image")
    back = Shift(Shift(there, "c", 2, axes), "c", -2, axes)
    known = Known()
    found = [bind(region, changed, known) for region in (there, back, Either((there, back)))]
    assert found[0] is found[1] is found[2]
    other = bind(Shift(there, "c", 2, axes), changed, known)
    assert not other.same(found[0])
    # Moved along the features only, both cover the same rows.
    assert known.project(found[0], ("y",)) is known.project(other, ("y",))
    known.clear()
    assert not known


def test_what_is_made_of_the_same_boxes_is_made_once() -> None:
    asked: list[tuple[Boxes, str, int]] = []

    def moved(boxes: Boxes, axis: str, offset: int) -> Boxes:
        asked.append((boxes, axis, offset))
        return shift(boxes, axis, offset)

    known, one = Known(), _boxes([(0, 2, 3, 5)])
    found = known.once(moved, one, "c", 2)
    assert known.once(moved, one, "c", 2) is found
    assert asked == [(one, "c", 2)]
    assert known.once(moved, one, "c", 3) is not found
    assert known.once(shift, one, "c", 2) is found  # equal to what is there
    assert known.once(moved, _boxes([(0, 2, 3, 6)]), "c", 2) is not found
    known.clear()
    assert known.once(moved, one, "c", 2).same(found)
    assert len(asked) == 4


def test_volumes_are_counted_once_and_kept() -> None:
    boxes = _boxes([(0, 2, 3, 5), (2, 3, 3, 4)], [(1, 2, 0, 4)])
    assert boxes.volume().tolist() == [5, 4]
    assert boxes.volume() is boxes.volume()
    with pytest.raises(ValueError, match="read-only"):
        boxes.volume()[0] = 0


@pytest.mark.parametrize("seed", range(60))
def test_what_reads_a_region_through_a_window(seed: int) -> None:
    generator = np.random.default_rng(seed)
    stride, dilation, scale = (int(n) for n in generator.choice([1, 1, 2, 3], 3))
    taps, padding, extent = (int(n) for n in generator.integers([1, 0, 3], [6, 4, 12]))
    terms = tuple((c, n) for c, n in ((stride, "y"), (dilation, "ky")) if generator.random() < 0.9)
    condition = Affine("y", terms, -padding, scale)
    ends = np.sort(generator.integers(0, 14, (9, 2, 1)), axis=1)  # some are empty
    boxes = Boxes(("y",), *np.split(ends, 2, axis=1))
    found = image(boxes, (condition,), (Axis("ky", taps),), (Axis("y", extent),))
    named = {name: c for c, name in terms}
    for query, (low, high) in enumerate(ends[:, :, 0].tolist()):
        reads = {
            y
            for y, k in itertools.product(range(extent), range(taps))
            for right in [named.get("y", 0) * y + named.get("ky", 0) * k - padding]
            if right % scale == 0 and low <= right // scale < high
        }
        if "y" not in named:  # each key reads all that one does
            reads = set(range(extent)) if low < high else set()
        keys = {int(y) for (y,) in _keys(found)[query]}
        assert keys >= reads
        assert keys == reads or scale > 1

"""Row numbers by template are the row numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kqo.ir.boxes import Boxes
from kqo.ir.equations import Affine, Ranged
from kqo.ir.schema import Axis
from kqo.runtime import templates
from kqo.runtime.rows import LOWEST, Region, Source, lookup
from kqo.runtime.templates import Templates

SOURCE = (Axis("y", 23), Axis("x", 19))
OUT = (Axis("y", 12), Axis("x", 10))


def boxes(lo: np.ndarray, hi: np.ndarray) -> Boxes:
    return Boxes(("y", "x"), lo[:, None], hi[:, None])


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize(
    ("read", "taps"),
    [
        (Affine("y", ((2, "y"), (1, "ky")), -3), (Axis("ky", 5), Axis("kx", 3))),
        (Affine("y", ((2, "y"), (3, "ky")), -1), (Axis("ky", 3), Axis("kx", 3))),
        (Affine("y", ((1, "y"), (-1, "ky")), 1, 2), (Axis("ky", 3), Axis("kx", 3))),
        (
            Ranged("y", "y", "ky", tuple(range(0, 24, 2)), (*range(2, 24, 2), 23)),
            (Axis("ky", 2), Axis("kx", 3)),
        ),
    ],
)
def test_they_are_those_of_a_lookup(monkeypatch, changed, read, taps) -> None:
    monkeypatch.setattr(templates, "FEWEST_NUMBERS", 0)
    reads = (("y", read), ("x", Affine("x", ((2, "x"), (1, "kx")), -1)))
    known = Templates()
    for seed in range(4):
        generator = np.random.default_rng(seed)
        some = generator.integers(0, 4, (600, 2))
        lo, size = 2 * some, generator.integers(1, 3, (600, 1)) * [2, 1]
        size[7] = 0  # a query without rows
        out = Region(OUT, boxes(lo, lo + size))
        inner = boxes(2 * lo + 1, 2 * lo + 1 + generator.integers(0, 2, (600, 1)) * [3, 2])
        source = Source(SOURCE, 3, Region(SOURCE, inner) if changed else None, 3 + 23 * 19 + 11)
        found = known.lookup(out.points, source, reads, taps, LOWEST)
        np.testing.assert_array_equal(found, lookup(out.points, source, reads, taps, LOWEST))
    assert known._known  # classes were found and kept

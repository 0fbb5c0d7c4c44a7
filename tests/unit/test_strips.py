"""Windows put together from strips are the windows."""

from __future__ import annotations

import numpy as np
import pytest

from kqo.ir.boxes import Boxes
from kqo.ir.equations import Affine
from kqo.ir.nodes import Const, Scan
from kqo.ir.schema import Axis, names
from kqo.ir.window import window_of
from kqo.runtime import strips
from kqo.runtime.rows import ZERO, Region, Source, lookup
from kqo.runtime.strips import has_strips, read_strips
from kqo.runtime.templates import Templates
from kqo.runtime.workspace import Input, Workspace


def window(extents: tuple[int, ...], taps: tuple[int, ...], stride: int, dilation: int):
    """A window with padding 1, and the axes of its output."""
    axes = ("z", "y", "x")[-len(extents) :]
    image = Scan("image", (Axis("c", 2), *map(Axis, axes, extents)))
    kernel = (
        Axis("n", 3),
        Axis("c", 2),
        *(Axis(f"k{a}", k) for a, k in zip(axes, taps, strict=True)),
    )
    on = tuple(Affine(a, ((stride, a), (dilation, f"k{a}")), -1) for a in axes)
    out = tuple(
        Axis(a, (n + 2 - dilation * (k - 1) - 1) // stride + 1)
        for a, n, k in zip(axes, extents, taps, strict=True)
    )
    return window_of(image, Const("w", kernel), on, out, ("n", *axes)), out


@pytest.mark.parametrize("few", [1, 40, 1000])
@pytest.mark.parametrize(
    ("extents", "taps", "stride", "dilation"),
    [
        ((15, 17), (3, 3), 2, 1), ((16, 11), (5, 2), 1, 2), ((16, 16), (4, 4), 4, 1),
        ((9, 8, 10), (3, 2, 3), 2, 1), ((9, 8, 10), (1, 3, 3), 1, 2),
    ],
)  # fmt: skip
def test_they_are_those_of_a_lookup(monkeypatch, few, extents, taps, stride, dilation) -> None:
    monkeypatch.setattr(strips, "FEWEST_ROWS", few)
    monkeypatch.setattr(strips, "STRIP_BYTES", 0)
    asked, rows = window(extents, taps, stride, dilation)
    assert has_strips(asked, 2, 4) and not has_strips(asked, 64, 4)
    generator = np.random.default_rng(0)
    limit = np.array([a.extent for a in rows])
    lo = generator.integers(0, limit, (12, len(rows)))
    size = generator.integers(0, 6, lo.shape)
    out = Region(rows, Boxes(names(rows), lo[:, None], np.minimum(lo + size, limit)[:, None]))
    source_axes = tuple(map(Axis, names(rows), extents))
    low = generator.integers(0, extents, (12, len(rows)))
    high = np.minimum(low + 3, extents)
    changed = Region(source_axes, Boxes(names(rows), low[:, None], high[:, None]))
    held = 3 + int(np.prod(extents))
    source = Source(source_axes, 3, changed, held)
    buffer = generator.standard_normal((held + changed.count, 2)).astype(np.float32)
    plain = lookup(out.points, source, asked.reads, asked.taps, ZERO)
    found = read_strips(out, source, asked, Templates(), row_bytes=8)
    assert found is not None and [a for a, _ in found.blocks] == sorted(found.strips.spans)
    work = Workspace(np.float32)
    read = Input(buffer, found.index, strips=found.strips)
    parts = [work.gather(read, a, z).copy() for a, z in found.blocks]
    np.testing.assert_array_equal(np.concatenate(parts), buffer[plain].reshape(out.count, -1))

"""Windows as views of what a box of rows reads, against gathering each by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.ir.boxes import Boxes
from kqo.ir.equations import window as along
from kqo.ir.schema import Axis
from kqo.ir.window import Window, steps_of
from kqo.runtime import hulls
from kqo.runtime.hulls import read_hulls
from kqo.runtime.rows import PADDING_ROWS, ZERO, Region, Source, lookup
from kqo.runtime.templates import Templates
from kqo.runtime.workspace import Input, Workspace

COLUMNS = 2
SOURCE = (Axis("y", 23), Axis("x", 21))
TAPS = (Axis("ky", 3), Axis("kx", 2))


def _window(stride: int, dilation: int, padding: int) -> Window:
    reads = tuple((a, along(a, f"k{a}", stride, dilation, padding)) for a in "yx")
    return Window(SOURCE, reads, TAPS, (), (), (), (), (), plain=True)


def _boxes(rng: np.random.Generator, queries: int, limit: tuple[int, int]) -> Boxes:
    """Two boxes of each query side by side; some are empty."""
    lo = rng.integers(0, limit, (queries, 2, 2))
    hi = np.maximum(lo, np.minimum(lo + rng.integers(0, 9, lo.shape), limit))
    half = limit[1] // 2
    lo[:, 0, 1], hi[:, 0, 1] = np.minimum(lo[:, 0, 1], half), np.minimum(hi[:, 0, 1], half)
    lo[:, 1, 1], hi[:, 1, 1] = np.maximum(lo[:, 1, 1], half), np.maximum(hi[:, 1, 1], half)
    return Boxes(("y", "x"), lo, hi)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_windows_are_those_that_rows_read(
    stride: int, dilation: int, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hulls, "FEWEST", 0)
    plane = stride * 8 + dilation + 1  # of the widest box
    if cut:
        monkeypatch.setattr(hulls, "BLOCK_BYTES", (2 * dilation + 1) * plane * COLUMNS * 8)
    rng = np.random.default_rng(stride + 2 * dilation)
    window = _window(stride, dilation, 1)
    limit = (20 // stride, 18 // stride)
    out, region = Region(SOURCE, _boxes(rng, 40, limit)), Region(SOURCE, _boxes(rng, 40, (23, 21)))
    source = Source(SOURCE, PADDING_ROWS, region, PADDING_ROWS + 23 * 21)
    buffer = rng.standard_normal((source.slot + region.count, COLUMNS))
    buffer[ZERO] = 0
    monkeypatch.setattr(Window, "tap_count", 1000)  # however little windows overlap
    found = read_hulls(out, source, window, Templates(), COLUMNS * 8, COLUMNS)
    monkeypatch.undo()
    assert found is not None
    read, blocks = found
    assert [a for a, _ in blocks] == [0, *(z for _, z in blocks[:-1])]
    assert blocks[-1][1] == out.count
    if cut:  # boxes are cut into bands
        assert sum(map(len, read.bands.values())) > np.count_nonzero(out.sizes)
    wanted = buffer[lookup(out.points, source, window.reads, TAPS, ZERO)]
    space, target = Workspace(np.float64), np.full((out.count, COLUMNS), np.nan)
    for a, z in blocks:
        for x, y in space.windows(Input(buffer, None, hulls=read), target[a:z], a, z, (3, 2)):
            np.copyto(y, x[:, :, -1, -1])
            seen = x.reshape(-1, 6, COLUMNS)
            begin = (y.__array_interface__["data"][0] - target.__array_interface__["data"][0]) // (
                COLUMNS * 8
            )
            np.testing.assert_array_equal(seen, wanted[begin : begin + len(seen)])
    np.testing.assert_array_equal(target, wanted[:, -1])  # every row was written


def test_small_boxes_and_windows_that_hardly_overlap_are_gathered() -> None:
    rng = np.random.default_rng(0)
    out = Region(SOURCE, _boxes(rng, 40, (20, 18)))
    source = Source(SOURCE, PADDING_ROWS, None, 0)
    templates = Templates()
    assert read_hulls(out, source, _window(1, 1, 1), templates, 4 * COLUMNS, COLUMNS) is None
    assert read_hulls(out, source, _window(1, 1, 1), templates, 4 << 12, 1 << 12) is not None
    assert read_hulls(out, source, _window(3, 1, 1), templates, 4 << 12, 1 << 12) is None
    # One plane of outputs reads 5 planes of keys: more than a block, and most of them again.
    assert read_hulls(out, source, _window(1, 2, 1), templates, 4 << 12, 1 << 12) is None


def test_steps_of_windows_without_taps_of_their_own() -> None:
    assert steps_of(_window(2, 1, 0)) == ((2, 1, 3), (2, 1, 2))
    both = (("y", along("y", "ky")), ("x", along("x", "ky")))
    assert steps_of(Window(SOURCE, both, TAPS, (), (), (), (), (), plain=True)) is None
    assert steps_of(Window(SOURCE, both, TAPS[:1], (), (), (), (), (), plain=True)) is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 5, stride=2, padding=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 6, (2, 5), groups=6),
    ],
)
@pytest.mark.parametrize("fewest", [0, 1 << 30])
def test_depthwise_layers(layer: nn.Module, fewest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hulls, "FEWEST", fewest)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), layer, nn.ReLU())
    model = model.double().eval()
    image = torch.randn(1, 2, 20, 19, dtype=torch.float64)
    plan = kqo.compile(model, (image,), kqo.Occlusion(window=6, stride=5))
    asked: list[bool] = []
    windows = Workspace.windows

    def noted(self: Workspace, source: Input, *others: object) -> object:
        asked.append(source.hulls is not None)
        return windows(self, source, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Workspace, "windows", noted)
    result = plan.run(image[0])
    assert any(asked) == (fewest == 0)
    (found,), (first,) = result.outputs.values(), result.originals.values()
    found = found.reshape(-1, *first.shape)
    with torch.inference_mode():
        np.testing.assert_allclose(first, model(image)[0].numpy(), rtol=0, atol=1e-12)
        for number, (y, x) in enumerate([(0, 0), (0, 5), (0, 10)]):
            changed = image.clone()
            changed[:, :, y : y + 6, x : x + 6] = 0
            dense = model(changed)[0].numpy()
            np.testing.assert_allclose(found[number], dense, rtol=0, atol=1e-12)

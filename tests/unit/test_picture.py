"""Heatmaps drawn over images: the geometry, the file, and the errors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kqo.errors import ArgumentError
from kqo.explain.picture import draw_heatmap, upsample


def image(height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def test_a_value_stands_at_the_centre_of_its_window() -> None:
    heatmap = np.zeros((4, 6))
    heatmap[1, 2] = 1.0
    values = upsample(heatmap, (40, 60), window=9, stride=10)
    # The window of cell (1, 2) covers rows 10 to 18 and columns 20 to 28.
    assert values[14, 24] == 1.0
    assert np.nanargmax(values) == 14 * 60 + 24
    assert values[14, 29] == pytest.approx(0.5)
    assert np.isnan(values[39, 24])


def test_interpolation_is_linear_and_constants_stay() -> None:
    ramp = np.arange(5.0)[:, None] * np.ones((1, 5))
    values = upsample(ramp, (48, 48), window=16, stride=8)
    assert np.allclose(np.diff(values[8:40, 10]), 1 / 8)
    assert np.allclose(upsample(np.full((5, 5), 3.0), (48, 48), 16, 8), 3.0)


def test_a_clipped_window_stands_at_the_centre_of_what_is_left() -> None:
    # Windows of 4 every 3 pixels over 9: starts 0, 3, 6; the last covers 6 to 8 only.
    values = upsample(np.array([[0.0, 0.0, 1.0]]), (4, 9), window=4, stride=3)
    assert values[0, 7] == 1.0
    assert values[0, 8] == 1.0
    assert values[0, 6] == pytest.approx((6 - 4.5) / (7 - 4.5))


def test_an_empty_last_window_still_draws() -> None:
    # ceil((8 - 2) / 4) + 1 = 3 windows: the last starts at the border and covers nothing.
    values = upsample(np.array([[1.0, 2.0, 3.0]]), (2, 8), window=2, stride=4)
    assert np.isfinite(values).all()
    assert values[0, 0] == 1.0
    assert values[0, 7] == pytest.approx(2 + (7 - 4.5) / (7.5 - 4.5))


def test_pixels_outside_of_a_region_of_interest_have_no_value() -> None:
    values = upsample(np.ones((2, 3)), (40, 60), window=8, stride=8, origin=(8, 16))
    inside = np.zeros((40, 60), dtype=np.bool_)
    inside[8:24, 16:40] = True
    assert np.array_equal(np.isfinite(values), inside)


def test_window_and_stride_may_differ_per_axis() -> None:
    heatmap = np.zeros((3, 2))
    heatmap[2, 1] = 1.0
    values = upsample(heatmap, (12, 40), window=(4, 20), stride=(4, 20))
    assert values[11, 39] == 1.0
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("heatmap", "window", "origin", "named"),
    [
        (np.zeros(4), 4, (0, 0), "heatmap"),
        (np.zeros((0, 4)), 4, (0, 0), "heatmap"),
        (np.zeros((4, 4)), 0, (0, 0), "window"),
        (np.zeros((4, 4)), 4, (-1, 0), "starts"),
        (np.zeros((4, 40)), 4, (0, 0), "starts"),
    ],
)
def test_upsample_names_the_wrong_argument(heatmap, window, origin, named) -> None:
    with pytest.raises(ArgumentError, match=named):
        upsample(heatmap, (40, 60), window, 4, origin)


def panels(path: Path) -> int:
    """Number of panels of a picture: runs of columns with ink at mid-height."""
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("L")).astype(int)
    inked = (pixels[int(0.5 * len(pixels))] < 245).astype(int)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], inked])) == 1)
    stops = np.flatnonzero(np.diff(np.concatenate([inked, [0]])) == -1)
    return int(np.sum(stops - starts > 100))


def test_the_picture_has_a_panel_for_the_mask_only_if_there_is_one(tmp_path: Path) -> None:
    heatmap = np.linspace(-1, 2, 24).reshape(4, 6)
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[10:20, 20:30] = True
    common = {"window": 10, "stride": 10, "title": "a title", "dpi": 80}
    draw_heatmap(image(), heatmap, tmp_path / "two.png", **common)
    draw_heatmap(image(), heatmap, tmp_path / "three.png", mask=mask, subtitle="more", **common)
    assert panels(tmp_path / "two.png") == 2
    assert panels(tmp_path / "three.png") == 3


def colour_at_centre(path: Path, heatmap: np.ndarray, **options: object) -> np.ndarray:
    """Colour of the middle of the second of two panels."""
    draw_heatmap(image(40, 40), heatmap, path, window=8, stride=8, title="t", dpi=80, **options)
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    inked = np.flatnonzero(pixels[len(pixels) // 2].min(axis=1) < 245)
    gap = np.flatnonzero(np.diff(inked) > 5)
    left, right = inked[gap[0] + 1], inked[gap[1]]
    return pixels[int(0.6 * len(pixels)), (left + right) // 2]


def test_a_drop_is_red_a_rise_blue_and_nothing_grey(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    red = colour_at_centre(path, np.full((5, 5), 2.0))
    blue = colour_at_centre(path, np.full((5, 5), -2.0))
    grey = colour_at_centre(path, np.zeros((5, 5)))
    faint = colour_at_centre(path, np.full((5, 5), 0.01), scale=2.0)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert np.ptp(grey) <= 2
    assert np.array_equal(faint, grey)


def test_an_all_true_and_an_empty_mask_draw(tmp_path: Path) -> None:
    for value in (True, False):
        mask = np.full((40, 60), value)
        path = tmp_path / f"{value}.png"
        draw_heatmap(
            image(), np.ones((4, 6)), path, window=10, stride=10, title="t", mask=mask, dpi=60
        )
        assert panels(path) >= 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": np.zeros((40, 60, 3))}, "image"),
        ({"image": np.zeros((40, 60), dtype=np.uint8)}, "image"),
        ({"heatmap": np.full((4, 6), np.nan)}, "heatmap"),
        ({"mask": np.zeros((60, 40), dtype=np.bool_)}, "mask"),
        ({"scale": 0.0}, "scale"),
        ({"stride": 0}, "stride"),
    ],
)
def test_drawing_names_the_wrong_argument(tmp_path: Path, changes: dict, named: str) -> None:
    arguments = {"image": image(), "heatmap": np.zeros((4, 6)), "window": 10, "stride": 10}
    path = tmp_path / "never.png"
    with pytest.raises(ArgumentError, match=named):
        draw_heatmap(path=path, title="t", **{**arguments, **changes})
    assert not path.exists()


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    """Figures that pyplot knows stay alive until closed; these must not be among them."""
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    draw_heatmap(
        image(), np.ones((4, 6)), tmp_path / "p.png", window=10, stride=10, title="t", dpi=60
    )
    assert plt.get_fignums() == before
    assert "matplotlib.backends.backend_agg" in sys.modules

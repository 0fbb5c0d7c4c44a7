"""A heatmap drawn over its image: what the model looked at, readable at a glance.

Matplotlib is used through its objects, never through pyplot, so that drawing changes no global
state and works from any thread and without a display.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pair = int | tuple[int, int]

INK = "#222222"
MUTED = "#666666"
HIGHLIGHT = "#00e5ff"


def upsample(
    heatmap: NDArray[np.floating],
    size: tuple[int, int],
    window: Pair,
    stride: Pair,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.float64]:
    """The heatmap at every pixel: each cell's value stands at the centre of its window.

    Between the centres the values are interpolated linearly, beyond the outermost ones they are
    held. Windows that reach over the border are clipped, and so are their centres. Pixels outside
    of the box that holds all windows are NaN.

    Args:
        heatmap: (gy, gx), one value per window.
        size: height and width of the image in pixels.
        window: height and width of the windows in pixels, or one number for both.
        stride: vertical and horizontal step between windows in pixels, or one number for both.
        origin: top and left of the first window in pixels.

    Returns:
        float64 (height, width).

    Raises:
        ArgumentError: if the heatmap is not a matrix, a size is not positive, or a window starts
            outside the image.
    """
    if heatmap.ndim != 2 or 0 in heatmap.shape:
        raise ArgumentError("heatmap", f"shape {heatmap.shape}", "two axes, neither empty")
    weights, touched = [], []
    pairs = zip(heatmap.shape, size, _pair("window", window), _pair("stride", stride), strict=True)
    for axis, (cells, extent, width, step) in enumerate(pairs):
        starts = origin[axis] + step * np.arange(cells)
        if starts[0] < 0 or starts[-1] > extent:
            given = f"windows that start at {starts[0]} to {starts[-1]} along axis {axis}"
            raise ArgumentError("heatmap", given, f"starts in an image of {extent} pixels")
        stops = np.minimum(starts + width, extent)
        # A pixel's own centre is half a pixel after its index, which cancels against the stops.
        centres = (starts + stops - 1) / 2
        at = np.arange(extent)
        hats = [np.interp(at, centres, unit) for unit in np.eye(cells)]
        weights.append(np.stack(hats, axis=1))
        touched.append((at >= starts[0]) & (at < stops[-1]))
    values = weights[0] @ heatmap.astype(np.float64) @ weights[1].T
    return np.where(touched[0][:, None] & touched[1][None, :], values, np.nan)


def _pair(argument: str, value: Pair) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
    if min(pair) < 1:
        raise ArgumentError(argument, value, "numbers of pixels >= 1")
    return pair


def draw_heatmap(
    image: NDArray[np.uint8],
    heatmap: NDArray[np.floating],
    path: str | Path,
    *,
    window: Pair,
    stride: Pair,
    title: str,
    mask: NDArray[np.bool_] | None = None,
    subtitle: str = "",
    value_label: str = "drop of the score when hidden",
    origin: tuple[int, int] = (0, 0),
    scale: float | None = None,
    dpi: int = 150,
) -> None:
    """Write a PNG: the image, the heatmap over it with a colour bar, and the true mask if given.

    Yellow to red marks where hiding the image lowers the score, blue where it raises it, and no
    colour where it does not matter. A frame in the first panel shows the size of the window.

    Args:
        image: uint8 (H, W, 3), RGB.
        heatmap: (gy, gx), original minus occluded score per window, in the units of the score.
        path: the file to write.
        window: height and width of the windows in pixels, or one number for both.
        stride: step between windows in pixels, likewise.
        title: one line over the picture.
        mask: bool (H, W), what should have been found; adds a third panel.
        subtitle: a smaller line under the title.
        value_label: what the colour bar measures.
        origin: top and left of the first window in pixels, where a region of interest was asked.
        scale: the magnitude that gets full colour; by default the heatmap's largest. Give one to
            compare pictures, or to keep a flat heatmap flat.
        dpi: dots per inch; a panel is 3.2 inches high, or 8 inches wide where that is less.

    Raises:
        ArgumentError: for arrays whose shapes, dtypes or values do not fit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} of shape {image.shape}"
        raise ArgumentError("image", given, "uint8 of shape (H, W, 3)")
    size = (image.shape[0], image.shape[1])
    if mask is not None and mask.shape != size:
        raise ArgumentError("mask", f"shape {mask.shape}", f"the image's height and width {size}")
    if not np.isfinite(heatmap).all():
        raise ArgumentError("heatmap", "NaN or infinite values", "finite values")
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise ArgumentError("scale", scale, "a finite number > 0")
    values = upsample(heatmap, size, window, stride, origin)
    top = (float(np.abs(heatmap).max()) or 1.0) if scale is None else scale

    panels = 2 if mask is None else 3
    height = min(3.2, 8.0 * size[0] / size[1])
    width = max(height * size[1] / size[0], 2.2)
    head = 0.92 if subtitle else 0.7
    figure = Figure(figsize=(panels * (width + 0.25) + 1.0, height + head + 0.12), dpi=dpi)
    FigureCanvasAgg(figure)
    figure.patch.set_facecolor("white")
    grid = figure.add_gridspec(
        1,
        panels + 1,
        width_ratios=[width] * panels + [0.14],
        left=0.02,
        right=1 - 0.75 / figure.get_figwidth(),
        top=1 - head / figure.get_figheight(),
        bottom=0.12 / figure.get_figheight(),
        wspace=0.25 / width,
    )
    axes = [figure.add_subplot(grid[0, column]) for column in range(panels + 1)]
    _draw_image(axes[0], image, _pair("window", window), mask)
    draw_overlay(axes[1], image, values, mask, top)
    _bare(axes[1], "heatmap")
    if mask is not None:
        _draw_mask(axes[2], image, mask)
    _draw_colour_bar(axes[panels], heatmap, value_label, top)
    _draw_titles(figure, title, subtitle)
    figure.savefig(path, format="png")


def _bare(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10, color=INK, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_titles(figure: Figure, title: str, subtitle: str) -> None:
    inch = 1 / figure.get_figheight()
    figure.text(0.02, 1 - 0.16 * inch, title, fontsize=13, weight="bold", color=INK, va="top")
    figure.text(0.02, 1 - 0.42 * inch, subtitle, fontsize=9, color=MUTED, va="top")


def _draw_image(
    axes: Axes, image: NDArray[np.uint8], window: tuple[int, int], mask: NDArray[np.bool_] | None
) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(image, interpolation="nearest")
    _bare(axes, "image, with the size of the window")
    height, width = image.shape[:2]
    margin = 0.025 * max(height, width)
    left, top = margin - 0.5, height - margin - window[0] - 0.5
    # The frame moves to the bottom right rather than hide what it is there to compare with.
    if mask is not None and mask[height // 2 :, : width // 2].any():
        left = width - margin - window[1] - 0.5
    for line, colour in ((2.6, "black"), (1.2, "white")):
        frame = Rectangle((left, top), window[1], window[0], fill=False)
        frame.set_edgecolor(colour)
        frame.set_linewidth(line)
        axes.add_patch(frame)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Luma in [0, 1], (H, W, 3), pulled to the middle so that colours stay readable on it."""
    luma = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    return np.repeat((0.2 + 0.7 * luma)[:, :, None], 3, axis=2)


def _colours(values: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """RGBA (..., 4): hue from the sign and the size of value / top, opacity from the size."""
    from matplotlib import colormaps

    share = np.clip(np.nan_to_num(values / top), -1, 1)
    falls = colormaps["YlOrRd"](0.15 + 0.8 * share)
    rises = colormaps["Blues"](0.45 - 0.5 * share)
    rgba = np.where((share >= 0)[..., None], falls, rises).astype(np.float64)
    rgba[..., 3] = np.clip(2.0 * np.abs(share) - 0.1, 0, 0.8)
    return rgba


def draw_overlay(
    axes: Axes,
    image: NDArray[np.uint8],
    values: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    top: float,
) -> None:
    """Draw an image in grey, a heatmap over it, and the outline of a mask.

    Args:
        axes: what to draw on.
        image: uint8 (H, W, 3), RGB.
        values: (H, W), drops of the score; NaN where there are none.
        mask: bool (H, W), what should have been found.
        top: the drop that gets full colour.
    """
    axes.imshow(_grey(image), interpolation="nearest")
    axes.imshow(_colours(values, top), interpolation="nearest")
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=["black"], linewidths=2.0)
        axes.contour(mask, levels=[0.5], colors=[HIGHLIGHT], linewidths=1.0)


def _draw_mask(axes: Axes, image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    shown = 0.35 * _grey(image)
    shown[mask] = 0.35 * shown[mask] + 0.65
    axes.imshow(shown, interpolation="nearest")
    _bare(axes, "true defect" if mask.any() else "true defect: none")


def _draw_colour_bar(axes: Axes, heatmap: NDArray[np.floating], label: str, top: float) -> None:
    low = -top if heatmap.min() < -0.05 * top else 0.0
    levels = np.linspace(low, top, 256)
    rgba = _colours(levels, top)
    paper = 0.55  # a middle grey, as under the heatmap
    shown = rgba[:, :3] * rgba[:, 3:] + paper * (1 - rgba[:, 3:])
    axes.imshow(shown[:, None, :], origin="lower", aspect="auto", extent=(0.0, 1.0, low, top))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel(label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    for spine in axes.spines.values():
        spine.set_visible(False)

"""How good an approximate heatmap is, held against the exact one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError

Array = NDArray[np.float64]

WINDOW = 11
"""Cells along each side of the similarity's window."""

TOP = 0.1
"""Share of the positions whose order the rank correlation compares."""


def top_rank_correlation(
    approximate: NDArray[np.floating], exact: NDArray[np.floating], share: float = TOP
) -> float:
    """Spearman's rank correlation over the positions with the largest exact drops.

    Ties have the mean of their ranks (Spearman, *The Proof and Measurement of Association between
    Two Things*, 1904).

    Args:
        approximate: drops on a grid, of any shape.
        exact: the exact drops, of the same shape.
        share: of the positions that are compared, at least two, rounded up.

    Returns:
        From -1 to 1; where one of the two is constant there, 1 if both are and 0 otherwise.

    Raises:
        ArgumentError: shapes differ, or a share outside of (0, 1].
    """
    if approximate.shape != exact.shape:
        raise ArgumentError("approximate", f"shape {approximate.shape}", f"shape {exact.shape}")
    if not 0 < share <= 1:
        raise ArgumentError("share", share, "above 0 and at most 1")
    flat = exact.ravel()
    count = min(flat.size, max(2, math.ceil(share * flat.size)))
    # Stable, so that ties at the edge fall to the first positions on every machine.
    top = np.argsort(-flat, kind="stable")[:count]
    a, b = ranks(approximate.ravel()[top]), ranks(flat[top])
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if scale == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b) / scale


def ranks(values: NDArray[np.floating]) -> Array:
    """Ranks from 1 of the values (n,); equal values share the mean of their ranks."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return np.asarray((last - (sizes - 1) / 2)[group])


def ssim(approximate: NDArray[np.floating], exact: NDArray[np.floating]) -> float:
    """Mean structural similarity of two heatmaps.

    Wang, Bovik, Sheikh and Simoncelli, *Image Quality Assessment: From Error Visibility to
    Structural Similarity*, IEEE Transactions on Image Processing 13(4), 2004, equation 13, with
    their Gaussian window of deviation 1.5 cut at 11x11, K1 = 0.01 and K2 = 0.03. The dynamic range
    is that of the exact heatmap, and means are over windows that lie inside of it.

    Args:
        approximate: (gy, gx), at least 11x11.
        exact: the same.

    Returns:
        At most 1, which means equal; for a constant exact heatmap 1 or 0.

    Raises:
        ArgumentError: shapes differ, or heatmaps are smaller than the window.
    """
    if approximate.shape != exact.shape:
        raise ArgumentError("approximate", f"shape {approximate.shape}", f"shape {exact.shape}")
    if not has_ssim(exact.shape):
        raise ArgumentError("exact", f"shape {exact.shape}", "two axes of at least 11")
    x, y = approximate.astype(np.float64), exact.astype(np.float64)
    extent = float(np.ptp(y))
    if extent == 0:
        return float(np.array_equal(x, y))
    return float(_similarity(x, y, extent).mean())


def window_ssim(
    approximate: NDArray[np.floating], exact: NDArray[np.floating], extent: float
) -> float:
    """The similarity within one window of :func:`ssim`, (11, 11), for a dynamic range ``extent``;
    with a range of 0, 1 or 0."""
    x, y = approximate.astype(np.float64), exact.astype(np.float64)
    return float(_similarity(x, y, extent)[0, 0]) if extent else float(np.array_equal(x, y))


def _similarity(x: Array, y: Array, extent: float) -> Array:
    mx, my = blurred(x), blurred(y)
    vx, vy, cov = blurred(x * x) - mx * mx, blurred(y * y) - my * my, blurred(x * y) - mx * my
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    found = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return np.asarray(found)


def has_ssim(grid: tuple[int, ...]) -> bool:
    """Whether heatmaps of this shape are large enough for :func:`ssim`'s window."""
    return len(grid) == 2 and min(grid) >= WINDOW


def blurred(values: Array) -> Array:
    """Weighted means over 11x11 windows inside of (h, w): (h - 10, w - 10)."""
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    for axis in range(2):
        windows = np.lib.stride_tricks.sliding_window_view(values, 11, axis=axis)
        values = windows @ weights
    return values

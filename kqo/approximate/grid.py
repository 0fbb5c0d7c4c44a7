"""A coarse grid of a heatmap: its cells, and how the others lie to them."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from kqo.approximate.interpolate import Ints, Values, distances
from kqo.approximate.quality import has_ssim
from kqo.errors import ArgumentError


class CoarseGrid:
    """Every so many cells of a grid along each axis, and the last ones, so that no value is
    extrapolated.

    Attributes:
        grid: the grid's shape.
        step: in cells.
        cells: row-major numbers of the coarse cells.

    Args:
        grid: the grid's shape.
        step: in cells.
    """

    def __init__(self, grid: tuple[int, ...], step: int) -> None:
        self.grid, self.step = grid, step
        along = [np.unique([*range(0, n, step), n - 1]) for n in grid]
        mesh = np.meshgrid(*along, indexing="ij")
        self.cells: Ints = np.ravel_multi_index(tuple(mesh), grid).ravel()

    @property
    def others(self) -> Ints:
        """Row-major numbers of the cells outside of the coarse grid, in order."""
        return np.setdiff1d(np.arange(math.prod(self.grid)), self.cells)

    @property
    def distances(self) -> Values:
        """By cell, as of :func:`kqo.approximate.interpolate.distances` for the coarse cells."""
        return _distances(self.grid, self.step)


@lru_cache(maxsize=32)
def _distances(grid: tuple[int, ...], step: int) -> Values:
    found = distances(grid, CoarseGrid(grid, step).cells)
    found.flags.writeable = False
    return found


def check_estimated(grid: tuple[int, ...]) -> None:
    """ArgumentError for heatmaps of a shape whose similarity cannot be estimated."""
    if not has_ssim(grid):
        raise ArgumentError("until", f"a grid of shape {grid}", "two axes of at least 11 cells")

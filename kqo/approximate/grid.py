"""A coarse grid of a heatmap: its cells, what lies between them, and which to ask next."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from kqo.approximate.quality import blurred, has_ssim
from kqo.errors import ArgumentError

Values = NDArray[np.float64]
Ints = NDArray[np.int64]

SHARES = np.linspace(0, 1, 21)
"""Shares of the other cells among which one is chosen by the similarity that it lets expect."""


class CoarseGrid:
    """Every so many cells of a grid along each axis, and the last ones, so that no value is
    extrapolated.

    Attributes:
        grid: the grid's shape.
        along: numbers of the coarse cells along each axis.
        cells: row-major numbers of the coarse cells.

    Args:
        grid: the grid's shape.
        step: in cells.
    """

    def __init__(self, grid: tuple[int, ...], step: int) -> None:
        self.grid = grid
        self.along = [np.unique([*range(0, n, step), n - 1]) for n in grid]
        mesh = np.meshgrid(*self.along, indexing="ij")
        self.cells: Ints = np.ravel_multi_index(tuple(mesh), grid).ravel()
        self._weights = [
            np.stack([np.interp(np.arange(n), at, unit) for unit in np.eye(len(at))], axis=1)
            for n, at in zip(grid, self.along, strict=True)
        ]

    @property
    def others(self) -> Ints:
        """Row-major numbers of the cells outside of the coarse grid, in order."""
        return np.setdiff1d(np.arange(math.prod(self.grid)), self.cells)

    def spread(self, values: NDArray[np.floating]) -> Values:
        """Coarse values (cells, ...) interpolated linearly along each axis, (grid's cells, ...)."""
        found = values.reshape([*map(len, self.along), *values.shape[1:]])
        for axis, weights in enumerate(self._weights):
            found = np.moveaxis(np.tensordot(weights, found, axes=(1, axis)), 0, axis)
        return np.asarray(found.reshape(-1, *values.shape[1:]), dtype=np.float64)

    def filled(self, values: Values) -> Values:
        """Coarse values with NaN replaced by the nearest one that is none; all NaN stay."""
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            return values
        return np.asarray(values[known[self.nearest(known)]], dtype=np.float64)

    def nearest(self, known: Ints) -> Ints:
        """For each coarse cell the nearest of some: numbers within ``known`` (numbers of coarse
        cells)."""
        at = np.stack(np.unravel_index(self.cells, self.grid), axis=1)
        return np.asarray(((at[:, None] - at[None, known]) ** 2).sum(-1).argmin(1))

    def order(self, values: Values) -> Ints:
        """The other cells, those with the lowest interpolated value first.

        Args:
            values: scores of the coarse cells.
        """
        others = self.others
        return others[np.argsort(self.spread(values)[others], kind="stable")]

    def wanted(self, values: Values, share: float, until: float | None) -> Ints:
        """The other cells to ask, first ones first.

        Args:
            values: scores of the coarse cells.
            share: of the other cells, at most.
            until: the estimated similarity with which fewer are enough. None: all of the share.
        """
        order = self.order(values)
        if until is not None:
            enough = self.estimates(values, order) >= until
            share = min(share, float(SHARES[enough.argmax()]))
        return order[: math.ceil(share * len(order))]

    def estimates(self, values: Values, order: Ints) -> Values:
        """The similarity to the exact heatmap that each of :data:`SHARES` lets expect.

        Between coarse cells the heatmap is the interpolated value plus an error that nothing is
        known of but its variance: how far coarse cells lie from the middle of their neighbours,
        nearby. The structural similarity (Wang et al. 2004, equation 13) of a window whose
        interpolated values have variance v to one with an error of variance e, of mean 0 and
        uncorrelated, is (2v + C2) / (2v + e + C2); the estimate is its mean over windows. It is
        no bound: too low where heatmaps are smooth, since an error is measured over twice the
        distance that it is made over, and too high for noise between coarse cells. What a value of
        it stands for, a profile measures.

        Args:
            values: scores of the coarse cells.
            order: the other cells, in the order in which they are asked.

        Returns:
            one number for each share, rising to 1.

        Raises:
            ArgumentError: a grid without such windows.
        """
        similarity = self._similarity(values)
        known = np.zeros(math.prod(self.grid), dtype=np.bool_)
        found = []
        for share in SHARES:
            known[order[: math.ceil(share * len(order))]] = True
            found.append(similarity(known))
        found[-1] = 1.0  # not a rounding less: at share 1 nothing is interpolated
        return np.array(found)

    def estimate(self, values: Values, known: NDArray[np.bool_]) -> float:
        """The similarity to the exact heatmap that a set of known cells lets expect.

        Args:
            values: scores of the coarse cells.
            known: by cell, the coarse ones among them or not.

        Raises:
            ArgumentError: as for :meth:`estimates`.
        """
        return self._similarity(values)(known)

    def _similarity(self, values: Values) -> Callable[[NDArray[np.bool_]], float]:
        check_estimated(self.grid)
        coarse = values.reshape([len(at) for at in self.along])
        extent = float(np.ptp(coarse))
        if extent == 0:
            return lambda known: 1.0
        guess = self.spread(values).reshape(self.grid)
        mean = blurred(guess)
        doubled = 2 * np.maximum(blurred(guess * guess) - mean * mean, 0) + (0.03 * extent) ** 2
        error = self.spread(_errors(coarse).ravel())
        error[self.cells] = 0

        def similarity(known: NDArray[np.bool_]) -> float:
            left = blurred(np.where(known, 0, error).reshape(self.grid))
            return float((doubled / (doubled + left)).mean())

        return similarity


def check_estimated(grid: tuple[int, ...]) -> None:
    """ArgumentError for heatmaps of a shape whose similarity cannot be estimated."""
    if not has_ssim(grid):
        raise ArgumentError("until", f"a grid of shape {grid}", "two axes of at least 11 cells")


def _errors(coarse: Values) -> Values:
    """Squared distance of each value (h, w) from the middle of its neighbours, smoothed."""
    found = np.zeros(coarse.shape)
    counted = 0
    for axis in range(coarse.ndim):
        if coarse.shape[axis] < 3:
            continue
        line = np.moveaxis(coarse, axis, 0)
        inner = (line[1:-1] - (line[:-2] + line[2:]) / 2) ** 2
        found += np.moveaxis(np.concatenate([inner[:1], inner, inner[-1:]]), 0, axis)
        counted += 1
    if not counted:  # corners only: their own variance
        return np.full(coarse.shape, coarse.var())
    return np.asarray(gaussian_filter(found / counted, 1.0), dtype=np.float64)

"""A heatmap of which some cells are known: what the others may be, and which of them to ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kqo.approximate.interpolate import Ints, Values, Weights, leave_one_out, weights
from kqo.approximate.quality import blurred

SHARES = np.linspace(0, 1, 21)
"""Shares of the other cells after which a heatmap is looked at again."""

SPREAD = 2.0
"""Over how many cells the size of errors is averaged, as the deviation of a Gaussian; over half the
distance of known cells, where that is more."""

AWAY = 3.0
"""Expected squared error of a cell within a coarse grid, in units of the local one."""


class Guess:
    """A heatmap whose unknown cells are interpolated.

    What an interpolated cell may be off by is read off the known ones: each is interpolated from
    the other ones, and the squares of what it differs by, over what the interpolation's geometry
    lets expect, are averaged nearby. Between known cells the heatmap is then taken to be the
    interpolated value plus an error of that variance which it does not correlate with.

    Attributes:
        grid: the grid's shape.
        known: by cell.
        values: by cell, interpolated where not known.

    Args:
        scores: by cell; anything where it is not known.
        known: by cell; for :meth:`similarity` and an order by error all of them or at least two.
        grid: the grid's shape.
        base: by cell, what is taken for the heatmap where nothing is known; then it is the known
            cells' difference from it that is interpolated. None: nothing is.
    """

    def __init__(
        self,
        scores: Values,
        known: NDArray[np.bool_],
        grid: tuple[int, ...],
        base: Values | None = None,
    ) -> None:
        self.grid, self.known = grid, known
        self._at, self._left = np.flatnonzero(known), np.flatnonzero(~known)
        self._scores = scores[self._at]
        self._differ = self._scores if base is None else self._scores - base[self._at]
        self._weights: Weights | None = None
        self.values = np.zeros(len(scores)) if base is None else base.copy()
        self.values[self._at] = self._scores
        if len(self._at) and len(self._left):
            self._weights = weights(grid, self._at, self._left)
            self.values[self._left] += self._weights.apply(self._differ)

    @cached_property
    def _local(self) -> Values:
        """Expected squared error for a variance of 1 of the interpolation, (grid)."""
        found = leave_one_out(self.grid, self._at)
        count = math.prod(self.grid)
        deviation = max(SPREAD, 0.5 * (count / len(self._at)) ** (1 / len(self.grid)))

        def near(values: Values) -> Values:
            put = np.zeros(count)
            put[self._at] = values
            return _smooth(put.reshape(self.grid), deviation, "constant")

        squared = (self._differ - found.apply(self._differ)) ** 2
        return near(squared) / np.maximum(near(found.variance), 1e-12)

    @cached_property
    def _extent(self) -> float:
        return float(np.ptp(self._scores))

    def similarity(self) -> float:
        """The structural similarity to the exact heatmap that is to be expected.

        For a window whose interpolated values have variance v and an error of variance e, Wang et
        al. 2004, equation 13, comes to (2v + C2) / (2v + e + C2); this is its mean over windows of
        a grid (h, w) of at least 11x11. It is no bound; what a value of it stands for, a profile
        measures.
        """
        if self._weights is None or self._extent == 0:
            return 1.0
        error = np.zeros(len(self.known))
        error[self._left] = self._local.ravel()[self._left] * self._weights.variance
        guess = self.values.reshape(self.grid)
        mean = blurred(guess)
        doubled = 2 * np.maximum(blurred(guess * guess) - mean * mean, 0)
        doubled += (0.03 * self._extent) ** 2
        return float((doubled / (doubled + blurred(error.reshape(self.grid)))).mean())

    def order(self, by: str, distances: Values) -> Ints:
        """The unknown cells, those that are best asked first.

        Args:
            by: ``"score"``, those of the lowest interpolated value; or ``"error"``, those where
                most similarity is lost: the expected error relative to how much the heatmap varies
                around, times the distance to other known cells, so that it is refined evenly where
                it is the same.
            distances: by cell, to the known ones when it is its turn.
        """
        if by == "score":
            first = self.values[self._left]
        elif self._extent == 0:
            first = -distances[self._left]
        else:
            guess = self.values.reshape(self.grid)
            mean = _smooth(guess, 1.5)
            varies = 2 * np.maximum(_smooth(guess * guess, 1.5) - mean * mean, 0)
            c2 = (0.03 * self._extent) ** 2
            lost = self._local / (varies + AWAY * self._local + c2)
            first = -(_smooth(lost, 1.0).ravel() * distances)[self._left]
        return self._left[np.argsort(first, kind="stable")]


def tranches(
    guess: Callable[[], Guess],
    distances: Values,
    *,
    first: int,
    order: str,
    share: float,
    until: float | None,
) -> Iterator[Ints]:
    """The cells to ask after the first stage, in parts: what a part has told decides on the next.

    Args:
        guess: the heatmap as it stands, with the cells of all parts so far known.
        distances: as :meth:`Guess.order` takes them.
        first: number of cells that the first stage asked.
        order: as of :meth:`Guess.order`.
        share: of the other cells to ask, at most.
        until: the estimated similarity with which fewer are enough. None: all of the share.
    """
    count = len(distances) - first
    most, asked = math.ceil(share * count), 0
    for part in SHARES[1:]:
        if asked >= most:
            return
        found = guess()
        if until is not None and found.similarity() >= until:
            return
        end = min(most, math.ceil(part * count))
        if end > asked:
            yield found.order(order, distances)[: end - asked]
            asked = end


def _smooth(values: Values, deviation: float, mode: str = "reflect") -> Values:
    from scipy.ndimage import gaussian_filter  # 35 MB with what it imports, which few plans need

    return np.asarray(gaussian_filter(values, deviation, mode=mode), dtype=np.float64)

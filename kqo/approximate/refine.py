"""Heatmaps that refine: a coarse grid first, then the cells where the coarse drops are largest.

The coarse-to-fine order is the adaptive drill-down of Nakandala, Kumar and Papakonstantinou,
*Incremental and Approximate Inference for Faster Occlusion-based Deep CNN Explanations*, SIGMOD
2019, section 4.2, without an end: the last heatmap is the plan's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError

Values = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Refined:
    """A heatmap on the way to the plan's own.

    Attributes:
        heatmap: float32 of the grid's shape, the target's score at each cell; interpolated where
            ``known`` is False.
        known: of the grid's shape, whether a cell was computed.
        target: number of the class, row-major among the output's values.
        original: the target's score for the untouched image.
        seconds: since the first heatmap was asked for.
        complete: whether every cell was computed.
    """

    heatmap: NDArray[np.float32]
    known: NDArray[np.bool_]
    target: int
    original: float
    seconds: float
    complete: bool


class CoarseGrid:
    """Every so many cells of a grid along each axis, and the last ones, so that no value is
    extrapolated.

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

    def spread(self, values: Values) -> Values:
        """Coarse values (cells,) interpolated linearly along each axis, (product of the grid,)."""
        found = values.reshape([len(at) for at in self.along])
        for axis, weights in enumerate(self._weights):
            found = np.moveaxis(np.tensordot(weights, found, axes=(1, axis)), 0, axis)
        return np.asarray(found.ravel(), dtype=np.float64)

    def filled(self, values: Values) -> Values:
        """Coarse values with NaN replaced by the nearest one that is none; all NaN stay."""
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            return values
        at = np.stack(np.unravel_index(self.cells, self.grid), axis=1)
        near = ((at[:, None] - at[None, known]) ** 2).sum(-1).argmin(1)
        return np.asarray(values[known[near]], dtype=np.float64)


def refine(
    grid: tuple[int, ...],
    answer: Callable[[Ints], Values],
    original: Callable[[], tuple[int, float]],
    round_size: int,
    step: int,
    share: float,
    deadline: float | None,
) -> Iterator[Refined]:
    """Heatmaps of a grid, each better than the one before.

    Args:
        grid: shape of the grid, all of whose cells have a query.
        answer: the target's scores of cells, by their row-major numbers.
        original: number of the target and its score for the untouched image; asked first.
        round_size: cells that are asked at once.
        step: of the coarse grid, in cells; 1 for none.
        share: of the cells outside of the coarse grid to ask, 0 to 1; 1 asks all.
        deadline: seconds after which no further cells are asked.

    Raises:
        ArgumentError: a step below 1, a share outside of 0 to 1, a deadline not above 0.
    """
    if step < 1:
        raise ArgumentError("step", step, "a number of cells from 1 on")
    if not 0 <= share <= 1:
        raise ArgumentError("share", share, "a number from 0 to 1")
    if deadline is not None and not deadline > 0:
        raise ArgumentError("deadline", deadline, "a positive number of seconds")
    return _refine(CoarseGrid(grid, step), answer, original, round_size, share, deadline)


def _refine(
    coarse: CoarseGrid,
    answer: Callable[[Ints], Values],
    original: Callable[[], tuple[int, float]],
    round_size: int,
    share: float,
    deadline: float | None,
) -> Iterator[Refined]:
    began = time.perf_counter()
    target, score = original()
    scores = np.full(int(np.prod(coarse.grid)), np.nan)
    known = np.zeros(len(scores), dtype=np.bool_)
    # From the coarse grid every so many cells, so that an early end leaves no side unseen.
    order = coarse.cells
    rounds = max(1, -(-len(order) // round_size))
    order = np.concatenate([order[start::rounds] for start in range(rounds)])
    longest = 0.0
    while len(order):
        asked = time.perf_counter()
        if deadline is not None and known.any() and asked - began + longest > deadline:
            return
        part, order = order[:round_size], order[round_size:]
        scores[part] = answer(part)
        known[part] = True
        ended = time.perf_counter()
        longest = max(longest, ended - asked)
        guess = coarse.spread(coarse.filled(scores[coarse.cells]))
        heatmap = np.where(known, scores, guess).astype(np.float32).reshape(coarse.grid)
        mask = known.reshape(coarse.grid).copy()
        yield Refined(heatmap, mask, target, score, ended - began, bool(known.all()))
        if not len(order) and known.sum() == len(coarse.cells):
            left = np.flatnonzero(~known)
            order = left[np.argsort(guess[left], kind="stable")]
            order = order[: math.ceil(share * len(left))]

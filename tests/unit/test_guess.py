"""Heatmaps of which some cells are known: interpolation, what it may be off by, what to ask."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kqo.approximate.grid import CoarseGrid
from kqo.approximate.guess import SHARES, Guess, tranches
from kqo.approximate.interpolate import distances, leave_one_out, weights
from kqo.approximate.quality import ssim

GRID = (40, 40)


def heat(name: str, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(GRID)
    return gaussian_filter(values, {"rough": 1.5, "smooth": 4.0}[name])


def guessed(truth: np.ndarray, cells: np.ndarray, base: np.ndarray | None = None) -> Guess:
    known = np.zeros(truth.size, dtype=bool)
    known[cells] = True
    return Guess(np.where(known, truth.ravel(), np.nan), known, truth.shape, base)


def drilled(truth: np.ndarray, step: int, order: str, share: float, until: float | None) -> Guess:
    coarse = CoarseGrid(truth.shape, step)
    asked = [coarse.cells]
    parts = tranches(
        lambda: guessed(truth, np.concatenate(asked)),
        coarse.distances,
        first=len(coarse.cells),
        order=order,
        share=share,
        until=until,
    )
    for part in parts:
        assert not np.isin(part, np.concatenate(asked)).any()
        asked.append(part)
    return guessed(truth, np.concatenate(asked))


def test_weights_sum_to_one_and_keep_what_is_even() -> None:
    generator = np.random.default_rng(0)
    known = np.sort(generator.choice(1600, 300, replace=False))
    left = np.setdiff1d(np.arange(1600), known)
    found = weights(GRID, known, left)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(found.apply(np.full((300, 2, 3), 7.0)), 7.0, rtol=1e-9)
    assert (found.variance > 0).all()
    alone = leave_one_out(GRID, known).neighbours
    assert (alone != np.arange(300)[:, None]).all()


def test_kriging_of_two_cells_is_the_mean_in_their_middle() -> None:
    found = weights((1, 5), np.array([0, 4]), np.array([1, 2]))
    by_cell = np.zeros((2, 2))
    np.put_along_axis(by_cell, found.neighbours, found.weights, axis=1)
    np.testing.assert_allclose(by_cell, [[0.75, 0.25], [0.5, 0.5]])
    # A Brownian bridge of length 4 whose increments have variance 2: 2 * t * (4 - t) / 4.
    np.testing.assert_allclose(found.variance, [1.5, 2.0])


def test_one_known_cell_is_everywhere() -> None:
    found = weights((3, 3), np.array([4]), np.array([0, 8]))
    np.testing.assert_allclose(found.apply(np.array([2.5])), 2.5)


def test_the_expected_error_is_that_of_a_walk() -> None:
    """Where cells do differ by a variance of their distance, errors are what is expected."""
    walk = np.cumsum(np.random.default_rng(1).standard_normal((200, 65)), axis=1)
    known, left = np.arange(0, 65, 4), np.array([n for n in range(65) if n % 4])
    found = weights((65,), known, left)
    squared = (found.apply(walk[:, known].T) - walk[:, left].T) ** 2
    np.testing.assert_allclose(squared.mean() / (found.variance.mean() / 2), 1, rtol=0.1)


def test_middles_come_before_edges() -> None:
    found = distances((9, 9), CoarseGrid((9, 9), 4).cells).reshape(9, 9)
    assert (found[::4, ::4] == 0).all()
    assert (found[2::4, 2::4] == math.sqrt(8)).all()
    assert (found[::4, 2::4] == 2).all() and (found[2::4, ::4] == 2).all()
    assert (found[1::2, 1::2] == math.sqrt(2)).all()
    assert (np.sort(np.unique(found)) == [0, 1, math.sqrt(2), 2, math.sqrt(8)]).all()


@pytest.mark.parametrize("order", ["score", "error"])
def test_shares_are_asked_and_everything_is_exact(order: str) -> None:
    truth, coarse = heat("rough"), len(CoarseGrid(GRID, 3).cells)
    for share in (0.0, 0.07, 0.3, 1.0):
        found = drilled(truth, 3, order, share, None)
        assert found.known.sum() == coarse + math.ceil(share * (1600 - coarse))
    np.testing.assert_array_equal(found.values, truth.ravel())
    assert found.similarity() == 1


def test_estimates_follow_the_similarity() -> None:
    for name in ("rough", "smooth"):
        truth = heat(name)
        for part in (0.0, 0.2, 0.5):
            found = drilled(truth, 3, "error", part, None)
            true = ssim(found.values.reshape(GRID), truth)
            assert found.similarity() == pytest.approx(true, abs=0.2), (name, part)
    rough, even = (drilled(heat(n), 3, "error", 1.0, 0.8) for n in ("rough", "smooth"))
    assert rough.known.sum() > 1.5 * even.known.sum()
    assert (
        drilled(heat("rough"), 3, "error", 0.1, 0.99).known.sum()
        == drilled(heat("rough"), 3, "score", 0.1, None).known.sum()
    )


def test_by_error_it_is_more_like_the_truth_than_by_score() -> None:
    for seed in range(3):
        truth = heat("rough", seed)
        by = {o: drilled(truth, 4, o, 0.3, None).values.reshape(GRID) for o in ("score", "error")}
        assert ssim(by["error"], truth) > ssim(by["score"], truth) + 0.05


def test_what_is_rough_is_asked_first() -> None:
    truth = np.where(np.arange(40) < 20, heat("smooth"), 1.0 * heat("rough"))
    found = drilled(truth, 4, "error", 0.3, None).known.reshape(GRID)
    assert found[:, 20:].sum() > 1.3 * found[:, :20].sum()


def test_a_heatmap_without_differences() -> None:
    flat = np.ones(GRID)
    assert drilled(flat, 4, "error", 1.0, 0.99).known.sum() == len(CoarseGrid(GRID, 4).cells)
    found = drilled(flat, 4, "error", 0.1, None)
    assert found.similarity() == 1 and np.allclose(found.values, 1)


def test_a_base_stands_where_nothing_is_known() -> None:
    truth = heat("rough")
    base = truth.ravel() + 3.0
    np.testing.assert_array_equal(guessed(truth, np.zeros(0, dtype=int), base).values, base)
    some = guessed(truth, np.arange(0, 1600, 7), base)
    np.testing.assert_allclose(some.values, truth.ravel(), rtol=1e-9, atol=1e-9)


def test_the_shares_are_those_of_the_tuner() -> None:
    assert SHARES[0] == 0 and SHARES[-1] == 1 and (np.diff(SHARES) > 0).all()

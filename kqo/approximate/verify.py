"""Holding sampled queries of a result against full re-inference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kqo.approximate.asking import Inputs, Planned
from kqo.approximate.quality import WINDOW, has_ssim, ranks, window_ssim
from kqo.errors import VerificationError
from kqo.ir.boxes import Boxes
from kqo.options import Options
from kqo.runtime.engine import Engine
from kqo.runtime.finite import largest_error
from kqo.runtime.result import Result

Values = NDArray[np.float64]
Ints = NDArray[np.int64]


class Checked(Planned, Protocol):
    """A compiled plan that can be held against full re-inference."""

    def _dense(self, boxes: Boxes, options: Options) -> Engine: ...

    def _boxes(self, queries: Ints) -> Boxes: ...


def verified(plan: Checked, result: Result, images: list[Inputs], count: int) -> Result:
    """The result with what a sample of its queries says of it.

    Of an exact plan, the largest difference; of an approximate one, also its error at the sample:
    see :attr:`Result.measured`. With 121 samples or more of a heatmap, whole windows of 11x11 cells
    are sampled, whose mean similarity estimates that of the heatmap without bias.

    Raises:
        VerificationError: the plan is exact, and a sampled query differs by more than its options'
            tolerance.
    """
    generator = np.random.default_rng(0)
    queries, corners = sampled(plan, count, generator)
    options = replace(plan.options, approximations={}, batch=None, step=1, share=1.0, until=None)
    dense = plan._dense(plan._boxes(queries), options)
    worst, measured = 0.0, []
    for number, inputs in enumerate(images):
        expected = dense.run(inputs)
        for name, values in result.outputs.items():
            got = (values[number] if result.many else values)[queries]
            worst = max(worst, largest_error(got, expected[name][:-1]))
        measured.append(_measured(result, number, expected, queries, corners))
    exact = not plan.options.approximates and result.computed is None
    if exact and not worst <= plan.options.stated_tolerance:
        raise VerificationError(
            f"{count} sampled queries differ from full re-inference by {worst:.2e} of the "
            f"largest output; the tolerance is {plan.options.stated_tolerance:g}",
            hint="compile with a smaller tolerance, for more exact forms; or with a larger one",
        )
    facts: dict[str, Any] = {**result.facts, "verified": len(queries), "error": worst}
    if not exact:
        facts["measured"] = _summed(measured, len(queries))
    return replace(result, facts=facts)


def sampled(
    plan: Planned, count: int, generator: np.random.Generator
) -> tuple[Ints, list[tuple[int, int]]]:
    """Numbers of queries, sorted, and the corners of the windows among them."""
    placed = plan.placed
    order = generator.permutation(len(placed))
    corners: list[tuple[int, int]] = []
    cells: set[int] = set()
    approximate = plan.options.approximates
    if approximate and placed.grid is not None and placed.cells is not None:
        grid = placed.grid
        whole = has_ssim(grid) and len(placed) == math.prod(grid)
        for _ in range(count // WINDOW**2 if whole else 0):
            y, x = (int(generator.integers(n - WINDOW + 1)) for n in grid)
            corners.append((y, x))
            cells.update(_window(grid, y, x).ravel().tolist())
    chosen = np.zeros(len(placed), dtype=np.bool_)
    if cells:
        chosen = np.isin(placed.cells, np.fromiter(cells, dtype=np.int64))  # type: ignore[arg-type]
    rest = order[~chosen[order]]
    chosen[rest[: max(0, count - WINDOW**2 * len(corners))]] = True
    return np.flatnonzero(chosen), corners


def _window(grid: tuple[int, ...], y: int, x: int) -> Ints:
    """Row-major numbers of a window's cells, (11, 11)."""
    rows = np.arange(y, y + WINDOW)[:, None] * grid[1]
    return np.asarray(rows + np.arange(x, x + WINDOW)[None, :], dtype=np.int64)


def _measured(
    result: Result, number: int, expected: Inputs, queries: Ints, corners: list[tuple[int, int]]
) -> dict[str, Any]:
    """One image's errors at the sample, of the score of the class that is predicted for it."""
    first = next(iter(expected.values()))
    original = first[-1].reshape(-1)
    target = int(original.argmax())
    exact = first[:-1].reshape(len(queries), -1)[:, target].astype(np.float64)
    scores = result.scores[number] if result.many else result.scores
    mine = scores.reshape(len(scores), -1)[:, target].astype(np.float64)
    got = mine[queries]
    error = np.abs(got - exact)
    a, b = ranks(got), ranks(exact)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    placed, similar = result.workload, None
    if corners and placed.grid is not None and placed.cells is not None:
        approximate = np.empty(len(mine))
        approximate[placed.cells] = mine
        truth = np.full(len(mine), np.nan)
        truth[placed.cells[queries]] = exact
        # Of drops, as the similarity of whole heatmaps is taken.
        approximate, truth = original[target] - approximate, original[target] - truth
        extent = max(float(np.ptp(approximate)), float(np.ptp(exact)))
        found = [_window(placed.grid, y, x) for y, x in corners]
        similar = float(np.mean([window_ssim(approximate[w], truth[w], extent) for w in found]))
    return {
        "mean_error": float(error.mean()),
        "max_error": float(error.max()),
        "range": float(np.ptp(exact)),
        "rank_correlation": float(a @ b) / scale if scale else float(not a.any() and not b.any()),
        "ssim": similar,
    }


def _summed(measured: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Over images: means, and the largest error."""
    found: dict[str, Any] = {"samples": samples}
    for name in measured[0]:
        values = [one[name] for one in measured]
        if any(value is None for value in values):
            found[name] = None
        else:
            found[name] = max(values) if name == "max_error" else float(np.mean(values))
    return found

"""Heatmaps that refine: a coarse grid first, then the cells where the coarse drops are largest.

The coarse-to-fine order is the adaptive drill-down of Nakandala, Kumar and Papakonstantinou,
*Incremental and Approximate Inference for Faster Occlusion-based Deep CNN Explanations*, SIGMOD
2019, section 4.2, without an end: the last heatmap is the plan's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.approximate.asking import Asking, Planned
from kqo.approximate.grid import CoarseGrid, check_estimated
from kqo.errors import ArgumentError
from kqo.profile import check_drill
from kqo.runtime.engine import Progress
from kqo.runtime.result import Target

STEP = 4
"""Of the coarse grid, in cells, where nothing else is asked for."""


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


def rounds(
    asking: Asking,
    coarse: CoarseGrid,
    *,
    size: int | None,
    share: float,
    until: float | None,
    deadline: float | None,
    progress: Progress | None = None,
) -> Iterator[None]:
    """Ask an image's cells, coarse to fine, a round at a time.

    Args:
        asking: the image.
        coarse: the coarse grid.
        size: cells of a round; None for as many as there are.
        share: of the cells outside of the coarse grid to ask, at most.
        until: the estimated similarity that is enough.
        deadline: value of ``time.perf_counter`` after which no round is to end, going by the
            longest so far; the first round always runs.
        progress: called with the number of cells asked and the number of cells of the grid.
    """
    asking.begin()
    order = coarse.cells
    if size is not None:
        # From the coarse grid every so many cells, so that an early end leaves no side unseen.
        count = max(1, -(-len(order) // size))
        order = np.concatenate([order[start::count] for start in range(count)])
    longest, first = 0.0, True
    for stage in range(2):
        while len(order):
            began = time.perf_counter()
            if not first and deadline is not None and began + longest > deadline:
                return
            part, order = (order, order[:0]) if size is None else (order[:size], order[size:])
            # Neighbours share row numbers; within a round their order means nothing.
            asking.ask(np.sort(part), _shifted(progress, int(asking.known.sum()), asking))
            first, longest = False, max(longest, time.perf_counter() - began)
            yield
        if not stage:
            order = coarse.wanted(asking.scores()[coarse.cells], share, until)


def _shifted(progress: Progress | None, base: int, asking: Asking) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(base + done, len(asking.known))


def refine_plan(
    plan: Planned,
    image: Any,
    *others: Any,
    target: Target = None,
    step: int | None = None,
    share: float | None = None,
    until: float | None = None,
    deadline: float | None = None,
) -> Iterator[Refined]:
    """Heatmaps of one image that refine: each whole, the last one the plan's own.

    A coarse grid is asked first, then the other cells, those with the lowest interpolated score
    first. Stop whenever the last heatmap is good enough; what was yielded stays.

    Args:
        image: the first input, (C, H, W) or (1, C, H, W).
        others: the model's further inputs, alike.
        target: number of the output's value, row-major, or name of the class. None: the largest
            for the untouched image.
        step: of the coarse grid, in cells of the wanted one; 1 for none. None: the options', or 4.
        share: of the cells outside of the coarse grid to ask, 0 to 1: those with the lowest
            interpolated score. At 1, all, the last heatmap is exact where the plan is. None: the
            options'.
        until: the similarity to the exact heatmap, estimated from the coarse grid, with which
            fewer cells are enough. None: the options'.
        deadline: seconds, counted from the first heatmap's request and without what is done on the
            plan's first use, after which nothing more is asked; the end is late by no more than
            one round of batches, and by the first round, without which there is no heatmap.

    Raises:
        ArgumentError: several images; positions that do not fill a grid; a fill given with the
            image; a plan for a GPU; values that are not finite; an argument that is not accepted.
    """
    options = plan.options
    step = (options.step if options.step > 1 else STEP) if step is None else step
    share = options.share if share is None else share
    until = options.until if until is None else until
    check_drill(step, share, until)
    check_deadline(deadline)
    images, _ = plan._inputs((image, *others))
    if len(images) != 1:
        raise ArgumentError("image", f"{len(images)} images", "one image")
    asking = Asking(plan, images[0], target)
    if until is not None:
        check_estimated(asking.grid)
    return _refined(asking, CoarseGrid(asking.grid, step), share, until, deadline)


def check_deadline(deadline: float | None) -> None:
    """ArgumentError for a deadline that is none."""
    if deadline is not None and not deadline > 0:
        raise ArgumentError("deadline", deadline, "a positive number of seconds")


def _refined(
    asking: Asking,
    coarse: CoarseGrid,
    share: float,
    until: float | None,
    deadline: float | None,
) -> Iterator[Refined]:
    began = time.perf_counter()
    ends = None if deadline is None else began + deadline
    asked = rounds(asking, coarse, size=asking.round, share=share, until=until, deadline=ends)
    for _ in asked:
        if not asking.is_finite():
            accepted = "finite values, of the input and of every layer; run() takes others too"
            raise ArgumentError("image", "values that are not finite", accepted)
        scores, known = asking.scores(), asking.known.reshape(coarse.grid).copy()
        guess = coarse.spread(coarse.filled(scores[coarse.cells]))
        heatmap = np.where(known.ravel(), scores, guess).astype(np.float32).reshape(coarse.grid)
        seconds = time.perf_counter() - began
        yield Refined(heatmap, known, asking.target, asking.original, seconds, bool(known.all()))

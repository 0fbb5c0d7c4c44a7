"""Heatmaps that refine: a coarse grid first, then the cells that it makes worth asking.

The coarse-to-fine order is the adaptive drill-down of Nakandala, Kumar and Papakonstantinou,
*Incremental and Approximate Inference for Faster Occlusion-based Deep CNN Explanations*, SIGMOD
2019, section 4.2, without an end: the last heatmap is the plan's own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.approximate.asking import Asking, Planned
from kqo.approximate.grid import CoarseGrid, check_estimated
from kqo.approximate.guess import tranches
from kqo.errors import ArgumentError
from kqo.profile import GRADIENT, Drill
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
    drill: Drill,
    *,
    size: int | None,
    deadline: float | None,
    progress: Progress | None = None,
) -> Iterator[None]:
    """Ask an image's cells, coarse to fine, a round at a time.

    Args:
        asking: the image.
        drill: how.
        size: cells of a round, at most; None for as many as are asked at once.
        deadline: value of ``time.perf_counter`` after which no round is to end, going by the
            longest so far; the first round always runs.
        progress: called with the number of cells asked and the number of cells of the grid.
    """
    asking.begin()
    if drill.first == GRADIENT:
        coarse, distances = np.zeros(0, dtype=np.int64), np.zeros(len(asking.known))
    else:
        grid = CoarseGrid(asking.grid, drill.step)
        coarse, distances = grid.cells, grid.distances
    first = len(coarse)
    if size is not None and first:
        # From the coarse grid every so many cells, so that an early end leaves no side unseen.
        count = -(-first // size)
        coarse = np.concatenate([coarse[start::count] for start in range(count)])
    rest = tranches(
        asking.guess,
        distances,
        first=first,
        order=drill.order,
        share=drill.share,
        until=drill.until,
    )
    longest, begun = 0.0, not first
    if not first:
        yield  # the gradient's heatmap is there
    for cells in itertools.chain([coarse], rest):
        left = cells
        while len(left):
            began = time.perf_counter()
            if begun and deadline is not None and began + longest > deadline:
                return
            part, left = (left, left[:0]) if size is None else (left[:size], left[size:])
            # Neighbours share row numbers; within a round their order means nothing.
            asking.ask(np.sort(part), _shifted(progress, int(asking.known.sum()), asking))
            begun, longest = True, max(longest, time.perf_counter() - began)
            yield


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
    order: str | None = None,
    deadline: float | None = None,
) -> Iterator[Refined]:
    """Heatmaps of one image that refine: each whole, the last one the plan's own.

    A coarse grid is asked first, then the other cells, by the order that is asked for. Stop
    whenever the last heatmap is good enough; what was yielded stays. A plan whose options have
    ``first="gradient"`` starts from the gradient in place of a grid, where no step is given.

    Args:
        image: the first input, (C, H, W) or (1, C, H, W).
        others: the model's further inputs, alike.
        target: number of the output's value, row-major, or name of the class. None: the largest
            for the untouched image.
        step: of the coarse grid, in cells of the wanted one; 1 for none. None: the options', or 4.
        share: of the cells outside of the coarse grid to ask, 0 to 1. At 1, all, the last heatmap
            is exact where the plan is. None: the options'.
        until: the similarity to the exact heatmap, estimated from the cells that were asked, with
            which fewer are enough. None: the options'.
        order: ``"score"``, the lowest interpolated scores first; ``"error"``, where the
            interpolated heatmap is most in doubt. None: the options'.
        deadline: seconds, counted from the first heatmap's request and without what is done on the
            plan's first use, after which nothing more is asked; the end is late by no more than
            one round of batches, and by the first round, without which there is no heatmap.

    Raises:
        ArgumentError: several images; positions that do not fill a grid; a fill given with the
            image; a plan for a GPU; values that are not finite; an argument that is not accepted.
    """
    options = plan.options
    drill = Drill(
        (options.step if options.step > 1 else STEP) if step is None else step,
        options.share if share is None else share,
        options.until if until is None else until,
        options.order if order is None else order,
    )
    if options.first == GRADIENT and step is None:
        drill = replace(drill, step=1, first=GRADIENT)
    check_deadline(deadline)
    images, _ = plan._inputs((image, *others))
    if len(images) != 1:
        raise ArgumentError("image", f"{len(images)} images", "one image")
    asking = Asking(plan, images[0], target, gradient=drill.first == GRADIENT)
    if drill.until is not None:
        check_estimated(asking.grid)
    return _refined(asking, drill, deadline)


def check_deadline(deadline: float | None) -> None:
    """ArgumentError for a deadline that is none."""
    if deadline is not None and not deadline > 0:
        raise ArgumentError("deadline", deadline, "a positive number of seconds")


def _refined(asking: Asking, drill: Drill, deadline: float | None) -> Iterator[Refined]:
    began = time.perf_counter()
    ends = None if deadline is None else began + deadline
    for _ in rounds(asking, drill, size=asking.round, deadline=ends):
        if not asking.is_finite():
            accepted = "finite values, of the input and of every layer; run() takes others too"
            raise ArgumentError("image", "values that are not finite", accepted)
        known = asking.known.reshape(asking.grid).copy()
        heatmap = asking.guess().values.astype(np.float32).reshape(asking.grid)
        seconds = time.perf_counter() - began
        yield Refined(heatmap, known, asking.target, asking.original, seconds, bool(known.all()))

"""``CompiledPlan.run`` where some queries are not asked: drill-down, deadlines, interruptions."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.approximate.asking import Asking, Inputs, Planned
from kqo.approximate.grid import CoarseGrid
from kqo.approximate.quality import has_ssim
from kqo.approximate.refine import STEP, rounds
from kqo.profile import COARSE, GRADIENT
from kqo.runtime.engine import Progress
from kqo.runtime.result import Result, Target


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run of a plan that can do with a part of the answers.

    Attributes:
        result: the best that could be had so far: for the images before, and for the one that was
            under way.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        super().__init__("interrupted")


@dataclass(frozen=True)
class Answered:
    """One image's answers.

    Attributes:
        outputs: of all queries and of the untouched image, (queries + 1, *axes) by output name.
        computed: by query whether it was answered; others are interpolated.
        estimate: the similarity to the exact heatmap that the known cells let expect; None where
            they do not say.
        interrupted: whether it was cut short by Ctrl-C.
    """

    outputs: Inputs
    computed: NDArray[np.bool_]
    estimate: float | None
    interrupted: bool


def answer(
    plan: Planned,
    inputs: Inputs,
    target: Target,
    deadline: float | None,
    progress: Progress,
) -> Answered | None:
    """Answer one image's queries as the plan's options say, or as many as time allows.

    Args:
        plan: the plan.
        inputs: each base relation's values.
        target: number or name of the class whose score says which cells to ask.
        deadline: seconds from now; None for none.
        progress: called with the number of queries done and their total.

    Returns:
        the answers; None where values that are not finite met forms that spread them.

    Raises:
        KeyboardInterrupt: interrupted before there was an answer.
        ArgumentError: as for :class:`~kqo.approximate.asking.Asking`.
    """
    options = plan.options
    drill = options.drill
    if drill.first == COARSE and drill.step == 1 and not options.drills:
        drill = replace(drill, step=STEP)
    asking = Asking(plan, inputs, target, gradient=drill.first == GRADIENT)
    ends = None if deadline is None else time.perf_counter() + deadline
    interrupted = False
    size = None if ends is None else asking.round
    try:
        for _ in rounds(asking, drill, size=size, deadline=ends, progress=progress):
            pass
    except KeyboardInterrupt:
        interrupted = True
        if not asking.known.any():
            raise
    if not asking.is_finite():
        return None
    estimate = None
    # The cells that a gradient leaves out are not like those that it has asked.
    if drill.first == COARSE and has_ssim(asking.grid):
        coarse = CoarseGrid(asking.grid, drill.step)
        if asking.known[coarse.cells].all():
            estimate = asking.guess().similarity()
    return Answered(asking.outputs(), asking.computed(), estimate, interrupted)


def about(found: list[Answered | None]) -> dict[str, Any]:
    """What a result says of queries that were not asked: plain values; empty for no images."""
    parts = [one for one in found if one is not None]
    if not parts:
        return {}
    estimates = [one.estimate for one in parts]
    known = [value for value in estimates if value is not None]
    return {
        "asked": [int(one.computed.sum()) for one in parts],
        "estimated_quality": min(known) if len(known) == len(estimates) else None,
    }

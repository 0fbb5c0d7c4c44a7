"""``CompiledPlan.refine``: heatmaps of one image that refine while one watches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kqo.approximate.refine import Ints, Refined, Values, refine
from kqo.errors import ArgumentError
from kqo.ir.plan import Plan
from kqo.runtime.engine import Engine
from kqo.runtime.session import Session
from kqo.workloads import Placed


class Planned(Protocol):
    """What is needed of a compiled plan; its class comes later in the order of imports."""

    logical: Plan
    placed: Placed

    @property
    def engine(self) -> object:
        """What runs the plan."""

    def _inputs(self, given: tuple[Any, ...]) -> tuple[list[dict[str, NDArray[Any]]], bool]: ...

    def _may_have_spread(self, answers: dict[str, NDArray[Any]]) -> bool: ...


def refine_plan(
    plan: Planned,
    image: Any,
    *others: Any,
    target: int | None = None,
    step: int = 4,
    share: float = 1.0,
    deadline: float | None = None,
) -> Iterator[Refined]:
    """Heatmaps of one image that refine: each whole, the last one the plan's own.

    A coarse grid is asked first, then the other cells, those with the lowest interpolated score
    first. Stop whenever the last heatmap is good enough; what was yielded stays.

    Args:
        image: the first input, (C, H, W) or (1, C, H, W).
        others: the model's further inputs, alike.
        target: number of the output's value, row-major. None: the largest for the untouched image.
        step: of the coarse grid, in cells of the wanted one; 1 for none.
        share: of the cells outside of the coarse grid to ask, 0 to 1: those with the lowest
            interpolated score. At 1, all, the last heatmap is exact where the plan is.
        deadline: seconds, counted from the first heatmap's request, after which nothing more is
            asked; the end is late by no more than one round of batches, and by the first round,
            without which there is no heatmap.

    Raises:
        ArgumentError: several images; positions that do not fill a grid; a fill given with the
            image; a plan for a GPU; values that are not finite; an argument that is not accepted.
    """
    images, _ = plan._inputs((image, *others))
    placed, engine = plan.placed, plan.engine
    if len(images) != 1:
        raise ArgumentError("image", f"{len(images)} images", "one image")
    if not isinstance(engine, Engine):
        raise ArgumentError("target", "a plan for a GPU", "a plan with Options(target='numpy')")
    if placed.grid is None or placed.cells is None or len(placed) != np.prod(placed.grid):
        raise ArgumentError("workload", "positions that do not fill a grid", "a whole grid")
    query_of = np.argsort(placed.cells)
    session = Session(engine, images[0])
    name = plan.logical.roots[0][0]
    chosen = 0

    def rows(queries: Ints) -> NDArray[Any]:
        found = session.answer(queries)
        if plan._may_have_spread(found):
            accepted = "finite values, of the input and of every layer; run() takes others too"
            raise ArgumentError("image", "values that are not finite", accepted)
        return found[name].reshape(len(queries), -1)

    def original() -> tuple[int, float]:
        nonlocal chosen
        values = rows(np.array([session.untouched]))[0]
        if target is not None and not -len(values) <= target < len(values):
            raise ArgumentError("target", target, f"a number within {len(values)} outputs")
        chosen = int(values.argmax()) if target is None else target % len(values)
        return chosen, float(values[chosen])

    def answer(cells: Ints) -> Values:
        return rows(query_of[cells])[:, chosen].astype(np.float64)

    return refine(placed.grid, answer, original, session.round, step, share, deadline)

"""Estimates of a plan that is bound to positions: what each step does, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Physical
from kqo.planner.cost import WORD, Work, work
from kqo.planner.physical import PhysicalPlan, Step
from kqo.planner.rates import Rates


@dataclass(frozen=True, slots=True)
class Estimate:
    """One step over a whole run.

    Attributes:
        rows: rows that it writes: delta rows of all queries, or rows of the view.
        work: what it does.
        seconds: predicted time on one core.
    """

    rows: int
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A plan's steps over a whole run.

    Attributes:
        steps: by step number.
        seconds: predicted time of the run: the steps' time over the workers.
    """

    steps: tuple[Estimate, ...]
    seconds: float


def tiles_of(boxes: Boxes, tile: int) -> int:
    """Output tiles that cover the boxes, where each is tiled by itself."""
    extent = np.maximum(boxes.hi - boxes.lo, 0)
    return int((-(-extent // tile)).prod(axis=2).sum())


def predict(
    plan: PhysicalPlan,
    boxes: Mapping[int, Boxes],
    queries: int,
    *,
    batch: int,
    workers: int,
    rates: Rates,
) -> Prediction:
    """Estimates for one input.

    Args:
        plan: the physical plan.
        boxes: regions of each table with delta rows, by its id.
        queries: queries of the workload.
        batch: queries per batch.
        workers: threads.
        rates: of the machine.
    """
    batches = -(-(queries + 1) // batch)
    steps = []
    for step in plan.steps:
        rows, counted = _counted(plan, step, boxes)
        times = batches if step.delta or not step.once else 1
        seconds = counted.seconds(rates) + times * rates.call
        steps.append(Estimate(rows, counted, seconds))
    return Prediction(tuple(steps), sum(s.seconds for s in steps) / workers)


def _counted(plan: PhysicalPlan, step: Step, boxes: Mapping[int, Boxes]) -> tuple[int, Work]:
    table = plan.tables[step.table]
    rows = int(boxes[step.table].volume().sum()) if step.delta else table.rows
    if step.form == "patch":
        return rows, Work(streamed=rows * table.columns * 2 * WORD)
    tiles = 0
    if step.form == "winograd" and isinstance(step.node, Physical):
        if step.delta:
            tiles = tiles_of(boxes[step.table], step.node.tile)
        else:
            extents = [axis.extent or 1 for axis in table.positions]
            tiles = int(np.prod([-(-extent // step.node.tile) for extent in extents]))
    return rows, work(step.form, step.node, rows, tiles)

"""Where it pays to compute equal rows once: the steps that do, by their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kqo.ir.bind import Known, bind
from kqo.ir.boxes import Boxes, everything
from kqo.ir.nodes import Physical
from kqo.ir.region import is_clipped, shrinks
from kqo.ir.schema import features, names, size
from kqo.planner.cost import Work, with_copies, work
from kqo.planner.distinct import Seen, distinct, seen
from kqo.planner.estimate import telling, tiles_of
from kqo.planner.physical import PhysicalPlan, Step, Table
from kqo.planner.rates import Rates
from kqo.planner.reach import reaches

FORMS = ("gather_gemm", "grouped_gemm", "winograd", "taps")
"""Forms that work on each row by itself, and do more for it than a copy does."""
BATCH, BATCHES = 16, 4
"""Queries of a usual batch, and batches that the choice is made by."""
LEAST = 0.95
"""Of the time of all rows that distinct ones may take for the choice to fall on them."""


def shared(
    plan: PhysicalPlan, changed: Mapping[str, Boxes], rates: Rates, batch: int = BATCH
) -> PhysicalPlan:
    """The plan whose steps compute equal rows once, wherever that takes less time.

    Never where a rule cut regions: what a row reads beyond one is the view, so that it is not what
    it sees of the changed box that decides its value.

    Args:
        plan: the physical plan, as chosen.
        changed: where each query changes the base relations.
        rates: of the machine.
        batch: queries of a batch.
    """
    regions = [table.region for table in plan.tables if table.region is not None]
    if is_clipped(*regions) or shrinks(*regions):
        return plan
    known = reaches(plan)
    if not known:
        return plan
    scan = plan.changing[0].name
    whole = changed[scan]
    middle = max(0, whole.queries - batch * BATCHES) // 2
    some = np.arange(middle, min(whole.queries, middle + batch * BATCHES))
    asked = {name: boxes.select(some) for name, boxes in changed.items()}
    batches = -(-len(some) // batch)
    bound = Known()
    steps = list(plan.steps)
    for number, step in enumerate(steps):
        reach = known.get(step.table)
        if reach is None or not reach.along or not step.delta or step.form not in FORMS:
            continue
        table = plan.tables[step.table]
        assert table.region is not None and isinstance(step.node, Physical)
        if never_pays(step, table, len(some), batches, rates):
            continue
        boxes = bound.project(bind(table.region, asked, bound), names(table.positions))
        rows = seen(boxes, asked[scan], reach, np.arange(len(some)) // batch)
        if rows is not None and pays(step, boxes, rows, batches, rates):
            steps[number] = replace(step, shared=True)
    return replace(plan, steps=tuple(steps))


def pays(step: Step, boxes: Boxes, rows: Seen, batches: int, rates: Rates) -> bool:
    """Whether computing the distinct rows and copying them takes less time than computing all.

    Args:
        step: of the plan.
        boxes: the rows of some queries.
        rows: what they see of the changed box.
        batches: that they are in.
        rates: of the machine.
    """
    count, columns = int(boxes.volume().sum()), size(features(step.node.schema))
    tiled = step.node if step.form == "winograd" and isinstance(step.node, Physical) else None
    tiles = tiles_of(boxes, tiled) if tiled else 0
    most = LEAST * work(step.form, step.node, count, tiles).seconds(rates)
    beside = telling(boxes.queries, len(boxes.axes), batches)
    if with_copies(Work(), count, columns).seconds(rates) + beside >= most:
        return False  # even if all were equal; which are is not worked out
    made = distinct(rows)
    computed = Boxes(boxes.axes, made.lo, made.hi)
    fewer = int(computed.volume().sum())
    less = tiles_of(computed, tiled) if tiled else 0
    found = with_copies(work(step.form, step.node, fewer, less, strips=False), count, columns)
    return bool(found.seconds(rates) + beside < most)


def never_pays(step: Step, table: Table, queries: int, batches: int, rates: Rates) -> bool:
    """Whether telling which rows are equal takes longer than computing all rows of each query.

    Args:
        step: of the plan.
        table: whose rows it writes.
        queries: their number.
        batches: that they are in.
        rates: of the machine.
    """
    tiles = 0
    if step.form == "winograd" and isinstance(step.node, Physical):
        tiles = queries * tiles_of(everything(table.positions, 1), step.node)
    every = work(step.form, step.node, queries * table.rows, tiles).seconds(rates)
    return telling(queries, len(table.positions), batches) >= every

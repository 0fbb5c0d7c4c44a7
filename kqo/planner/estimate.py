"""Estimates of a plan that is bound to positions: what each step does, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kqo.ir.boxes import Boxes, everything
from kqo.ir.nodes import GROUPED, Node, Physical
from kqo.ir.schema import size
from kqo.ir.window import roles, tiling
from kqo.ir.winograd import cover
from kqo.planner.additive import left_out, shares
from kqo.planner.cost import PRODUCT_FORMS, WORD, Work, with_copies, work
from kqo.planner.physical import PhysicalPlan, Step
from kqo.planner.rates import Rates
from kqo.planner.siblings import joint

REINFERENCE = 0.8
"""Time of torch over that of the same operations here, for full re-inference: it fuses activations
into convolutions, and computes depthwise ones several times faster."""

SURE = 0.85
"""Of the predicted time of full re-inference what a plan may be predicted to take for it to be run
instead: with large windows it has taken up to a quarter longer than predicted."""
RUN, STEP = 8e-3, 1e-4
"""Seconds that a run takes beside its steps' work, and beside each step's: threads that start and
wait for each other, the model's weights and the answers that are looked through."""

USUAL_BATCH = 48
"""Queries of a batch, for choices that are made before batches are: each reads every kernel."""
PIECES = 3
"""Pieces along each axis that a query's rows are cut into to find equal ones."""
PIECE = 6e-6
"""Seconds that a piece of a query takes to be compared with those before it, and copied."""
PER_BATCH = 2.5e-3
"""Seconds that it takes for each batch beside that."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One step over a whole run.

    Attributes:
        rows: rows that it writes: delta rows of all queries, or rows of the view.
        work: what it does, with its siblings' work; nothing for a sibling.
        seconds: predicted time on one core.
        distinct: of its rows those that it computes, where it copies the others.
    """

    rows: int
    work: Work
    seconds: float
    distinct: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A plan's steps over a whole run.

    Attributes:
        steps: by step number.
        seconds: predicted time of the run: the steps' time over the workers, and what is beside it.
    """

    steps: tuple[Estimate, ...]
    seconds: float


def tiles_of(boxes: Boxes, node: Physical, smaller: bool = True) -> int:
    """Points of the output tiles that cover the boxes, counted in large tiles, of a Winograd form
    where each box is tiled by itself.

    Args:
        boxes: to be covered.
        node: in a Winograd form.
        smaller: whether there are tiles of one output fewer, as on the CPU.
    """
    extent = np.maximum(boxes.hi - boxes.lo, 0)
    points = np.ones(extent.shape[:2], dtype=np.int64)
    full = 1
    for axis, (m, r) in enumerate(tiling(roles(node), node.tile)):
        run = extent[:, :, axis]
        if smaller:
            counts = np.array(cover(m, r, int(run.max(initial=0))), dtype=np.int64)
            points *= (counts @ np.array([m + r - 1, m + r - 2]))[run]
        else:
            points *= -(-run // m) * (m + r - 1)
        full *= m + r - 1
    return -(-int(points.sum()) // full)


def predict(
    plan: PhysicalPlan,
    boxes: Mapping[int, Boxes],
    queries: int,
    *,
    batch: int,
    workers: int,
    rates: Rates,
    distinct: Mapping[int, Boxes] | None = None,
) -> Prediction:
    """Estimates for one input.

    Args:
        plan: the physical plan.
        boxes: regions of each table with delta rows, by its id.
        queries: queries of the workload.
        batch: queries per batch.
        workers: threads.
        rates: of the machine.
        distinct: rows that are computed by the steps that compute equal ones once, by step.
    """
    batches = -(-(queries + 1) // batch)
    steps: list[Estimate] = []
    for number, step in enumerate(plan.steps):
        if step.leader is not None:
            steps.append(replace(steps[-1], work=Work(), seconds=0.0))  # it is behind its leader
            continue
        fewer = (distinct or {}).get(number)
        rows, every = _counted(plan, step, boxes, distinct=fewer)
        counted = _left_out(every, plan, step, boxes, rows, rates)
        seconds = counted.seconds(rates)
        if step.delta:
            # Each batch reads the kernels, however few rows it has.
            each_rows, each = _counted(plan, step, boxes, batches, fewer)
            each = _left_out(each, plan, step, boxes, each_rows, rates)
            seconds = batches * (each.seconds(rates) + rates.bind)
            for member in step.members:
                elements = rows * plan.tables[member.table].columns
                seconds += _beyond(member, elements, batches) / rates.memory
            seconds += shares(every, counted).seconds(rates)
            if fewer is not None:
                seconds += telling(queries, len(fewer.axes), batches)
        elif not step.once:
            seconds *= batches  # a view that is not materialized
        computed = None if fewer is None else int(fewer.volume().sum())
        steps.append(Estimate(rows, counted, seconds, computed))
    seconds = RUN + STEP * len(steps) + sum(s.seconds for s in steps) / workers
    return Prediction(tuple(steps), seconds)


def _beyond(step: Step, elements: int, batches: int) -> int:
    """Bytes beyond the caches: results, and kernels, which others displace from batch to batch."""
    return elements * WORD + batches * kernel_bytes(step.form, step.node)


def kernel_bytes(form: str, node: Node) -> int:
    """Bytes of the kernel of a form that multiplies matrices, in the layout that it reads."""
    if form not in PRODUCT_FORMS or not isinstance(node, Physical):
        return 0
    if form == GROUPED:
        return work(form, node, 1).panels
    numbers = size(node.weight.schema)
    for m, r in tiling(roles(node), node.tile) if form == "winograd" else ():
        numbers = numbers // r * (m + r - 1)
    return numbers * WORD


def telling(queries: int, rank: int, batches: int) -> float:
    """Seconds that it takes to tell which rows of some queries are equal, in so many batches.

    Args:
        queries: their number.
        rank: of the rows' positions.
        batches: that the queries are in.
    """
    return float(queries * PIECES**rank * PIECE + batches * PER_BATCH)


def reinference_seconds(
    plan: PhysicalPlan, boxes: Mapping[int, Boxes], queries: int, workers: int, rates: Rates
) -> float:
    """Predicted time of running the whole model for each query and for the untouched input.

    Every step over all rows, with products by the direct method.
    """
    total = 0.0
    for step in plan.steps:
        if not step.delta or step.form == "patch":
            continue
        form = "gather_gemm" if step.form == "winograd" else step.form
        source = step.sources[0] if step.form == "additive" else None
        tiles = plan.tables[source].rows if source is not None else 0
        counted = work(form, step.node, plan.tables[step.table].rows, tiles)
        total += counted._replace(indices=0).seconds(rates)
    return REINFERENCE * total / workers * (queries + 1)


def _counted(
    plan: PhysicalPlan,
    step: Step,
    boxes: Mapping[int, Boxes],
    batches: int = 1,
    distinct: Boxes | None = None,
) -> tuple[int, Work]:
    """Rows of a step, and the work for one of several equal batches of them."""
    table = plan.tables[step.table]
    rows = -(-int(boxes[step.table].volume().sum()) // batches) if step.delta else table.rows
    if step.form == "patch":
        both = 2 * rows * table.columns * WORD
        return rows, Work(pairs=rows * table.columns, streamed=both, indices=rows)
    tiles = 0
    computed = rows if distinct is None else -(-int(distinct.volume().sum()) // batches)
    if step.form == "winograd" and isinstance(step.node, Physical):
        if step.delta:
            tiles = -(-tiles_of(distinct or boxes[step.table], step.node) // batches)
        else:
            tiles = tiles_of(everything(table.positions, 1), step.node)
    elif step.form == "additive" and step.sources[0] is not None:
        tiles = -(-int(boxes[step.sources[0]].volume().sum()) // batches)
    if step.siblings:
        each = [_moved(member, boxes) for member in step.members]
        counted = joint(step.members, rows, each)
        return rows, counted if step.delta else counted._replace(indices=0)
    moved = _moved(step, boxes)
    counted = work(step.form, step.node, computed, tiles, moved, strips=distinct is None)
    if distinct is not None:
        counted = with_copies(counted, rows, table.columns)
    # Row numbers of a view are computed once, when the plan is bound.
    return rows, counted if step.delta else counted._replace(indices=0)


def _left_out(
    counted: Work,
    plan: PhysicalPlan,
    step: Step,
    boxes: Mapping[int, Boxes],
    rows: int,
    rates: Rates,
) -> Work:
    """The work without what additive linear layers of a GPU leave out."""
    if not step.delta or not step.sources or step.sources[0] is None:
        return counted
    source = plan.tables[step.sources[0]]
    changed = boxes.get(source.id) if source.view else None
    return left_out(counted, step.form, step.node, rows, changed, source.positions, rates)


def _moved(step: Step, boxes: Mapping[int, Boxes]) -> tuple[bool, ...] | None:
    """For each input of a physical operator whether its rows are gathered."""
    if not isinstance(step.node, Physical):
        return None
    window = roles(step.node)
    found = [_elsewhere(step, source, boxes) for source in step.sources]
    if step.node.agg and not window.pointwise:
        found[0] = True
    return tuple(found)


def _elsewhere(step: Step, source: int | None, boxes: Mapping[int, Boxes]) -> bool:
    """Whether a step reads a table's rows in another order or number than it writes its own."""
    if source is None or not step.delta:
        return False
    own, other = boxes[step.table], boxes.get(source)
    if other is None or other.axes != own.axes:
        return True
    return other is not own and not (
        np.array_equal(own.lo, other.lo) and np.array_equal(own.hi, other.hi)
    )

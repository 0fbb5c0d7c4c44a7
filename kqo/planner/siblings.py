"""Products over the same rows, computed as one: the 1x1 convolutions of an Inception block, or the
queries, keys and values of attention.

A matrix product runs faster the more columns it has. Steps that multiply the same rows by kernels
of their own are siblings: the first of them, their leader, multiplies a block of rows by all their
kernels side by side, and finishes each one's columns into the rows of its own relation while the
product is in the cache. Each keeps its step and its relation, so that readers see no difference.

Which steps read one relation is no pattern of a tree, so that this is no rule of the rule language
(``docs/decisions/0004-siblings-are-found-among-steps.md``).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from kqo.ir.bind import Known, bind
from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Const, Physical
from kqo.ir.region import shrinks
from kqo.ir.schema import names, size
from kqo.ir.window import roles
from kqo.planner.cost import BLOCK_BYTES, FEWEST_ROWS, WORD, Work, work
from kqo.planner.physical import LARGE_KERNEL, PhysicalPlan, Step
from kqo.planner.rates import Rates

ITEM = 8
"""Bytes of a number, at most."""


def with_siblings(
    plan: PhysicalPlan, changed: Mapping[str, Boxes], known: Known, rates: Rates
) -> PhysicalPlan:
    """The plan whose products over the same rows are one, wherever that is predicted to be faster.

    Delta rows decide; the views of the same relations go with them, so that both read one kernel.

    Args:
        plan: the physical plan, as chosen.
        changed: where each query changes the base relations.
        known: regions as bound to these; filled in.
        rates: of the machine.
    """
    regions = [table.region for table in plan.tables if table.region is not None]
    if shrinks(*regions):
        return plan  # regions that are equal now need not be so as the plan runs
    writers: dict[int, list[int]] = {}
    for number, step in enumerate(plan.steps):
        writers.setdefault(step.table, []).append(number)
    placed: dict[int, tuple[Step, ...]] = {}
    led: set[int] = set()
    for tables in _alike(plan, writers, changed, known):
        groups = list(zip(*(writers[table] for table in tables), strict=True))  # views, then deltas
        ready = [
            all(_is_ready(plan, writers, group[at], min(group)) for group in groups)
            for at in range(len(tables))
        ]
        groups = [
            tuple(n for n, kept in zip(group, ready, strict=True) if kept) for group in groups
        ]
        if sum(ready) < 2 or not _pays(plan, groups[-1], changed, known, rates):
            continue
        for group in groups:
            placed[min(group)] = _led([plan.steps[number] for number in group])
            led.update(group)
    steps: list[Step] = []
    for number, step in enumerate(plan.steps):
        steps += placed.get(number, () if number in led else (step,))
    return replace(plan, steps=tuple(steps))


def _alike(
    plan: PhysicalPlan,
    writers: Mapping[int, Sequence[int]],
    changed: Mapping[str, Boxes],
    known: Known,
) -> list[list[int]]:
    """Tables whose rows are products over the same rows, in the order of their delta steps."""
    found: dict[Hashable, list[int]] = {}
    for table in sorted(writers, key=lambda t: writers[t][-1]):
        region, steps = plan.tables[table].region, [plan.steps[n] for n in writers[table]]
        if region is None or not all(map(_may_lead, steps)):
            continue
        # Equal boxes are one object, and so are their projections to the same positions.
        boxes = known.project(bind(region, changed, known), names(plan.tables[table].positions))
        key = (
            id(boxes),
            plan.tables[table].positions,
            *((s.delta, s.once, s.sources[0], roles(s.node).reads) for s in steps),
        )
        found.setdefault(key, []).append(table)
    return [tables for tables in found.values() if len(tables) > 1]


def _may_lead(step: Step) -> bool:
    """Whether a step multiplies single rows by a kernel that is copied into a layout of its own."""
    node = step.node
    return (
        step.form == "gather_gemm"
        and not step.shared
        and isinstance(node, Physical)
        and isinstance(node.weight, Const)
        and roles(node).tap_count == 1
        and size(node.weight.schema) * ITEM < LARGE_KERNEL
    )


def _is_ready(
    plan: PhysicalPlan, writers: Mapping[int, Sequence[int]], number: int, first: int
) -> bool:
    """Whether what a step reads beside the product is there before an earlier one runs."""
    operands = plan.steps[number].sources[1:]
    return all(n < first for t in operands if t is not None for n in writers.get(t, ()))


def _pays(
    plan: PhysicalPlan,
    numbers: Sequence[int],
    changed: Mapping[str, Boxes],
    known: Known,
    rates: Rates,
) -> bool:
    """Whether delta steps are predicted to take less time as one product."""
    steps = [plan.steps[number] for number in numbers]
    table = plan.tables[steps[0].table]
    assert table.region is not None
    boxes = known.project(bind(table.region, changed, known), names(table.positions))
    rows = int(boxes.volume().sum())
    apart = sum(work(step.form, step.node, rows).seconds(rates) for step in steps)
    return joint(steps, rows).seconds(rates) < apart


def joint(
    steps: Sequence[Step], rows: int, moved: Sequence[Sequence[bool] | None] | None = None
) -> Work:
    """The work of several steps as one product.

    Rows are gathered once. All columns pass through scratch, which takes about as long as a copy,
    also where an epilogue reads them there: of 64 features it takes more than is gained.

    Args:
        steps: leader and siblings.
        rows: of each.
        moved: as of :func:`kqo.planner.cost.work`, for each step.
    """
    works = []
    for number, step in enumerate(steps):
        assert isinstance(step.node, Physical)
        own = moved[number] if moved is not None else None
        if own is None:
            own = (not roles(step.node).pointwise, *([False] * (len(step.node.inputs) - 1)))
        own = own if number == 0 else (False, *own[1:])
        works.append(work(step.form, step.node, rows, moved=own))
    total = Work(*map(sum, zip(*works, strict=True)))
    inner, wide = works[0].inner, sum(counted.wide for counted in works)
    blocks = -(-rows // max(FEWEST_ROWS, BLOCK_BYTES // (max(inner, wide) * WORD)))
    return total._replace(
        inner=inner,
        wide=wide,
        panels=blocks * inner * wide * WORD,
        pairs=total.pairs + rows * wide,
        streamed=total.streamed + 2 * rows * wide * WORD,
    )


def _led(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The first of the steps as the leader of the others, and these behind it."""
    first = steps[0]
    siblings = tuple(replace(step, leader=first.table) for step in steps[1:])
    return replace(first, siblings=siblings), *siblings

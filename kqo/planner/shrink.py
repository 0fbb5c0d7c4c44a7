"""Where it pays to measure what changed: regions that are cut while a plan runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from kqo.ir.nodes import Domain, Physical
from kqo.ir.region import Region, Shrink, shrinks, walk_regions
from kqo.planner.physical import PhysicalPlan


def measured(plan: PhysicalPlan) -> dict[int, Shrink]:
    """The regions that are cut, by the number of the step behind which that is measured: the one
    that computes the first stored relation of a region.

    Left out are a region behind which no product of windows would have fewer rows, one whose view
    is computed once per batch, and one that stands for two relations that cannot be told apart.
    """
    first: dict[Shrink, list[int]] = {}
    views = {s.table for s in plan.steps if s.once and not s.delta}
    for number, step in enumerate(plan.steps):
        region = plan.tables[step.table].region
        if not step.delta or not isinstance(region, Shrink):
            continue
        read = [plan.tables[t].region for t in step.sources if t is not None]
        if not any(r is not None and region in shrinks(r) for r in read):
            first.setdefault(region, []).append(number)
    found = {numbers[0]: region for region, numbers in first.items() if len(numbers) == 1}
    return {
        number: region
        for number, region in found.items()
        if plan.steps[number].table in views and _pays(plan, number, region)
    }


def _pays(plan: PhysicalPlan, number: int, region: Shrink) -> bool:
    for step in plan.steps[number + 1 :]:
        node, table = step.node, plan.tables[step.table]
        behind = table.region is not None and region in shrinks(table.region)
        if not (step.delta and behind and table.rows > 1 and isinstance(node, Physical)):
            continue
        if node.agg == "sum" and not isinstance(node.weight, Domain):
            return True
    return False


def unmeasured(plan: PhysicalPlan) -> frozenset[Shrink]:
    """The other regions of a plan that only values can tell."""
    kept = set(measured(plan).values())
    regions = [table.region for table in plan.tables if table.region is not None]
    return frozenset(shrinks(*regions)) - kept


def without(plan: PhysicalPlan, left: Collection[Shrink]) -> PhysicalPlan:
    """The plan with some regions as large as they may be."""
    if not left:
        return plan
    tables = (
        t if t.region is None else replace(t, region=widened(t.region, left)) for t in plan.tables
    )
    return replace(plan, tables=tuple(tables))


def widened(region: Region, left: Collection[Shrink]) -> Region:
    """The region with what they are cut from in place of some of its parts."""
    new: dict[Region, Region] = {}
    for part in walk_regions(region):
        if isinstance(part, Shrink) and part in left:
            new[part] = new[part.of]
        else:
            new[part] = part.with_parts(tuple(new[below] for below in part.parts))
    return new[region]

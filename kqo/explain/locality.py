"""Where a plan stops being local, why, and what that costs."""

from __future__ import annotations

from kqo.explain.subject import Subject
from kqo.ir.nodes import Group, Node, Opaque, Physical
from kqo.ir.schema import names, positions, size
from kqo.planner.candidates import data_inputs
from kqo.planner.physical import PhysicalPlan, Step

_AGGREGATES = {"sum": "the sum", "mean": "the mean", "max": "the largest", "min": "the smallest"}


def whole_steps(plan: PhysicalPlan) -> list[int]:
    """Numbers of the steps that compute every position for every query, of several positions."""
    found = []
    for number, step in enumerate(plan.steps):
        table = plan.tables[step.table]
        if step.delta and not table.view and size(table.positions) > 1:
            found.append(number)
    return found


def locality(subject: Subject, called: dict[int, str]) -> list[str]:
    """Sentences about where locality ends; none where it does not.

    Args:
        subject: the plan.
        called: what each step is called, by its number.
    """
    plan = subject.physical
    whole = whole_steps(plan)
    if not whole:
        return []
    first = whole[0]
    seconds = [estimate.seconds for estimate in subject.prediction.steps]
    share = sum(seconds[number] for number in whole) / (sum(seconds) or 1.0)
    steps = "1 step computes" if len(whole) == 1 else f"{len(whole)} steps compute"
    return [
        f"locality ends at {_name(plan, first, called)}: {_reason(plan, first, called)};",
        f"    {steps} every position for every query, in {share:.0%} of the predicted time",
    ]


def _reason(plan: PhysicalPlan, number: int, called: dict[int, str]) -> str:
    """Why a step has no region smaller than everything."""
    step = plan.steps[number]
    if isinstance(step.node, Opaque):
        return "torch runs it, which may read everything everywhere"
    writers = {s.table: n for n, s in enumerate(plan.steps) if s.delta}
    stack = [writers[t] for t in step.sources if t in writers]
    seen: set[int] = set()
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        below = plan.steps[at]
        if size(plan.tables[below.table].positions) > 1:
            continue
        if gone := _aggregated(below):
            which = _AGGREGATES.get(_aggregate(below.node), "an aggregate")
            where = _name(plan, at, called)
            return f"it reads {where}, {which} over all of {', '.join(gone)}"
        stack.extend(writers[t] for t in below.sources if t in writers)
    if all(plan.tables[t].view for t in step.sources if t is not None):
        return "its windows reach a change from every position"
    return "what it reads may change anywhere"


def _name(plan: PhysicalPlan, number: int, called: dict[int, str]) -> str:
    return called[number] if called[number] != plan.steps[number].form else f"step {number}"


def _aggregate(node: Node) -> str:
    return node.agg if isinstance(node, (Group, Physical)) else ""


def _aggregated(step: Step) -> tuple[str, ...]:
    """Positions that a step aggregates away."""
    if not _aggregate(step.node):
        return ()
    own = names(positions(step.node.schema))
    return tuple(n for n in names(positions(data_inputs(step.node)[0].schema)) if n not in own)

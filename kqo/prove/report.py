"""What is printed of rules that were held against random instances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.nodes import Const
from kqo.ir.plan import Plan
from kqo.ir.schema import has_query, names
from kqo.ir.text import format_plan
from kqo.prove.compare import CHECKS
from kqo.prove.plans import Instance
from kqo.prove.prover import Outcome
from kqo.prove.run import RUN

MOST_VALUES = 24
MOST_NAMES = 4
NOT_PROVEN = "NOT PROVEN: it never fired"


def format_head(width: int) -> str:
    """The head of the table; ``width`` is that of the longest rule's name."""
    return f"{'rule':{width}}  {'family':9}  {'tried':>6}  {'fired':>5}  outcome"


def format_line(outcome: Outcome, width: int) -> str:
    """What became of one rule: a line, with notes below it."""
    rule = outcome.rule
    lines = [
        f"{rule.name:{width}}  {rule.family:9}  {outcome.tried:6}  {outcome.fired:5}  "
        f"{_verdict(outcome)}"
    ]
    return "\n".join([*lines, *(f"{'':{width}}  {note}" for note in _notes(outcome))])


def _verdict(outcome: Outcome) -> str:
    if outcome.counterexample is not None:
        return "FAILS"
    if not outcome.fired:
        return NOT_PROVEN
    counts = ", ".join(
        f"{name} {outcome.tally.compared[name]}"
        for name in (*CHECKS, RUN)
        if name in outcome.tally.compared
    )
    return f"holds ({counts})"


def _notes(outcome: Outcome) -> list[str]:
    """What the line of a rule leaves unsaid."""
    rule, notes = outcome.rule, []
    if rule.parameter is not None and outcome.fired:
        notes.append(f"at {rule.parameter} = {rule.neutral:g}, where it has to be exact")
    if outcome.beside and outcome.fired:
        names = ", ".join(outcome.beside)
        if len(outcome.beside) > MOST_NAMES:
            names = f"{len(outcome.beside)} other rules of these files"
        notes.append(f"fires only beside {names}")
    if not outcome.fired and outcome.counterexample is None:
        if "Opaque" in {*rule.roots, *(op for op, _ in rule.inner)}:
            notes.append("its pattern has Opaque, which torch runs: no evaluation here can")
        else:
            notes.append("its guards refused every plan; is the pattern one that plans have?")
    for (check, reason), count in sorted(outcome.tally.left_out.items()):
        notes.append(f"{check} left out {count}: {reason}")
    return notes


def format_counterexample(outcome: Outcome) -> str:
    """The plan before and after, the tuple that differs, and the values that make it differ."""
    rule, found = outcome.rule, outcome.counterexample
    assert found is not None
    lines = [f"{rule.name} ({rule.rule.place}) does not hold."]
    if found.difference is not None:
        lines.append(f"Values differ {found.difference}.")
    else:
        lines.append(f"{found.message}.")
    outputs = dict(found.plan.roots)
    if "after" in outputs:
        for name in ("before", "after"):
            part = found.plan.with_roots(((name, outputs[name]),))
            lines += ["", *_plan(part, name)]
    else:
        lines += ["", *_plan(found.plan, "the plan that was rewritten")]
    lines += ["", *_values(found.plan, found.instance)]
    return "\n".join(lines)


def _plan(plan: Plan, title: str) -> list[str]:
    _, *body = format_plan(plan).splitlines()
    return [f"{title}:", *(f"    {line}" for line in body)]


def _values(plan: Plan, instance: Instance) -> list[str]:
    """Values of the base relations and constants, and what changes per query."""
    used = {node.name for node in plan.nodes() if isinstance(node, Const)}
    lines = ["on:"]
    varies = any(has_query(node.schema) for node in plan.nodes())
    for scan in plan.scans:
        lines.append(f"    {scan.name} = {_array(instance.scans[scan.name])}")
        for query, boxes in enumerate(instance.regions[scan.name] if varies else ()):
            shown = [
                ", ".join(f"{n} {lo}:{hi}" for n, (lo, hi) in zip(names(scan.axes), b, strict=True))
                for b in boxes
            ]
            changed = " and ".join(f"({box})" for box in shown) or "nothing"
            lines.append(f"    query {query} changes {changed}")
    for name in sorted(used):
        lines.append(f"    {name} = {_array(plan.constants[name])}")
    return lines


def _array(values: NDArray[Any]) -> str:
    if values.size > 1 and (values == values.flat[0]).all():
        return f"{values.flat[0]:g} everywhere"
    if values.size > MOST_VALUES:
        shown = " ".join(f"{v:g}" for v in values.flat[:MOST_VALUES])
        return f"{shown} ... ({values.size} values)"
    text = np.array2string(values, separator=", ", formatter={"float_kind": lambda v: f"{v:g}"})
    return " ".join(text.split())

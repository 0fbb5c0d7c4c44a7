"""Whether a plan that a rule had a part in is computed right: its emitted source is run.

The other evaluations hold an implementation against what it stands for; only a run tells whether
the implementation does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.emit.source import emit
from kqo.errors import KqoError, PlanError
from kqo.ir.boxes import Boxes
from kqo.ir.interpret import interpret
from kqo.ir.nodes import Node, Overlay, Physical, Saved, Scan, Slice
from kqo.ir.plan import Plan
from kqo.ir.region_mask import Box
from kqo.ir.schema import Axes, has_query, names
from kqo.lang.compile import CompiledRule
from kqo.lang.ruleset import RuleSet
from kqo.planner.candidates import Candidate
from kqo.planner.choose import Chooser
from kqo.planner.rates import REFERENCE
from kqo.prove.compare import ROUGH, Difference
from kqo.prove.plans import Instance
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from kqo.runtime.engine import Engine

RUN = "run"


class _Preferring(Chooser):
    """Chooses what one rule offers wherever it offers something."""

    preferred = ""

    def _own_cost(self, node: Node, candidate: Candidate, rows: int) -> float:
        return 0.0 if self.form_rule(candidate.node) == self.preferred else 1.0


def boxes_of(axes: Axes, regions: Sequence[Sequence[Box]]) -> Boxes:
    """The interpreter's lists of boxes as the arrays that kqo computes with."""
    most = max(1, *map(len, regions))
    ends = np.zeros((2, len(regions), most, len(axes)), dtype=np.int64)
    for query, some in enumerate(regions):
        for i, box in enumerate(some):
            ends[:, query, i] = np.transpose(np.array(box))
    return Boxes(names(axes), *ends)


def run_emitted(
    rule: CompiledRule, instance: Instance, others: RuleSet
) -> tuple[bool, Difference | None]:
    """Normalize, explore, plan, emit and run a plan with the rule among others.

    Returns:
        Whether the rule had a part in what was run, and the first tuple in which the answers differ
        from the interpreter's.

    Raises:
        KqoError: the rules go round in a circle, or there is no plan, as there is without the rule.
    """
    plan = without_overlays(instance.plan)
    if plan is None:
        return False, None
    wanted = interpret(plan, instance.scans, instance.regions)
    if not all(np.isfinite(value).all() for value in wanted.values()):
        return False, None
    try:
        fired, found = _run(plan, instance, RuleSet((*others, rule)), rule.name)
        difference = _first(plan, wanted, found)
        if not fired or difference is None:
            return fired, None
    except Exception as error:  # whatever an implementation trips over that the rule chose
        if not _is_right(plan, instance, others, wanted):
            return False, None  # not the rule's fault
        if isinstance(error, KqoError):
            raise
        raise PlanError(f"the plan cannot be run: {type(error).__name__}: {error}") from error
    return (True, difference) if _is_right(plan, instance, others, wanted) else (False, None)


def _is_right(
    plan: Plan, instance: Instance, rules: RuleSet, wanted: dict[str, NDArray[Any]]
) -> bool:
    try:
        return _first(plan, wanted, _run(plan, instance, rules, "")[1]) is None
    except Exception:
        return False


def _run(
    plan: Plan, instance: Instance, rules: RuleSet, preferred: str
) -> tuple[bool, dict[str, NDArray[Any]]]:
    """The answers, and whether the preferred rule had a part in them."""
    normal, trace = normalize(plan, rules)
    memo = explore(normal, rules)
    fired = any(a.rule == preferred for found in (trace, memo.trace) for a in found)
    scan = plan.scans[0]
    regions = instance.regions[scan.name]
    changed = {scan.name: boxes_of(scan.axes, regions)}
    chooser = _Preferring(normal, memo, changed, REFERENCE)
    chooser.preferred = preferred
    physical = chooser.choose()
    engine = Engine(physical, emit(physical), changed, threads=1)
    return fired, engine.run(instance.scans)


def _first(
    plan: Plan, wanted: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]]
) -> Difference | None:
    for name, node in plan.roots:
        difference = _differ(node, wanted[name], found[name][:-1])
        if difference is not None:
            return difference
    return None


def without_overlays(plan: Plan) -> Plan | None:
    """The plan as it is before any delta rule: every overlay of an old value undone, and the image
    overlaid wherever it is read. None where nothing changes, or where parts are left that only
    rules make.
    """
    over = [n for n in plan.nodes() if isinstance(n, Overlay) and isinstance(n.base, Scan)]
    if not over:
        return None
    made: dict[Node, Node] = {}
    for node in plan.nodes():
        inputs = tuple(made[source] for source in node.inputs)
        if isinstance(node, Scan):
            made[node] = over[0]
        elif node in over:
            made[node] = node
        elif isinstance(node, Overlay) and isinstance(node.patch, Slice):
            made[node] = made[node.patch.input]
        elif isinstance(node, Saved):
            made[node] = inputs[0]
        else:
            made[node] = node.with_inputs(inputs)
    bare = plan.with_roots(tuple((name, made[root]) for name, root in plan.roots))
    left = any(isinstance(node, (Slice, Physical)) for node in bare.nodes())
    return None if left or not bare.scans else bare


def _differ(node: Node, wanted: NDArray[Any], found: NDArray[Any]) -> Difference | None:
    wanted = wanted if has_query(node.schema) else np.broadcast_to(wanted, found.shape)
    slack = ROUGH * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    differs = ~np.isclose(found, wanted, rtol=0, atol=slack)
    if not differs.any():
        return None
    at = np.unravel_index(int(np.argmax(differs)), differs.shape)
    axes = names(node.schema) if has_query(node.schema) else ("q", *names(node.schema))
    key: Mapping[str, int] = dict(zip(axes, map(int, at), strict=True))
    return Difference(RUN, dict(key), wanted[at], found[at])

"""Whether what a rule matched and what it made of it are equal, by independent evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.interop.einsum import evaluate_by_torch
from kqo.ir.interpret import interpret
from kqo.ir.nodes import Join, Map, Node, Physical, Slice
from kqo.ir.plan import Plan
from kqo.ir.scalar import FUNCTIONS, Call, Expr
from kqo.ir.schema import names
from kqo.prove.duck import run_sql
from kqo.prove.instances import Pair

Values = NDArray[Any]
RATIONALS, DUCKDB, TORCH = "rationals", "DuckDB", "torch"
CHECKS = (RATIONALS, DUCKDB, TORCH)
TOLERANCE = 1e-12
"""Relative, of evaluations in floats; 1e-9 where a function leaves the rationals."""
ROUGH = 1e-9
_PARTIAL = {"pow", "log", "log1p", "sqrt", "rsqrt", "div"}
_JUMPS = {"gt", "ge", "eq", "sign", "floor", "ceil", "round", "when", "where"}


@dataclass(frozen=True)
class Difference:
    """A tuple in which the two differ.

    Attributes:
        check: the evaluation that found it.
        key: the tuple's key, by axis name.
        before: its value before the rule; NaN for a tuple that is not there.
        after: its value after it.
    """

    check: str
    key: dict[str, int]
    before: Any
    after: Any

    @property
    def one_absent(self) -> bool:
        """Whether there is a value on one side, and none on the other."""
        return bool((self.before != self.before) != (self.after != self.after))

    def __str__(self) -> str:
        at = ", ".join(f"{name}={value}" for name, value in self.key.items())
        values = f"{_shown(self.before)} before, {_shown(self.after)} after"
        return f"at ({at}): {values} ({self.check})"


def _shown(value: Any) -> str:
    return "absent" if value != value else str(value)


@dataclass
class Tally:
    """How often each evaluation compared a pair, and why it could not.

    Attributes:
        compared: pairs by evaluation.
        left_out: pairs that an evaluation could not compare, by evaluation and reason.
    """

    compared: dict[str, int] = field(default_factory=dict)
    left_out: dict[tuple[str, str], int] = field(default_factory=dict)

    def count(self, check: str) -> None:
        """Note that a pair was compared."""
        self.compared[check] = self.compared.get(check, 0) + 1

    def leave_out(self, check: str, reason: str) -> None:
        """Note that a pair could not be compared."""
        self.left_out[check, reason] = self.left_out.get((check, reason), 0) + 1


def compare(
    pair: Pair, tally: Tally | None = None, checks: tuple[str, ...] = CHECKS
) -> Difference | None:
    """The first tuple in which the two sides of a pair differ; None where there is none.

    Exact rationals come first: within them equal means equal, unless a function leaves the
    rationals. DuckDB and torch compute in float64, within :data:`TOLERANCE` of the largest value.

    Raises:
        PlanError: the replacement is malformed.
    """
    tally = tally or Tally()
    functions = _functions(pair.plan)
    rational = all(FUNCTIONS[name].exact for name in functions if name in FUNCTIONS)
    slack = TOLERANCE if rational else ROUGH
    if RATIONALS in checks:
        found = _rationals(pair, 0.0 if rational else ROUGH)
        if found is not None and not (found.one_absent and _spreads(pair, functions)):
            return found
        if found is not None:
            tally.leave_out(RATIONALS, "a sum that starts from the old one keeps what has no value")
            return None  # the engine computes such inputs anew
        tally.count(RATIONALS)
    floats: tuple[tuple[str, Callable[..., dict[str, Values]]], ...] = (
        (DUCKDB, run_sql),
        (TORCH, evaluate_by_torch),
    )
    for name, evaluate in floats:
        if name not in checks:
            continue
        try:
            values = evaluate(pair.plan, pair.instance.scans, pair.instance.regions)
        except PlanError as error:
            tally.leave_out(name, error.message)
            continue
        found = _differ(name, pair.before, values["before"], values["after"], slack)
        if found is None:
            tally.count(name)
        elif functions & _JUMPS:
            tally.leave_out(name, "a value may fall to either side of a step when it is rounded")
        else:
            return found
    return None


def _spreads(pair: Pair, functions: set[str]) -> bool:
    """Whether a function that is not defined everywhere lies below a sum of changes."""
    added = any(
        (isinstance(node, Join) and node.combine == "sub" and isinstance(node.left, Slice))
        or (isinstance(node, Physical) and node.form == "additive")
        for node in pair.plan.nodes()
    )
    return added and bool(functions & _PARTIAL)


def _rationals(pair: Pair, slack: float) -> Difference | None:
    def values(plan: Plan) -> dict[str, Values]:
        return interpret(plan, pair.instance.scans, pair.instance.regions, exact=True)

    plan = pair.unfolded or pair.plan
    made = values(plan)
    found = _differ(RATIONALS, pair.before, made["before"], made["after"], slack)
    if found is None and plan is not pair.plan:
        # What was folded is folded in float64.
        made = values(pair.plan)
        found = _differ(RATIONALS, pair.before, made["before"], made["after"], slack or TOLERANCE)
        if found is not None and _functions(pair.plan) & _JUMPS:
            return None
    return found


def equal(before: Values, after: Values, slack: float = 0.0) -> NDArray[np.bool_]:
    """Where values are equal; absent tuples, which are NaN, equal each other.

    Args:
        before: numbers or rationals.
        after: the same, of a shape that broadcasts with it.
        slack: how far they may be apart, relative to the largest value that is finite.
    """
    is_nan = np.frompyfunc(lambda v: v != v, 1, 1)
    absent = [np.asarray(is_nan(side), dtype=bool) for side in (before, after)]
    if slack == 0:
        same = np.asarray(before == after, dtype=bool)
    else:
        left, right = (np.asarray(side, dtype=np.float64) for side in (before, after))
        finite = np.abs(left[np.isfinite(left)])
        most = slack * max(1.0, float(finite.max(initial=0.0)))
        same = np.isclose(left, right, rtol=slack, atol=most)
    return np.asarray(np.where(absent[0] | absent[1], absent[0] == absent[1], same), dtype=bool)


def _differ(
    check: str, node: Node, before: Values, after: Values, slack: float
) -> Difference | None:
    """The first tuple in which values differ by more than the slack allows; 0 allows nothing."""
    before, after = np.broadcast_arrays(before, after)
    differs = ~equal(before, after, slack)
    if not differs.any():
        return None
    at = np.unravel_index(int(np.argmax(differs)), differs.shape)
    key = dict(zip(names(node.schema), map(int, at), strict=True))
    return Difference(check, key, before[at], after[at])


def _functions(plan: Plan) -> set[str]:
    """Names of the scalar functions of a plan, and of what its joins combine by."""
    found: set[str] = set()
    for node in plan.nodes():
        if isinstance(node, (Join, Physical)):
            found.add(node.combine)
        if isinstance(node, Map):
            _calls(node.fn, found)
        elif isinstance(node, Physical):
            _calls(node.tail, found)
    return found


def _calls(fn: Expr, found: set[str]) -> None:
    if isinstance(fn, Call):
        found.add(fn.fn)
        for arg in fn.args:
            _calls(arg, found)

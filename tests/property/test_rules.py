"""Random plans under random sets of rules: results stay equal, over exact rationals.

Constants are small multiples of 1/2, so that what the rules fold in float64 is exact as well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kqo.ir.interpret import interpret
from kqo.lang.ruleset import load_rules
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from tests.property.plans import Case, cases

QUICK = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RULES = load_rules().without("physical", "prune")


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    """Equality of arrays of rationals; absent tuples, which are NaN, equal each other."""
    left, right = np.broadcast_arrays(left, right)
    absent = [np.array([v != v for v in side.flat], dtype=bool) for side in (left, right)]  # noqa: PLR0124
    return bool(np.array_equal(*absent) and np.all((left == right).ravel() | absent[0]))


@QUICK
@given(cases(deltas=False), st.sets(st.sampled_from(RULES.names())))
def test_any_set_of_rules_keeps_the_results(case: Case, dropped: set[str]) -> None:
    wanted = interpret(case.plan, case.scans, case.regions, exact=True)
    rules = RULES.without(*dropped)
    normal, trace = normalize(case.plan, rules, check=True)
    assert not dropped & set(trace.counts())
    found = interpret(normal, case.scans, case.regions, exact=True)
    assert list(found) == list(wanted)
    for name, value in found.items():
        assert _equal(value, wanted[name]), format(trace.counts())
    again, more = normalize(normal, rules)
    assert not len(more) and again.roots == normal.roots, "a normal form is one"


@QUICK
@given(cases(deltas=False))
def test_every_alternative_equals_what_it_stands_for(case: Case) -> None:
    normal, _ = normalize(case.plan, RULES)
    memo = explore(normal, RULES)
    pairs = [
        (node, alternative)
        for node in normal.nodes()
        for alternative in memo.alternatives(node)
        if alternative is not node
    ]
    if not pairs:
        return
    roots = tuple(
        (f"{side}{number}", node)
        for number, pair in enumerate(pairs)
        for side, node in zip(("original", "alternative"), pair, strict=True)
    )
    found = interpret(replace(normal, roots=roots), case.scans, case.regions, exact=True)
    for number, (_, alternative) in enumerate(pairs):
        same = _equal(found[f"original{number}"], found[f"alternative{number}"])
        assert same, memo.rule_of(alternative)

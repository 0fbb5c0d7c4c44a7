"""Random plans under random sets of rules: results stay equal, over exact rationals.

Constants are small multiples of 1/2, so that what the rules fold in float64 is exact as well.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kqo.ir.interpret import interpret
from kqo.ir.nodes import Const
from kqo.ir.text import parse_plan
from kqo.lang.ruleset import RuleSet, load_rules
from kqo.prove.compare import equal
from kqo.prove.plans import Case
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from tests.property.plans import cases

QUICK = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RULES = load_rules().without("physical", "prune")


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
        assert equal(value, wanted[name]).all(), format(trace.counts())
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
        same = equal(found[f"original{number}"], found[f"alternative{number}"])
        assert same.all(), memo.rule_of(alternative)


@st.composite
def _moved(draw: st.DrawFn) -> tuple[str, bool]:
    """A plan of a crop or padding and what reads it, along one axis, and whether it is padding."""
    extent = draw(st.integers(1, 6))
    padding = draw(st.booleans())
    offset, step = draw(st.integers(-3, 3)), draw(st.sampled_from([1, 1, 2]))
    middle, taps = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    shift, out = draw(st.integers(-3, 3)), draw(st.integers(1, 6))
    inner = f"Join(left: x, right: Domain(axes: ()), on: [y = {step}*y + {offset}], "
    inner += f"axes: (y:{middle}), combine: left)"
    if padding:
        inner = f"Group(input: {inner}, by: (y), agg: sum)"
        outer = f"Join(left: {inner}, right: k, on: [y = {stride}*y + {dilation}*ky + {shift}], "
        outer = f"Group(input: {outer}axes: (y:{out}), combine: mul), by: (y), agg: sum)"
    else:
        outer = f"Join(left: {inner}, right: Domain(axes: ()), on: [y = {stride}*y + {shift}], "
        outer += f"axes: (y:{out}), combine: left)"
    text = f"plan p float64 x = Scan(axes: (y:{extent})) k = Const(axes: (ky:{taps})) "
    return f"{text}return o = {outer}".replace("+ -", "- ").replace("1*", ""), padding


@settings(max_examples=300, deadline=None)
@given(_moved())
def test_windows_and_slices_compose_only_where_the_edges_agree(moved: tuple[str, bool]) -> None:
    text, padding = moved
    plan = parse_plan(text)
    (extent,) = plan.scans[0].schema
    taps = [node.axes[0].extent or 0 for node in plan.nodes() if isinstance(node, Const)]
    constants = {"k": np.arange(1.0, taps[0] + 1)} if taps else {}
    plan = replace(plan, constants=constants)
    scans = {"x": np.arange(1.0, (extent.extent or 0) + 1)}
    name = "MergePaddingIntoWindow" if padding else "ComposeSlices"
    after, _ = normalize(plan, RuleSet((RULES.get(name),)), check=True)
    wanted = interpret(plan, scans, exact=True)["o"]
    assert equal(interpret(after, scans, exact=True)["o"], wanted).all()

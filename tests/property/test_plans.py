"""Random plans: they verify, print and parse, and mean what full re-inference means."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from kqo.ir.interpret import interpret
from kqo.ir.nodes import Overlay
from kqo.ir.text import format_plan, parse_plan
from kqo.ir.verify import verify
from tests.property.plans import cases, count

QUICK = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@QUICK
@given(cases(exact=False))
def test_printed_plans_read_back_as_the_same_nodes(case):
    for plan in (case.plan, case.dense):
        verify(plan)
        text = format_plan(plan)
        again = parse_plan(text, plan.constants)
        assert again.roots == plan.roots
        assert format_plan(again) == text


@QUICK
@given(cases())
def test_overlays_mean_reinference_on_the_changed_image(case):
    found = interpret(case.plan, case.scans, case.regions, exact=True)
    for query, scans in enumerate(case.changed):
        wanted = interpret(case.dense, scans, exact=True)
        for name, value in wanted.items():
            mine = found[name][query] if found[name].ndim > value.ndim else found[name]
            assert (mine == value).all()


@QUICK
@given(cases(exact=False))
def test_floats_agree_with_rationals(case):
    rational = interpret(case.plan, case.scans, case.regions, exact=True)
    for name, value in interpret(case.plan, case.scans, case.regions).items():
        exact = rational[name]
        assert all(isinstance(v, Fraction) for v in exact.flat)
        wanted = exact.astype(np.float64)
        scale = max(1.0, np.abs(wanted).max())
        # A comparison or a floor may fall to either side of a rounding error, so that values differ
        # without a bug: only plans without such steps are compared closely.
        if not _jumps(case):
            np.testing.assert_allclose(value, wanted, atol=1e-9 * scale)


def _jumps(case) -> bool:
    text = format_plan(case.plan)
    return any(word in text for word in ("combine: gt", "floor(", "gt(v"))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of what is found
def test_the_strategy_reaches_deltas():
    found = find(
        cases(),
        lambda case: count(case.plan, Overlay) >= 3,
        settings=settings(QUICK, phases=[Phase.generate], max_examples=300),
    )
    verify(found.plan)

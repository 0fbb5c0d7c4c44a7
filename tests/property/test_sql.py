"""Random plans, deltas among them: DuckDB and torch give the interpreter's answers."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings

from kqo.interop.einsum import evaluate_by_torch
from kqo.ir.interpret import interpret
from kqo.prove.duck import run_sql
from tests.property.plans import cases


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases())
def test_sql_means_what_the_plan_means(case):
    wanted = interpret(case.plan, case.scans, case.regions, exact=True)
    found = run_sql(case.plan, case.scans, case.regions)
    for name, exact in wanted.items():
        value = exact.astype(np.float64)
        most = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12 * most)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases(exact=False))
def test_torch_evaluates_what_the_plan_means(case):
    wanted = interpret(case.plan, case.scans, case.regions)
    found = evaluate_by_torch(case.plan, case.scans, case.regions)
    for name, value in wanted.items():
        most = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9 * most)

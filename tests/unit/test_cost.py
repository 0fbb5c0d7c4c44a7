"""The cost model: counts of forms, rates as data, calibration."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import kqo
from kqo.__main__ import main
from kqo.errors import ArgumentError
from kqo.ir.boxes import Boxes
from kqo.ir.scalar import V, Var, call
from kqo.planner import calibrate
from kqo.planner.cost import Work, passes
from kqo.planner.estimate import RUN, STEP
from kqo.planner.rates import REFERENCE, Rates
from kqo.runtime.timing import Timings
from tests.unit.test_explain_sql import SHAPE, Residual


def test_products_between_measured_sizes():
    for row, inner in zip(REFERENCE.gemm, REFERENCE.inner, strict=True):
        for rate, wide in zip(row, REFERENCE.wide, strict=True):
            assert REFERENCE.product(inner, wide) == pytest.approx(rate)
    low, high = REFERENCE.product(64, 64), REFERENCE.product(256, 64)
    middle = REFERENCE.product(128, 64)
    assert middle == pytest.approx((low + high) / 2)
    assert REFERENCE.product(1, 1) == REFERENCE.gemm[0][0]
    assert REFERENCE.product(10**6, 10**6) == REFERENCE.gemm[-1][-1]


def test_rates_as_plain_values():
    plain = json.loads(json.dumps(REFERENCE.to_dict()))
    assert Rates.from_dict(plain) == REFERENCE
    for broken in (
        {**plain, "gather": 0.0},
        {**plain, "gather": math.nan},
        {**plain, "speed": 1.0},
        {k: v for k, v in plain.items() if k != "call"},
        {**plain, "gemm": plain["gemm"][1:]},
    ):
        with pytest.raises(ArgumentError, match="rates"):
            Rates.from_dict(broken)


def test_time_is_counts_over_rates():
    flops = Work(flops=10**9, inner=64, wide=64)
    assert flops.seconds(REFERENCE) == pytest.approx(1e9 / REFERENCE.product(64, 64))
    both = flops._replace(calls=1000, gathered=10**9)
    more = 1000 * REFERENCE.call + 1e9 / REFERENCE.gather
    assert both.seconds(REFERENCE) == pytest.approx(flops.seconds(REFERENCE) + more)


def test_passes_of_an_epilogue():
    tail = call("max", call("add", call("add", V, Var("a0")), Var("a1")), 0.0)
    found = passes(tail, frozenset({"a0"}))
    assert (found.vectors, found.pairs, found.scalars, found.functions) == (1, 2, 0, 0)
    assert passes(call("mul", V, 2.0), frozenset()).scalars == 1
    assert passes(call("exp", V), frozenset()).functions == 1
    assert passes(V, frozenset()).calls == 0
    shifted = call("add", V, Var("a0"))
    silu = passes(call("mul", shifted, call("sigmoid", shifted)), frozenset({"a0"}))
    assert (silu.vectors, silu.pairs, silu.functions) == (1, 1, 1)  # the sum is computed once


@pytest.fixture(scope="module")
def plan():
    torch.manual_seed(0)
    asked = kqo.Occlusion(3, 1)
    return kqo.compile(Residual().eval(), (torch.zeros(1, *SHAPE),), asked, kqo.Options(threads=1))


def test_a_prediction_counts_the_rows_that_run(plan):
    subject = plan.subject()
    for step, estimate in zip(plan.physical.steps, subject.prediction.steps, strict=True):
        table = plan.physical.tables[step.table]
        boxes: Boxes = subject.boxes[step.table] if step.delta else None
        assert estimate.rows == (int(boxes.volume().sum()) if step.delta else table.rows)
        assert estimate.seconds > 0
    steps = subject.prediction.steps
    beside = RUN + STEP * len(steps)
    assert subject.prediction.seconds == pytest.approx(beside + sum(s.seconds for s in steps))


def test_faster_rates_predict_shorter_times(plan):
    subject = plan.subject()
    plain = REFERENCE.to_dict()
    faster = {
        name: value / 2 if name in ("call", "bind", "gather_row") else value
        for name, value in plain.items()
    }
    quick = replace(subject, rates=Rates.from_dict(faster))
    assert quick.prediction.seconds < subject.prediction.seconds


def test_timings_are_of_the_steps_that_ran(plan):
    timings = Timings(len(plan.physical.steps))
    image = {plan.scan.name: np.zeros(SHAPE, dtype=np.float32)}
    timed = plan.engine.run(image, timings=timings)
    plain = plan.engine.run(image)
    np.testing.assert_array_equal(timed["output"], plain["output"])
    spent = [timings.of(n) for n in range(len(plan.physical.steps))]
    assert min(spent) > 0 and sum(spent) <= 1.5 * timings.wall + 0.01
    assert timings.workers == 1


def test_calibration_is_kept_and_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(calibrate, "_ROUNDS", 1)
    monkeypatch.setattr(calibrate, "_LEAST", 1e-5)
    path = tmp_path / "rates.json"
    assert main(["calibrate", "-o", str(path)]) == 0
    assert "GFLOP/s" in capsys.readouterr().out
    monkeypatch.setenv(calibrate.VARIABLE, str(path))
    rates = calibrate.current_rates()
    assert rates.source == "calibrated"
    assert 1e8 < rates.product(256, 256) < 1e13
    path.write_text("{}")
    with pytest.raises(ArgumentError, match=calibrate.VARIABLE):
        calibrate.current_rates()
    monkeypatch.setenv(calibrate.VARIABLE, "reference")
    assert calibrate.current_rates() is REFERENCE


def test_the_cache_is_read_where_it_is_sound(monkeypatch, tmp_path):
    monkeypatch.delenv(calibrate.VARIABLE)
    monkeypatch.setattr(calibrate, "cache_file", lambda: tmp_path / "kept" / "rates.json")
    assert calibrate.current_rates() is REFERENCE
    kept = replace(REFERENCE, call=2e-6, source="calibrated")
    calibrate.keep(kept, calibrate.cache_file())
    assert calibrate.current_rates() == kept
    calibrate.cache_file().write_text('{"call": 1}')
    assert calibrate.current_rates() is REFERENCE


def test_rates_do_not_depend_on_the_blas_of_other_packages(monkeypatch):
    own = calibrate.machine_key()
    found = calibrate.ThreadpoolController().info()
    other = {"user_api": "blas", "internal_api": "mkl", "filepath": "/lib/torch/libmkl.so"}
    monkeypatch.setattr(calibrate.ThreadpoolController, "info", lambda _: [other, *found])
    assert calibrate.machine_key() == own
    changed = [{**info, "version": "0"} for info in found]
    monkeypatch.setattr(calibrate.ThreadpoolController, "info", lambda _: changed)
    assert calibrate.machine_key() != own


def test_the_key_of_a_machine_is_stable():
    assert calibrate.machine_key() == calibrate.machine_key()
    assert calibrate.cache_file().name == f"rates-{calibrate.machine_key()}.json"

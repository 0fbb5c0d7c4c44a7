"""The benchmark on a GPU, tried where there is none: PyTorch and the plan both on the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kqo
from kqo.bench import gpu
from kqo.bench.gpu import Dense, _or_compiled, best_of, measure_gpu, products_in
from kqo.bench.report import Report, Row
from tests.cuda.host import HostDevice, has_compiler
from tests.cuda.planned import Everything, everything
from tests.unit.lowering import noise


def test_measure_gpu_reports_both_engines():
    model, image = Everything().eval(), noise(1, 3, 32, 32)
    workload = kqo.Occlusion(window=6, stride=5)
    plan = kqo.compile(model, (image,), workload)
    report = measure_gpu(
        plan,
        model,
        image[0].numpy(),
        workload=workload,
        batches=(1, 4),
        compiling=False,
        sample=8,
        repeats=1,
        device="cpu",
    )
    assert [row.engine for row in report.rows] == ["kqo", "PyTorch float32, eager"]
    assert report.rows[1].batch in (1, 4) and report.rows[1].ratio > 0
    assert report.error < 1e-5 == report.tolerance and report.to_dict()["within_tolerance"]
    assert report.rows[0].peak is None
    assert report.positions == len(workload.resolve((3, 32, 32)))


def test_errors_above_the_stated_tolerance_are_said():
    row = Row("kqo", 1, 1.0, None, 1000)
    about = ("net", 4, 2, 1)
    for error, tolerance, said in ((1e-6, 1e-5, False), (2e-5, 1e-5, True), (np.nan, 1, True)):
        report = Report(*about, error, 0.1, tolerance, 2.0, (row,), {})
        assert ("ABOVE THE STATED" in str(report.table().caption)) == said
        assert report.to_dict()["within_tolerance"] != said


@pytest.mark.skipif(not has_compiler(), reason="needs g++")
def test_memory_is_that_of_batch_128_or_of_all_queries(tmp_path, monkeypatch):
    case = everything()
    engine = case.engine(HostDevice(tmp_path), batch=3)
    for most, batch in ((128, engine.queries), (5, 5)):
        monkeypatch.setattr(gpu, "MEMORY_BATCH", most)
        assert gpu._bytes(engine) == engine.bytes_at(batch)
    assert gpu._bytes(case.compiled.engine) is None


def test_ways_that_do_not_fit_are_left_out():
    def full():
        raise torch.cuda.OutOfMemoryError

    dense = Dense(Everything().eval(), "float32", "cpu")
    ways = {("eager", 1): lambda: 2.0, ("eager", 2): lambda: 1.0, ("graph", 4): full}
    assert best_of(ways, dense) == ("eager", 2)


def test_float16_runs_in_float16():
    dense = Dense(Everything().eval(), "float16", "cpu")
    images = dense.images(np.zeros((2, 3, 32, 32), dtype=np.float32))
    assert images.dtype == torch.float16
    assert dense.plain(images).shape == (2, 7)


@pytest.mark.parametrize(("seconds", "chosen"), [(1.0, "compiled"), (3.0, "eager")])
def test_torch_compile_is_taken_where_it_is_faster(monkeypatch, seconds, chosen):
    dense = Dense(Everything().eval(), "float32", "cpu")
    images = dense.images(np.zeros((2, 3, 32, 32), dtype=np.float32))
    took = {dense.plain: 2.0, dense.compiled: seconds}
    monkeypatch.setattr(dense, "seconds", lambda run, *_: took[run])
    assert _or_compiled(dense, ("eager", dense.plain), images, 2)[0] == chosen


def test_a_model_that_torch_compile_rejects_runs_without(monkeypatch):
    def reject(*_, **__):
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", reject)
    dense = Dense(Everything().eval(), "float32", "cpu")
    images = dense.images(np.zeros((2, 3, 32, 32), dtype=np.float32))
    with pytest.warns(UserWarning, match="left out: no compiler"):
        assert _or_compiled(dense, ("eager", dense.plain), images, 2)[0] == "eager"


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_products_are_set_back(precision):
    before = torch.backends.cudnn.allow_tf32
    with products_in(precision):
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    assert torch.backends.cudnn.allow_tf32 == before

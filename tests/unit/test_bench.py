import time

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from kqo.bench import measure, onnx_engine, timed_compile, torch_engine
from kqo.bench.dense import Engine, best_batch, first_output
from kqo.bench.memory import peak_memory, resident
from kqo.workloads import Occlusion
from tests.unit.dense_plan import DensePlan


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval()


def image():
    return np.random.default_rng(0).normal(size=(3, 12, 12)).astype(np.float32)


class OffByOne(DensePlan):
    """A plan whose scores are wrong at one position."""

    def run(self, image, progress=None, verify=0):
        result = super().run(image)
        result.scores[7] += 1
        return result


def test_a_report(model):
    workload = Occlusion(3, 3)
    plan = DensePlan(model, workload, "toy")
    report = measure(plan, model, image(), workload=workload, batches=(1, 4), sample=9, repeats=2)
    assert (report.model, report.positions, report.sampled) == ("toy", 16, 9)
    assert report.error < 1e-6 and report.change_error < 1e-4
    own, dense = report.rows[:2]
    assert own.engine == "kqo" and own.ratio is None and own.ms > 0
    assert dense.engine.startswith("PyTorch") and dense.batch in (1, 4)
    assert dense.ratio == pytest.approx(dense.ms / own.ms)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(report.table())
    assert "toy: 16 positions" in shown.get() and "PyTorch" in shown.get()
    share = f"{dense.ratio / report.bound:.0%}"
    said = " ".join(shown.get().split())
    assert f"The bound is {report.bound:.1f}x fewer multiply-adds" in said and share in said


def test_what_compiling_took_is_told(model):
    workload = Occlusion(3, 3)
    plan, preparing = timed_compile(model, (3, 12, 12), workload, None, "toy")
    assert plan.name == "toy" and preparing > 0 and "_planned" in vars(plan)
    about = {"workload": workload, "batches": (1,), "repeats": 1}
    report = measure(plan, model, image(), **about, preparing=preparing)
    assert report.preparing == preparing
    grid = report.rows[0].ms * report.positions / 1e3
    console = Console(width=120)
    with console.capture() as shown:
        console.print(report.table())
    said = " ".join(shown.get().split())
    assert f"took {report.preparing:.2f} s once, {report.preparing / grid:.1%}" in said
    assert measure(plan, model, image(), **about).preparing is None


def test_a_wrong_plan_shows_in_the_error(model):
    workload = Occlusion(3, 3)
    plan = OffByOne(model, workload)
    report = measure(plan, model, image(), workload=workload, batches=(1,), sample=16, repeats=1)
    assert report.error > 0.1 and report.change_error > report.error


def test_fewer_positions_than_the_largest_batch(model):
    workload = Occlusion(3, 3, positions=[[0, 0], [3, 3]])
    plan = DensePlan(model, workload)
    report = measure(plan, model, image(), workload=workload, batches=(1, 2, 8), repeats=1)
    assert report.sampled == report.positions == 2
    small = measure(plan, model, image(), workload=workload, batches=(8,), repeats=1)
    assert small.rows[1].batch == 2


def test_the_best_batch_is_the_fastest_per_image(monkeypatch):
    costs = {1: 4.0, 2: 4.0, 4: 20.0}
    clock = 0.0

    def run(images):
        nonlocal clock
        clock += costs[len(images)]
        return images

    monkeypatch.setattr("kqo.bench.dense.time.perf_counter", lambda: clock)
    found = best_batch(Engine("slow", run), np.zeros((4, 1), np.float32), (1, 2, 4), repeats=2)
    assert found.batch == 2 and found.seconds == 2.0


def test_engines_agree_with_the_model(model):
    images = np.stack([image()] * 3)
    expected = model(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(torch_engine(model).run(images), expected, atol=1e-6)
    pytest.importorskip("onnxruntime")
    engine, reason = onnx_engine(model, (3, 12, 12), 1)
    assert engine is not None, reason
    np.testing.assert_allclose(engine.run(images), expected, atol=1e-5)


def test_a_model_that_onnx_cannot_take_is_told(model):
    pytest.importorskip("onnxruntime")

    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x[:, 0]).real

    engine, reason = onnx_engine(Odd(), (1, 3, 3), 1)
    assert engine is None and "cannot run this model" in reason


def test_first_outputs():
    x = torch.ones(2)
    for given in (x, (x, 1), [x], {"out": x, "aux": 3}, {"out": (x,)}):
        assert first_output(given).tolist() == [1, 1]
    with pytest.raises(TypeError, match="str"):
        first_output("text")


def test_peak_memory_sees_what_is_held_for_a_while():
    if resident() is None:
        pytest.skip("this system does not tell resident memory")
    with peak_memory() as peak:
        block = np.ones(25_000_000)  # 200 MB
        time.sleep(0.05)
        del block
    assert 150e6 < peak.bytes < 300e6

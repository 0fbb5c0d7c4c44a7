"""On a GPU: plans give what NumPy gives, for any model, batch, precision and kind of array."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import kqo
from kqo.options import PRECISIONS, Options
from kqo.runtime.cuda.device import CupyDevice, gpu_available
from kqo.runtime.cuda.engine import CudaEngine
from kqo.runtime.timing import Timings
from tests import models
from tests.cuda.planned import SMALL_ZOO, Case, Everything, Flattened, everything, small
from tests.unit.lowering import noise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_available(), reason="needs CuPy and a GPU"),
]
EXACT = 1e-5
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gpu() -> CupyDevice:
    return CupyDevice()


@pytest.mark.parametrize("name", [*SMALL_ZOO, *models.MODELS])
def test_model_equals_numpy(gpu, name):
    case = small(name)
    assert case.error(case.engine(gpu)) < EXACT
    by_winograd = CudaEngine(case.compiled.physical, case.changed, device=gpu)
    assert case.error(by_winograd) < EXACT


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_precisions_keep_their_tolerance(gpu, precision, batch):
    case = everything()
    error = case.error(case.engine(gpu, precision, batch=batch))
    assert error < max(EXACT, PRECISIONS[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_linear_layers_multiply_only_what_changed(gpu, precision):
    case = Case(Flattened(40).eval(), ((3, 7, 7),), 2, 1)
    assert case.error(case.engine(gpu, precision)) < max(EXACT, PRECISIONS[precision])


def random_model(channels: list[int], taps: list[int], strides: list[int], seed: int) -> nn.Module:
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wide = 3
        for c, k, s in zip(channels, taps, strides, strict=True):
            layers += [nn.Conv2d(wide, c, k, s, k // 2), nn.ReLU()]
            wide = c
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 5))


@given(
    layers=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 3, 5]), st.integers(1, 2)),
        min_size=1,
        max_size=4,
    ),
    extents=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    window=st.integers(1, 6),
    stride=st.integers(1, 6),
    batch=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_random_networks_equal_numpy(layers, extents, window, stride, batch, seed):
    channels, taps, strides = zip(*layers, strict=True)
    model = random_model(list(channels), list(taps), list(strides), seed).eval()
    case = Case(model, ((3, *extents),), window, stride)
    assert case.error(case.engine(CupyDevice(), batch=batch)) < EXACT


def test_every_kind_of_array_gives_the_same():
    import cupy

    image = noise(1, 3, 32, 32)
    options = Options(target="cuda")
    plan = kqo.compile(Everything().eval(), (image,), kqo.Occlusion(6, 5), options)
    want = plan.run(image).scores
    for given_image in (image.numpy(), image.cuda(), cupy.asarray(image.numpy())):
        assert np.array_equal(plan.run(given_image).scores, want)
    assert plan.run(torch.cat([image, -image]).cuda()).scores.shape == (2, *want.shape)


def test_results_stay_on_the_gpu_until_asked_for(gpu):
    import cupy

    case = everything()
    found = case.engine(gpu).run(case.arrays, on_device=True)
    assert all(isinstance(value, cupy.ndarray) for value in found.values())


def test_kernels_are_raw_kernels(gpu):
    import cupy

    functions = gpu.load(everything().program().kernels)
    assert functions and all(isinstance(f, cupy.RawKernel) for f in functions.values())


def test_later_batches_are_one_graph(gpu):
    case = everything()
    engine = case.engine(gpu, batch=8)
    first = engine.run(case.arrays)
    assert isinstance(engine._again, partial)  # of a graph's launch
    second = engine.run(case.arrays)
    assert all(np.array_equal(first[n], second[n]) for n in first)


def test_running_out_of_memory_halves_the_batch(gpu):
    import cupy

    pool = cupy.get_default_memory_pool()
    case = everything()
    engine = case.engine(gpu, batch=50)
    pool.free_all_blocks()
    held = sum(int(c.nbytes) for c in engine.program.constants.values())
    pool.set_limit(size=pool.used_bytes() + held + engine.bytes_at(12) + (1 << 20))
    try:
        error = case.error(engine)
    finally:
        pool.set_limit(size=0)
    assert error < EXACT and engine.batch < 50


def test_events_time_every_step(gpu):
    case = everything()
    engine = case.engine(gpu)
    timings = Timings(len(engine.plan.steps))
    engine.run(case.arrays, timings=timings)
    assert all(timings.of(step) > 0 for step in range(len(engine.plan.steps)))


SANITIZED = """
import cupy

cupy.cuda.set_allocator(None)  # in a pool's block an access beyond an array is no error

from kqo.runtime.cuda.device import CupyDevice
from kqo.runtime.cuda.engine import CudaEngine
from tests.cuda.planned import Case, Flattened, everything
case, linear = everything(), Case(Flattened(40).eval(), ((3, 7, 7),), 2, 1)
for precision in ("float32", "tf32", "float16"):
    case.engine(CupyDevice(), precision, batch=20).run(case.arrays)
    linear.engine(CupyDevice(), precision).run(linear.arrays)
CudaEngine(case.compiled.physical, case.changed, device=CupyDevice()).run(case.arrays)
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer")
    # CuPy asks for things that fail and lives with it: only kernels are looked at.
    options = ["--tool", tool, "--error-exitcode", "7", "--report-api-errors", "no"]
    command = [sanitizer, *options, sys.executable, "-c", SANITIZED]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]

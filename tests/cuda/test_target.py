"""Targets: what is said where there is no GPU, and what NumPy's engine gets of GPU arrays."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.errors import ArgumentError, DeviceError
from kqo.options import PRECISIONS, Options
from kqo.runtime.cuda import device

without_gpu = pytest.mark.skipif(device.gpu_available(), reason="this machine has a GPU")


def compile_for(target: str) -> kqo.api.CompiledPlan:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2)).eval()
    workload = kqo.Occlusion(window=2, stride=2)
    return kqo.compile(model, (torch.zeros(1, 1, 6, 6),), workload, Options(target=target))


@without_gpu
def test_cuda_without_a_gpu_says_so_in_plain_words():
    with pytest.raises(DeviceError, match=r"target cuda: .*target='numpy' runs everywhere"):
        compile_for("cuda")


@without_gpu
def test_auto_without_a_gpu_is_numpy():
    plan = compile_for("auto")
    assert plan.source.startswith('"""')
    assert plan.run(torch.ones(1, 1, 6, 6)).scores.shape == (9, 2)


def test_cupy_that_finds_no_gpu_is_a_device_error(monkeypatch):
    class Runtime:
        @staticmethod
        def getDeviceCount() -> int:
            raise OSError("libcuda.so.1:\n cannot open")

    class Cupy:
        class cuda:
            runtime = Runtime

    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    with pytest.raises(DeviceError, match=r"no GPU can be used here: libcuda.so.1: cannot open"):
        device.CupyDevice()
    Runtime.getDeviceCount = staticmethod(lambda: 0)
    with pytest.raises(DeviceError, match="this machine has no GPU"):
        device.CupyDevice()
    Runtime.getDeviceCount = staticmethod(lambda: 1)
    with pytest.raises(DeviceError, match="GPU 3: this machine has 1"):
        device.CupyDevice(3)


def test_importing_the_runtime_needs_no_cupy():
    code = "import sys, kqo.runtime.cuda.target, kqo.emit.cuda; print('cupy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_arrays_on_a_gpu_come_to_numpy():
    class OnGpu:
        __cuda_array_interface__: dict = {}  # noqa: RUF012

        def get(self):
            return np.arange(3.0)

    assert device.host_array(OnGpu()).tolist() == [0, 1, 2]
    assert device.host_array(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_precision_states_its_tolerance():
    assert Options().stated_tolerance == Options().tolerance
    for precision, least in PRECISIONS.items():
        found = Options(precision=precision)
        assert found.stated_tolerance == max(least, found.tolerance)
        assert Options.from_dict(found.to_dict()) == found
    assert Options(precision="tf32", tolerance=0.5).stated_tolerance == 0.5
    with pytest.raises(ArgumentError, match="precision: got 'bfloat16'"):
        Options(precision="bfloat16")


class FakeCupy:
    """As much of CuPy as taking an array needs, with a note of what was asked for."""

    ndarray = type("ndarray", (), {})
    float32 = np.float32

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cuda = self

    def from_dlpack(self, value):
        self.asked.append("dlpack")
        return np.asarray(value.host)

    def asarray(self, value, dtype):
        return np.asarray(value, dtype=dtype)

    def get_current_stream(self):
        return self

    def record(self) -> str:
        return "event of the caller"


class Held:
    """A tensor on a GPU."""

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu
        self.host = np.arange(3.0)

    __cuda_array_interface__: dict = {}  # noqa: RUF012

    def __dlpack_device__(self):
        return 2, self.gpu

    def get(self):
        return self.host


@pytest.mark.parametrize(
    ("given", "copied_by"),
    [(Held(0), ["dlpack"]), (Held(1), []), (np.arange(3.0), []), (torch.arange(3.0), [])],
)
def test_arrays_are_taken_where_they_are_and_waited_for(given, copied_by):
    from contextlib import nullcontext

    class Gpu(nullcontext):
        id = 0

    waited: list[str] = []
    found = device.CupyDevice.__new__(device.CupyDevice)
    found.xp, found._device = FakeCupy(), Gpu()
    found._stream = type("Stream", (), {"wait_event": lambda self, event: waited.append(event)})()
    taken = found.asarray(given)
    assert taken.dtype == np.float32 and taken.tolist() == [0, 1, 2]
    assert found.xp.asked == copied_by
    assert waited == ["event of the caller"]

"""Targets: what is said where there is no GPU, and what NumPy's engine gets of GPU arrays."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.emit.cuda_program import Kernel
from kqo.errors import ArgumentError, DeviceError
from kqo.options import PRECISIONS, Options
from kqo.runtime.cuda import device, results, target
from tests.cuda.host import HostDevice

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
    assert "\nOn NumPy, not on a GPU: target cuda: " in plan.explain()
    assert "On NumPy" not in compile_for("numpy").explain()


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


class DriverError(RuntimeError):
    """As CuPy's errors of the runtime and of the driver."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Gpu(nullcontext):
    id = 0
    compute_capability = "90"


def cupy_that_computes(max_of_two) -> type:
    """As much of CuPy as opening a device needs; ``max_of_two`` is what its own kernels do."""

    class Runtime:
        CUDARuntimeError = DriverError
        getDeviceCount = staticmethod(lambda: 1)
        getDeviceProperties = staticmethod(
            lambda number: {"name": b"a GPU", "sharedMemPerBlockOptin": 100 << 10}
        )
        memGetInfo = staticmethod(lambda: (5, 10))

    class Pool:
        free_bytes = staticmethod(lambda: 2)

    class Cupy:
        float32 = np.float32
        get_default_memory_pool = staticmethod(Pool)

        @staticmethod
        def ones(count, dtype):
            return np.array([max_of_two()] * count, dtype=dtype)

        class cuda:
            runtime = Runtime
            driver = type("driver", (), {"CUDADriverError": DriverError})
            Device = staticmethod(lambda number: Gpu())
            Stream = staticmethod(lambda non_blocking: nullcontext())

    return Cupy


@pytest.fixture
def opened(monkeypatch):
    """Opens a device of a CuPy whose kernels return a number, or raise."""
    monkeypatch.setattr(device.nvrtc, "library", lambda: None)

    def opened(max_of_two):
        monkeypatch.setitem(sys.modules, "cupy", cupy_that_computes(max_of_two))
        return device.CupyDevice()

    return opened


def test_a_cupy_that_computes_nothing_is_a_device_error(opened):
    found = opened(lambda: 1.0)
    assert (found.name, found.capability, found.free_bytes()) == ("a GPU", 90, 7)

    def headers_are_missing():
        raise ImportError("cannot open source file\n cuda_fp16.h")

    reason = r"CuPy cannot compute on a GPU: cannot open source file cuda_fp16.h .*kqo\[cuda\]"
    with pytest.raises(DeviceError, match=reason):
        opened(headers_are_missing)


def test_what_the_driver_reports_is_a_device_error(opened):
    found = opened(lambda: 1.0)
    with pytest.raises(DeviceError, match="the GPU failed: no kernel image"), found.active():
        raise DriverError(209, "no kernel\nimage")
    with pytest.raises(found.out_of_memory), found.active():
        raise DriverError(2, "out of memory")

    def broken():
        raise DriverError(700, "illegal address")

    found.xp.cuda.runtime.memGetInfo = staticmethod(broken)
    with pytest.raises(DeviceError, match="illegal address"):
        found.free_bytes()


@pytest.mark.parametrize("status", [2, 700])
def test_a_gpu_that_cannot_be_opened_is_a_device_error(opened, status):
    found = opened(lambda: 1.0)

    def broken(number):
        raise DriverError(status, "no room for a context")

    found.xp.cuda.Device = broken
    with pytest.raises(DeviceError, match="CuPy cannot compute on GPU 0: no room for a context"):
        device.CupyDevice()


@pytest.mark.parametrize("fails", ["gpu_refusal", "CupyDevice", "prepare"])
def test_auto_is_numpy_where_the_gpu_fails_and_says_so(monkeypatch, tmp_path, fails):
    def fail(*_):
        raise DeviceError("a kernel does not compile")

    monkeypatch.setattr(target, "gpu_refusal", lambda: None)
    monkeypatch.setattr(target, "CupyDevice", lambda: HostDevice(tmp_path))
    if fails == "gpu_refusal":
        monkeypatch.setattr(target, fails, lambda: DeviceError("a kernel does not compile"))
    else:
        monkeypatch.setattr(target if fails == "CupyDevice" else target.CudaEngine, fails, fail)
    plan = compile_for("auto")
    said = "On NumPy, not on a GPU: a kernel does not compile."
    with pytest.warns(RuntimeWarning, match=said):
        result = plan.run(torch.ones(1, 1, 6, 6))
    assert result.scores.shape == (9, 2)
    assert said in plan.explain().splitlines()


class Recorded:
    """As CuPy's RawModule and RawKernel of a file with machine code, with a note of launches."""

    def __init__(self, *, path: str, launched: list) -> None:
        self.code, self.launched = Path(path).read_bytes(), launched
        self.max_dynamic_shared_size_bytes = 48 << 10

    def get_function(self, name: str) -> Recorded:
        self.name = name
        return self

    def __call__(self, grid, block, args, *, shared_mem=0) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self.launched.append((self.name, self.code, grid, block, args, shared_mem))


def test_kernels_are_raw_kernels_of_compiled_files(opened, monkeypatch, tmp_path):
    monkeypatch.setenv("KQO_CACHE", str(tmp_path))
    monkeypatch.setattr(device.nvrtc, "version", lambda: (12, 0))
    compiled = []

    def compile_kernel(source, capability, name):
        compiled.append(name)
        return f"{source} for {capability}".encode()

    monkeypatch.setattr(device.nvrtc, "compile_kernel", compile_kernel)
    found, launched = opened(lambda: 1.0), []
    found.xp.RawModule = partial(Recorded, launched=launched)
    kernels = {"small": Kernel("small", "one", 32), "large": Kernel("large", "two", 64, 90 << 10)}
    for _ in range(2):
        functions = found.load(kernels)
        for name, kernel in kernels.items():
            shared = kernel.shared_bytes(found.capability)
            found.launch(functions[name], (2, 1, 1), kernel.threads, shared, [7])
    small, large = launched[:2]
    assert small == ("small", b"one for 90", (2, 1, 1), (32, 1, 1), (7,), 0)
    assert large == ("large", b"two for 90", (2, 1, 1), (64, 1, 1), (7,), 90 << 10)
    assert isinstance(small[4][0], np.int32)
    assert launched[2:] == launched[:2] and sorted(compiled) == ["large", "small"]
    with pytest.raises(DeviceError, match="huge needs 204800 bytes of shared memory; a GPU has"):
        found.load({"huge": Kernel("huge", "three", 32, 200 << 10)})


class CapturingStream:
    """As CuPy's stream, of which graphs can be captured unless it ``refuses``."""

    def __init__(self, refuses: bool) -> None:
        self.refuses, self.replayed = refuses, 0

    def begin_capture(self) -> None:
        if self.refuses:
            raise DriverError(801, "operation not supported")

    def end_capture(self) -> CapturingStream:
        return self

    def launch(self, stream) -> None:
        assert stream is self
        self.replayed += 1


@pytest.mark.parametrize("refuses", [False, True])
def test_launches_are_a_graph_where_they_can_be_captured(opened, refuses):
    found, launched = opened(lambda: 1.0), []
    stream = found._stream = CapturingStream(refuses)
    again = found.capture(lambda: launched.append("kernel"))
    captured = len(launched)
    again()
    again()
    assert (captured, stream.replayed) == ((0, 0) if refuses else (1, 2))
    assert len(launched) == (2 if refuses else 1)


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
    CUDARuntimeError = CUDADriverError = DriverError

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cuda = self.runtime = self.driver = self

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
    waited: list[str] = []
    found = device.CupyDevice.__new__(device.CupyDevice)
    found.xp, found._device = FakeCupy(), Gpu()
    found._stream = type("Stream", (), {"wait_event": lambda self, event: waited.append(event)})()
    taken = found.asarray(given)
    assert taken.dtype == np.float32 and taken.tolist() == [0, 1, 2]
    assert found.xp.asked == copied_by
    assert waited == ["event of the caller"]


class Stays(np.ndarray):
    """An array on a GPU, as far as being stacked goes; several do not fit where ``full`` is set."""

    full = False

    def __array_function__(self, function, types, args, kwargs):
        if self.full and function is np.stack:
            raise MemoryError
        return super().__array_function__(function, types, args, kwargs).view(Stays)


@pytest.mark.parametrize("full", [True, False])
def test_answers_of_several_images_stay_where_they_are_if_they_can(monkeypatch, full):
    monkeypatch.setattr(Stays, "full", full)
    monkeypatch.setattr(results, "host_array", np.array)
    one = np.arange(3.0)
    there = one.view(Stays)
    found = results.stacked([there, there])
    assert type(found) is (np.ndarray if full else Stays)
    for arrays in ([there, one], [one, one]):
        assert type(results.stacked(arrays)) is np.ndarray
        assert results.stacked(arrays).tolist() == found.tolist() == [[0, 1, 2]] * 2

"""The device that runs kernels: what the engine asks of it, and CuPy's answer.

Tests run the same programs on the processor, behind the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kqo.emit.cuda_program import Kernel
from kqo.errors import DeviceError
from kqo.runtime.cuda import nvrtc
from kqo.runtime.cuda.cache import compile_all

Grid = tuple[int, int, int]
ON_CUDA = 2
"""DLPack's number for memory of a GPU."""
UNASKED_SHARED = 48 << 10
"""Bytes of shared memory that a block may have without being allowed more."""
OLDEST = 70
"""The oldest compute capability that kernels are written for."""
NO_MEMORY = 2
"""The status of the runtime and of the driver for memory that does not suffice."""


class Event(Protocol):
    """A point in the device's work."""

    def synchronize(self) -> None:
        """Wait until the work before it is done."""


class Device(Protocol):
    """Memory, compiled kernels and launches in order, on one stream.

    Attributes:
        xp: the array library: cupy, or numpy.
        name: for people.
        capability: compute capability, such as 80.
        out_of_memory: what an allocation that does not fit raises.
    """

    xp: Any
    name: str
    capability: int
    out_of_memory: tuple[type[Exception], ...]

    def active(self) -> AbstractContextManager[Any]:
        """While this is entered, array operations and launches go to the device's stream.

        On the way out what the device fails at is a DeviceError, or, for want of memory, one of
        ``out_of_memory``."""

    def load(self, kernels: Mapping[str, Kernel]) -> dict[str, Any]:
        """Functions to launch, by name; compiles what is not in the cache."""

    def launch(
        self, function: Any, grid: Grid, threads: int, shared: int, args: Sequence[Any]
    ) -> None:
        """Launch a function; arguments are arrays and ints."""

    def asarray(self, value: Any) -> Any:
        """A float32 array on the device: of NumPy's, CuPy's or, by DLPack, another library's.
        Launches that follow wait until it is there."""

    def numpy(self, value: Any) -> Any:
        """A NumPy array of a device array; waits for it."""

    def free_bytes(self) -> int:
        """Memory that can still be taken."""

    def release(self) -> None:
        """Give memory that is no longer used back to the device."""

    def record(self) -> Event:
        """An event after all work so far."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A function that does the launches of ``work`` again, as one graph where possible."""

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Time that the device takes for some launches, by its own events."""


class CupyDevice:
    """A GPU through CuPy.

    Args:
        number: of the GPU, from 0.

    Raises:
        DeviceError: CuPy or NVRTC is not installed, or there is no GPU, or it is too old, or CuPy's
            own kernels do not run on it.
    """

    def __init__(self, number: int = 0) -> None:
        cupy, count = _cupy()
        if number >= count:
            raise DeviceError(f"GPU {number}: this machine has {count}, counted from 0")
        self.xp = cupy
        self.out_of_memory: tuple[type[Exception], ...] = (MemoryError,)  # CuPy's is one
        with _usable(f"GPU {number}"):
            self._device = cupy.cuda.Device(number)
            self.capability = int(self._device.compute_capability)
            properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.name = properties["name"].decode()
        self.shared_limit = int(properties["sharedMemPerBlockOptin"])
        if self.capability < OLDEST:
            raise DeviceError(
                f"{self.name} has compute capability {self.capability / 10}; kernels need 7.0",
                hint="target='numpy'",
            )
        nvrtc.library()  # what cannot compile is no device to plan for
        with _usable(self.name), self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            with self._stream:
                float((cupy.ones(2, dtype=cupy.float32) + 1).max())

    @contextmanager
    def active(self) -> Iterator[None]:
        """Enter the GPU and its stream."""
        with _as_device_error(self.xp), self._device, self._stream:
            yield

    def load(self, kernels: Mapping[str, Kernel]) -> dict[str, Any]:
        """CuPy RawKernels; compiles what is not in the cache."""
        files = compile_all(kernels.values(), self.capability)
        found = {}
        with self.active():
            for name, kernel in kernels.items():
                shared = kernel.shared_bytes(self.capability)
                if shared > self.shared_limit:
                    raise DeviceError(
                        f"{name} needs {shared} bytes of shared memory; {self.name} has "
                        f"{self.shared_limit} per block",
                        hint="target='numpy'",
                    )
                function = self.xp.RawModule(path=str(files[name])).get_function(name)
                if shared > UNASKED_SHARED:
                    function.max_dynamic_shared_size_bytes = shared
                found[name] = function
        return found

    def launch(
        self, function: Any, grid: Grid, threads: int, shared: int, args: Sequence[Any]
    ) -> None:
        """Launch on the stream that is entered."""
        given = tuple(np.int32(a) if isinstance(a, int) else a for a in args)
        function(grid, (threads, 1, 1), given, shared_mem=shared)

    def asarray(self, value: Any) -> Any:
        """A float32 array on this GPU; one that is there already is not copied."""
        with _as_device_error(self.xp), self._device:
            if hasattr(value, "detach"):
                value = value.detach().float()  # CuPy knows no bfloat16
            if not isinstance(value, self.xp.ndarray) and hasattr(value, "__dlpack_device__"):
                kind, number = value.__dlpack_device__()
                here = int(kind) == ON_CUDA and int(number) == self._device.id
                value = self.xp.from_dlpack(value) if here else host_array(value)
            found = self.xp.asarray(value, dtype=self.xp.float32)
            # The caller's stream wrote it, and the engine's does not wait for that one by itself.
            self._stream.wait_event(self.xp.cuda.get_current_stream().record())
            return found

    def numpy(self, value: Any) -> Any:
        """A copy in the computer's memory."""
        return self.xp.asnumpy(value)

    def free_bytes(self) -> int:
        """Free memory of the GPU, and of CuPy's pool, whose blocks of other streams go back to the
        GPU when it has no other memory left."""
        with _as_device_error(self.xp), self._device:
            free, _ = self.xp.cuda.runtime.memGetInfo()
            return int(free) + int(self.xp.get_default_memory_pool().free_bytes())

    def release(self) -> None:
        """Give CuPy's unused blocks back."""
        with _as_device_error(self.xp), self._device:
            self.xp.get_default_memory_pool().free_all_blocks()

    def record(self) -> Event:
        """An event on the stream."""
        event: Event = self._stream.record()
        return event

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of the launches; the launches themselves where CuPy cannot capture them."""
        runtime = self.xp.cuda.runtime
        try:
            self._stream.begin_capture()
            try:
                work()
            finally:
                graph = self._stream.end_capture()
        except (runtime.CUDARuntimeError, RuntimeError):
            return work
        return partial(graph.launch, self._stream)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Time between two events around the launches."""
        before, after = self.xp.cuda.Event(), self.xp.cuda.Event()
        before.record(self._stream)
        work()
        after.record(self._stream)
        after.synchronize()
        return float(self.xp.cuda.get_elapsed_time(before, after))


def host_array(value: Any) -> NDArray[Any]:
    """A NumPy array of NumPy's, CuPy's or torch's arrays, wherever they are."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):
        value = value.get()
    return np.asarray(value)


@contextmanager
def _usable(name: str) -> Iterator[None]:
    """Whatever keeps CuPy from computing at all, as DeviceError: a full GPU, headers that are not
    there. CuPy's compiler, its libraries and the driver have types of their own."""
    try:
        yield
    except Exception as error:
        raise DeviceError(
            f"CuPy cannot compute on {name}: {_one_line(error)}",
            hint="pip install 'kqo[cuda]' brings the headers and libraries that CuPy needs",
        ) from None


@contextmanager
def _as_device_error(cupy: Any) -> Iterator[None]:
    """What the CUDA runtime and the driver report, as DeviceError; want of memory as MemoryError,
    which CuPy's own allocator raises."""
    failures = (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
    try:
        yield
    except failures as error:
        if error.status == NO_MEMORY:
            raise MemoryError(_one_line(error)) from error
        raise DeviceError(f"the GPU failed: {_one_line(error)}", hint="target='numpy'") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class NoGpuError(DeviceError):
    """CuPy is not installed, or finds no GPU: there is none to be had."""


def _cupy() -> tuple[Any, int]:
    """CuPy and the number of GPUs; NoGpuError where there is none."""
    hint = "target='numpy' runs everywhere"
    try:
        import cupy
    except ImportError:
        raise NoGpuError(
            "target cuda: CuPy is not installed", hint=f"pip install 'kqo[cuda]'; {hint}"
        ) from None
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # CuPy raises types of its own, and OSError for missing libraries
        reason = _one_line(error)
        raise NoGpuError(f"target cuda: no GPU can be used here: {reason}", hint=hint) from None
    if count == 0:
        raise NoGpuError("target cuda: this machine has no GPU", hint=hint)
    return cupy, count


@lru_cache(maxsize=1)
def gpu_refusal() -> DeviceError | None:
    """Why no GPU can be taken here; None where CuPy computes on one that is not too old."""
    try:
        CupyDevice()
    except DeviceError as error:
        return error
    return None


def gpu_available() -> bool:
    """Whether ``target="auto"`` means a GPU here."""
    return gpu_refusal() is None


def check_target(target: str) -> None:
    """That this machine has what is asked for by name.

    Raises:
        DeviceError: ``cuda`` where there is no GPU, with the reason.
    """
    if target == "cuda":
        CupyDevice()

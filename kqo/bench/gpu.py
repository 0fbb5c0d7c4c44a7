"""A plan on a GPU beside PyTorch's best dense run there, at the same precision."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kqo.bench.dense import first_tensor
from kqo.bench.report import Report, Row, errors, machine
from kqo.interop.text import one_line
from kqo.runtime.cuda.engine import CudaEngine
from kqo.workloads import Workload, changed_inputs

if TYPE_CHECKING:
    from kqo.api import CompiledPlan

GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MEMORY_BATCH = 128
"""Batch at which memory is compared."""
Run = Callable[[Tensor], Tensor]


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """PyTorch's convolutions and matrix products in float32 or TF32, by the algorithms that cuDNN
    finds to be the fastest, while this is entered."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark
    convolutions.allow_tf32 = products.allow_tf32 = precision == "tf32"
    convolutions.benchmark = True
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark = before


class Dense:
    """PyTorch on a device: channels last, and CUDA graphs where they are faster.

    Args:
        module: the model, in eval mode; it is copied.
        precision: float32, tf32 or float16.
        device: ``cuda``, or ``cpu`` to try the benchmark itself.
    """

    def __init__(self, module: nn.Module, precision: str, device: str) -> None:
        import copy

        self.dtype = torch.float16 if precision == "float16" else torch.float32
        self.device = torch.device(device)
        model = copy.deepcopy(module).to(self.device, self.dtype)
        if any(p.dim() == 4 for p in model.parameters()):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model = model
        self._graphs: dict[int, tuple[Any, Tensor, Tensor]] = {}
        self._compiled: Run | None = None

    def images(self, values: NDArray[Any]) -> Tensor:
        """Images on the device, as the model takes them."""
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self.device, self.dtype)
        return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    def plain(self, images: Tensor) -> Tensor:
        """The first output, kernel by kernel."""
        with torch.inference_mode():
            return first_tensor(self._model(images))

    def captured(self, images: Tensor) -> Tensor:
        """The first output, by a CUDA graph of this batch size."""
        if len(images) not in self._graphs:
            held = images.clone(memory_format=torch.preserve_format)
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.plain(held)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = self.plain(held)
            self._graphs[len(images)] = graph, held, found
        graph, held, found = self._graphs[len(images)]
        held.copy_(images)
        graph.replay()
        return found

    def compiled(self, images: Tensor) -> Tensor:
        """The first output, by torch.compile for this batch size, which uses CUDA graphs itself."""
        if self._compiled is None:
            mode = "reduce-overhead"
            self._compiled = torch.compile(self.plain, mode=mode, dynamic=False)
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._compiled(images)

    def drop_graphs(self) -> None:
        """Free what captured graphs hold."""
        self._graphs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def ways(self) -> dict[str, Run]:
        """The ways to run, by name."""
        plain: dict[str, Run] = {"eager": self.plain}
        return {**plain, "graph": self.captured} if self.device.type == "cuda" else plain

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Run, images: Tensor, batch: int) -> float:
        """Seconds per image of one pass over the images in whole batches."""
        count = len(images) // batch * batch
        self.wait()
        began = time.perf_counter()
        for start in range(0, count, batch):
            run(images[start : start + batch])
        self.wait()
        return (time.perf_counter() - began) / count

    def peak(self, images: Tensor) -> int | None:
        """Bytes that one batch takes beyond weights and images; None elsewhere than on a GPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.plain(images)
        self.wait()
        return int(torch.cuda.max_memory_allocated() - before)


def measure_gpu(
    plan: CompiledPlan,
    module: nn.Module,
    image: NDArray[Any],
    *,
    workload: Workload,
    batches: Sequence[int] = GPU_BATCHES,
    compiling: bool = True,
    sample: int = 256,
    repeats: int = 5,
    device: str = "cuda",
    seed: int = 0,
) -> Report:
    """Time a plan on a GPU and PyTorch on the same GPU, in turns.

    PyTorch runs at the plan's precision, with images on the device, at the best of ``batches`` and
    by the faster of eager mode and CUDA graphs; at that batch torch.compile is tried too, and taken
    where it is faster. Errors are against PyTorch in float64 on the processor. Memory is that of
    batch 128 (of all queries where they are fewer): the plan's rows, row numbers and scratch, which
    are known, and what PyTorch takes beyond weights and images, which is measured.

    Args:
        plan: the plan, with target cuda.
        module: its model, in eval mode.
        image: one input, (C, H, W).
        workload: the plan's workload.
        batches: batch sizes to try for PyTorch.
        compiling: whether torch.compile is tried.
        sample: queries that PyTorch runs; errors are measured at up to 16 of them.
        repeats: rounds; figures are medians.
        device: where PyTorch runs.
        seed: of the choice of queries.
    """
    import copy

    placed = workload.resolve(image.shape)
    most = max(sample, *batches)
    chosen = np.random.default_rng(seed).permutation(len(placed))[:most]
    values = changed_inputs(workload, image, chosen)
    precision = plan.options.precision
    dense = Dense(module, precision, device)
    images = dense.images(values)
    with products_in(precision):
        name, batch = best_of(
            {
                (name, batch): _timer(dense, run, images, batch)
                for name, run in dense.ways().items()
                for batch in batches
                if batch <= len(images)
            },
            dense,
        )
        run = dense.ways()[name]
        if compiling:
            name, run = _or_compiled(dense, (name, run), images, batch)
        peak = dense.peak(images[:MEMORY_BATCH])
        plan.run(image[None])
        own: list[float] = []
        other: list[float] = []
        for _ in range(repeats):
            began = time.perf_counter()
            result = plan.run(image[None])
            own.append((time.perf_counter() - began) / len(placed))
            other.append(dense.seconds(run, images, batch))
    checked = np.arange(min(16, len(chosen)))
    with torch.inference_mode():
        exact = copy.deepcopy(module).double()(torch.from_numpy(values[checked]).double())
    expected = np.asarray(first_tensor(exact), dtype=np.float64)
    mine, theirs = statistics.median(own), statistics.median(other)
    rows = (
        Row("kqo", plan.engine.batch, mine * 1e3, None, _bytes(plan.engine)),
        Row(f"PyTorch {precision}, {name}", batch, theirs * 1e3, theirs / mine, peak),
    )
    return Report(
        plan.name,
        len(placed),
        len(images),
        repeats,
        *errors(result, chosen[checked], expected),
        plan.options.stated_tolerance,
        plan.subject().multiply_adds.fewer,
        rows,
        {**machine(), "gpu": _name(device), "precision": precision},
    )


def _bytes(engine: object) -> int | None:
    """What a plan takes at the batch at which memory is compared; None elsewhere than on a GPU."""
    if not isinstance(engine, CudaEngine):
        return None
    return engine.bytes_at(min(MEMORY_BATCH, engine.queries))


def best_of(ways: dict[tuple[str, int], Callable[[], float]], dense: Dense) -> tuple[str, int]:
    """The way and batch that take the least time; those that do not fit the memory are left out."""
    found: dict[tuple[str, int], float] = {}
    for key, timed in ways.items():
        try:
            found[key] = timed()
        except torch.cuda.OutOfMemoryError:
            continue
        finally:
            dense.drop_graphs()
    return min(found, key=lambda key: found[key])


def _or_compiled(
    dense: Dense, best: tuple[str, Run], images: Tensor, batch: int
) -> tuple[str, Run]:
    """torch.compile where it can compile the model and is faster at this batch."""
    name, run = best
    try:
        took = _timer(dense, dense.compiled, images, batch)()
    except Exception as error:  # compilers fail in ways that nobody lists, and are not needed
        warnings.warn(f"torch.compile was left out: {one_line(error)}", stacklevel=2)
        return best
    faster = took < _timer(dense, run, images, batch)()
    return ("compiled", dense.compiled) if faster else (name, run)


def _timer(dense: Dense, run: Run, images: Tensor, batch: int) -> Callable[[], float]:
    def timed() -> float:
        dense.seconds(run, images[: max(batch, len(images) // 4)], batch)
        return dense.seconds(run, images, batch)

    return timed


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device

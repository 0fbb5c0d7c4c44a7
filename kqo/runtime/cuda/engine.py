"""Runs an emitted CUDA program: views once per input, then batches of queries."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from kqo.emit.cuda import emit_cuda
from kqo.emit.cuda_program import Kernel, Launch, Program
from kqo.emit.cuda_rows import PADDING_ROWS
from kqo.emit.cuda_step import opening, render
from kqo.errors import ArgumentError, DeviceError
from kqo.ir.boxes import Boxes, with_untouched
from kqo.ir.schema import shape
from kqo.planner.physical import PhysicalPlan, Table
from kqo.runtime.cuda.buffers import Buffers, Capacities
from kqo.runtime.cuda.device import Device, Grid
from kqo.runtime.cuda.regions import bind_regions
from kqo.runtime.engine import Progress
from kqo.runtime.finite import are_finite
from kqo.runtime.plain import layout
from kqo.runtime.timing import Timings

MOST_QUERIES = 512
SHARE = 0.6
"""Of the free memory that a run takes at most where it was given no budget."""
ENOUGH = 512 << 20
"""Bytes beyond which larger batches bring little: every launch fills the device by then."""
BINDERS = 128
"""Threads of a block of the kernels that every plan has."""
CHECKERS = 64
"""Blocks that look through one view."""
OWN_KERNELS = ("next_batch", "bind_rows", "check_views")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Timed:
    """What one launch took.

    Attributes:
        step: number of the plan's step, or -1 for whole outputs and row numbers.
        kernel: its name.
        milliseconds: by the device's events.
        delta: whether it runs per batch, not per input.
    """

    step: int
    kernel: str
    milliseconds: float
    delta: bool


class CudaEngine:
    """A physical plan bound to positions, on a device. It serves any inputs, one at a time.

    Args:
        plan: the physical plan.
        changed: the region relation of each base relation, over the axes of its Scan.
        device: where it runs.
        precision: of matrix products: float32, tf32 or float16.
        memory: bytes for rows and scratch; by default a share of the device's free memory.
        batch: queries per batch, in place of a choice by memory.

    Raises:
        DeviceError: a float64 plan, or one that does not fit the device's memory.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        changed: Mapping[str, Boxes],
        *,
        device: Device,
        precision: str = "float32",
        memory: int | None = None,
        batch: int | None = None,
    ) -> None:
        self.plan = plan
        self.device = device
        self.changed = with_untouched(changed)
        self.queries = next(iter(self.changed.values())).queries
        self.workers = 1
        self.regions = bind_regions(plan, self.changed)
        self.program: Program = emit_cuda(plan, self.regions.shapes, precision)
        self.memory = memory
        self.batch = batch or self._choose_batch(memory)
        self._lock = threading.Lock()
        self._functions: dict[str, Any] | None = None
        self._constants: dict[str, Any] = {}
        self._buffers: Buffers | None = None
        self._again: Callable[[], None] | None = None
        self._finite = True

    @property
    def source(self) -> str:
        """The CUDA source, all kernels."""
        return self.program.source

    @property
    def distinct(self) -> dict[int, Boxes]:
        """No step computes equal rows once: rows of a window are not what takes time here."""
        return {}

    @property
    def boxes(self) -> dict[int, Boxes]:
        """Rows of each table that has delta rows."""
        return {t: self.regions.tables[r].boxes for t, r in self.regions.of.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of rows, scratch and results held on the device, without constants."""
        return self._buffers.nbytes if self._buffers is not None else 0

    def views_are_finite(self) -> bool:
        """Whether no value of a base relation or view of the last run is NaN or infinite, as far as
        that may have made results wrong: some forms spread such values, and float16 overflows."""
        return self._finite or not self._spreading

    @cached_property
    def _spreading(self) -> bool:
        constants = self.program.constants.values()  # zeros of padding meet those that are kernels
        half = self.program.precision == "float16"
        return half or self.program.spreading or not are_finite(constants)

    def bytes_at(self, batch: int) -> int:
        """Bytes of rows and scratch for a size of batch, without constants and results."""
        return Capacities(self.plan, self.program, self.regions, batch).nbytes

    @property
    def least_bytes(self) -> int:
        """Bytes of rows and scratch for one query at a time."""
        return self.bytes_at(1)

    @property
    def planned_bytes(self) -> int:
        """Bytes of rows and scratch for the batch that was chosen."""
        return self.bytes_at(self.batch)

    @property
    def result_bytes(self) -> int:
        """Bytes of the outputs of all queries."""
        return 4 * self.queries * sum(math.prod(shape(axes)) for _, _, axes in self.plan.roots)

    def _choose_batch(self, memory: int | None) -> int:
        held = sum(int(c.nbytes) for c in self.program.constants.values())
        held += 2 * self.result_bytes  # once to be written by batches, once to be returned
        free = int(SHARE * (self.device.free_bytes() - held))
        budget = memory or min(free, max(ENOUGH, 4 * self.bytes_at(1)))
        size = min(MOST_QUERIES, self.queries)
        while size > 1 and self.bytes_at(size) > budget:
            size //= 2
        count = -(-self.queries // size)
        return -(-self.queries // count)

    def _load(self) -> dict[str, Any]:
        if self._functions is None:
            text = opening(self.program.precision) + render("bind")
            own = {name: Kernel(name, text, BINDERS) for name in OWN_KERNELS}
            self._functions = self.device.load({**self.program.kernels, **own})
        if not self._constants:
            xp = self.device.xp
            self._constants = {k: xp.asarray(v) for k, v in self.program.constants.items()}
        return self._functions

    def _allocate(self) -> Buffers:
        """Memory for the batch and for the results of all queries."""
        self._load()
        if self._buffers is None:
            self._buffers = Buffers(
                self.device,
                self.plan,
                self.program,
                self.regions,
                constants=self._constants,
                batch=self.batch,
            )
        for name, _, axes in self.plan.roots:
            if name not in self._buffers.results:
                full = (self.queries, *shape(axes))
                self._buffers.results[name] = self.device.xp.empty(
                    full, dtype=self.device.xp.float32
                )
        return self._buffers

    def _fitting(self, work: Callable[[], Found]) -> Found:
        """What ``work`` returns, on the device; with half the batch as long as memory runs out."""
        with self._lock:
            while True:
                try:
                    with self.device.active():
                        return work()
                except self.device.out_of_memory:
                    pass  # until the error is gone, its frames hold the arrays
                self._halve()

    def prepare(self) -> None:
        """Load kernels and take the memory of a batch, so that it is known that the device can.

        Raises:
            DeviceError: it cannot.
        """
        self._fitting(self._prepare)

    def _prepare(self) -> None:
        buffers = self._allocate()
        buffers.state.fill(0)
        self._bind_batch(buffers)
        self.device.record().synchronize()

    def _halve(self) -> None:
        """Go on with half the batch; DeviceError where it is one query already."""
        self._buffers = self._again = None  # and with them the results
        self.device.release()
        if self.batch == 1:
            raise DeviceError(
                f"{self.plan.name}: one query does not fit the memory of {self.device.name}",
                hint="target='numpy'",
            )
        self.batch = -(-self.batch // 2)

    def _launch(self, launch: Launch, buffers: Buffers) -> None:
        kernel = self.program.kernels[launch.kernel]
        items = buffers.capacities.items(launch.extent)
        blocks = -(-items * launch.width // launch.per_block) * launch.columns
        if blocks == 0:
            return
        assert self._functions is not None
        self.device.launch(
            self._functions[launch.kernel],
            (blocks, 1, launch.layers),
            kernel.threads,
            kernel.shared_bytes(self.device.capability),
            [buffers.argument(a) for a in launch.args],
        )

    def _bind_batch(self, buffers: Buffers) -> None:
        """Row numbers of the next batch."""
        assert self._functions is not None
        given = [buffers.state, buffers.schedule, buffers.width]
        self.device.launch(self._functions["next_batch"], (1, 1, 1), BINDERS, 0, given)
        if not buffers.entries:
            return
        grid: Grid = (self.batch * buffers.most_boxes, buffers.entries, 1)
        tables = [buffers.state, buffers.about, buffers.extents, buffers.pool, buffers.points]
        self.device.launch(self._functions["bind_rows"], grid, BINDERS, 0, tables)

    def _check_views(self, buffers: Buffers) -> None:
        """Note in the state whether a view holds NaN or infinity."""
        assert self._functions is not None
        grid: Grid = (CHECKERS, len(buffers.spans), 1)
        given = [buffers.state, buffers.spans, buffers.rows]
        self.device.launch(self._functions["check_views"], grid, BINDERS, 0, given)

    def _run_batch(self, buffers: Buffers) -> None:
        self._bind_batch(buffers)
        for launch in (*self.program.deltas, *self.program.roots):
            self._launch(launch, buffers)

    def _fill(self, buffers: Buffers, table: Table, value: Any) -> None:
        """Write a whole relation, shaped as its axes, into the table's view rows."""
        order = [int(i) for i in _inverse(layout(table.axes))]
        rows = value.transpose(order).reshape(table.rows, table.columns)
        buffers.tables[table.id][PADDING_ROWS : PADDING_ROWS + table.rows] = rows

    def _start(self, inputs: Mapping[str, Any]) -> Buffers:
        """Memory, inputs and views, ready for the first batch."""
        buffers = self._allocate()
        for table in self.plan.tables:
            if table.id in self.plan.scans:
                value = inputs.get(table.name)
                if value is None or tuple(value.shape) != shape(table.axes):
                    given = "nothing" if value is None else f"shape {tuple(value.shape)}"
                    accepted = f"an array of shape {shape(table.axes)}"
                    raise ArgumentError(table.name, given, accepted)
                self._fill(buffers, table, self.device.asarray(value))
            elif table.view and table.name in self.plan.constants:
                self._fill(buffers, table, self.device.asarray(self.plan.constants[table.name]))
        buffers.state.fill(0)
        return buffers

    def run(
        self,
        inputs: Mapping[str, Any],
        progress: Progress | None = None,
        timings: Timings | None = None,
        *,
        on_device: bool = False,
    ) -> dict[str, Any]:
        """Answer all queries for one input.

        Args:
            inputs: each base relation's values, shaped as its axes: NumPy or CuPy arrays, or torch
                tensors; those on the GPU are not copied to the computer.
            progress: called with the number of queries done and their total.
            timings: filled with what each step takes, by the device's events: views once, and one
                batch times the number of batches.
            on_device: return CuPy arrays rather than NumPy arrays; NumPy arrays nevertheless where
                the device has no memory for them beside its own.

        Returns:
            for each output an array (queries + 1, *axes): the last row is for the untouched input.

        Raises:
            ArgumentError: an input is missing or has another shape.
            DeviceError: one query does not fit the device's memory, or the device fails.
        """
        if timings is not None:
            self._note(self.analyze(inputs), timings)
        began = time.perf_counter()
        answers = self._fitting(lambda: self._run(inputs, progress, on_device))
        if timings is not None:
            timings.wall = time.perf_counter() - began
        return answers

    def _note(self, measured: list[Timed], timings: Timings) -> None:
        timings.share(1)
        timings.clock = "device time"
        batches = -(-self.queries // self.batch)
        for timed in measured:
            if timed.step >= 0:
                seconds = timed.milliseconds / 1e3 * (batches if timed.delta else 1)
                timings.note(0, timed.step, 0.0, 0.0, seconds)

    def _run(
        self, inputs: Mapping[str, Any], progress: Progress | None, on_device: bool
    ) -> dict[str, Any]:
        buffers = self._start(inputs)
        for launch in self.program.views:
            self._launch(launch, buffers)
        self._check_views(buffers)
        before = None
        for number in range(-(-self.queries // self.batch)):
            self._next(buffers, number)
            if progress is None:
                continue
            event = self.device.record()
            if before is not None:  # one batch stays under way while the one before is reported
                before.synchronize()
                progress(number * self.batch, self.queries - 1)
            before = event
        if progress is not None and before is not None:
            before.synchronize()
            progress(self.queries - 1, self.queries - 1)
        self._finite = not int(self.device.numpy(buffers.state[3:4])[0])
        if not on_device:
            return {name: self.device.numpy(value) for name, value in buffers.results.items()}
        answers = {name: self._kept(value) for name, value in buffers.results.items()}
        self.device.record().synchronize()  # the caller's stream would not wait
        return answers

    def _kept(self, result: Any) -> Any:
        """A copy of a result, which the next run overwrites: where there is memory for it."""
        try:
            return result.copy()
        except self.device.out_of_memory:
            return self.device.numpy(result)

    def _next(self, buffers: Buffers, number: int) -> None:
        """Run the next batch: the first one as it is, later ones as a graph captured then."""
        if self._again is not None:
            self._again()
            return
        self._run_batch(buffers)
        if number > 0:
            self._again = self.device.capture(lambda: self._run_batch(buffers))

    def analyze(self, inputs: Mapping[str, Any]) -> list[Timed]:
        """What each launch takes: views, and one batch.

        Raises:
            ArgumentError: an input is missing or has another shape.
            DeviceError: one query does not fit the device's memory, or the device fails.
        """
        return self._fitting(lambda: self._analyze(inputs))

    def _analyze(self, inputs: Mapping[str, Any]) -> list[Timed]:
        buffers = self._start(inputs)
        found = [self._time(launch, buffers, False) for launch in self.program.views]
        took = self.device.milliseconds(lambda: self._bind_batch(buffers))
        found.append(Timed(-1, "bind_rows", took, True))
        found += self._time_all(self.program.deltas, buffers)
        found += self._time_all(self.program.roots, buffers)
        return found

    def _time_all(self, launches: Iterable[Launch], buffers: Buffers) -> list[Timed]:
        return [self._time(launch, buffers, True) for launch in launches]

    def _time(self, launch: Launch, buffers: Buffers, delta: bool) -> Timed:
        took = self.device.milliseconds(lambda: self._launch(launch, buffers))
        return Timed(launch.step, launch.kernel, took, delta)


def _inverse(order: list[int]) -> list[int]:
    """From the order of the axes to (positions..., features...)."""
    return sorted(range(len(order)), key=lambda i: order[i])

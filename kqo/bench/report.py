"""One benchmark: a plan and dense engines in turns, and what came of it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import kqo
from kqo.bench.dense import (
    BATCHES,
    Engine,
    best_batch,
    onnx_engine,
    time_engine,
    torch_engine,
)
from kqo.bench.memory import peak_memory
from kqo.workloads import Occlusion, Regions, Workload, changed_inputs

if TYPE_CHECKING:
    from rich.table import Table

    from kqo.api import CompiledPlan
    from kqo.runtime.result import Result

Array = NDArray[np.float32]
MEMORY_BATCH = 16
SETTLING = 0.1
"""Seconds before each turn. Threads of the engine before spin for up to 0.05 s after its run (ONNX
Runtime; PyTorch's 0.01 s), on the cores that the next one needs."""


@dataclass(frozen=True)
class Row:
    """One engine.

    Attributes:
        engine: its name.
        batch: the batch size it was timed at: its best; None where it chooses by itself.
        ms: milliseconds per position.
        ratio: its time over the plan's.
        peak: bytes that its first run takes beyond what was held before; of dense engines at batch
            16. None where it was not measured.
        note: why it has no figures, otherwise empty.
    """

    engine: str
    batch: int | None
    ms: float | None
    ratio: float | None
    peak: int | None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        model: name of the plan.
        positions: queries of the workload.
        sampled: queries that the dense engines ran, on which errors are measured too.
        repeats: timed rounds; figures are their medians.
        error: largest difference from PyTorch at the sampled queries, over the largest output.
        change_error: the same over the largest change of an output by a query.
        tolerance: what the plan promises of the first of the two.
        bound: how many times fewer multiply-adds the plan needs than full re-inference, both by
            direct convolution.
        rows: the plan first.
        machine: where it was measured.
        preparing: seconds that compiling and planning took, once for all inputs; None where that
            was not measured.
    """

    model: str
    positions: int
    sampled: int
    repeats: int
    error: float
    change_error: float
    tolerance: float
    bound: float
    rows: tuple[Row, ...]
    machine: dict[str, Any]
    preparing: float | None = None

    @property
    def within_tolerance(self) -> bool:
        """Whether the plan keeps its promise; NaN does not."""
        return self.error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "within_tolerance": self.within_tolerance}

    @property
    def _prepared(self) -> str:
        if self.preparing is None or self.rows[0].ms is None:
            return ""
        share = self.preparing / (self.rows[0].ms * self.positions / 1e3)
        return f" Compiling and planning took {self.preparing:.2f} s once, {share:.1%} of the grid."

    @property
    def _broken(self) -> str:
        return "" if self.within_tolerance else f": ABOVE THE STATED {self.tolerance:.0e}"

    def table(self) -> Table:
        """For people, on a terminal."""
        from rich.table import Table

        table = Table(
            title=f"{self.model}: {self.positions} positions",
            caption=(
                f"Medians of {self.repeats}. Dense engines ran {self.sampled} positions at their"
                " best batch size; their whole grid is that time for every position. Worst error"
                f" {self.error:.1e} of the largest output, {self.change_error:.1e} of the largest"
                f" change{self._broken}. The bound is {self.bound:.1f}x fewer multiply-adds; its"
                f" column says what share of it the ratio is.{self._prepared}"
            ),
        )
        table.add_column("engine")
        for name in ("batch", "ms each", "grid", "ratio", "bound", "memory"):
            table.add_column(name, justify="right")
        for row in self.rows:
            if row.ms is None:
                table.add_row(row.engine, "", row.note, "", "", "", "")
                continue
            table.add_row(
                row.engine,
                "" if row.batch is None else str(row.batch),
                f"{row.ms:.2f}",
                f"{row.ms * self.positions / 1e3:.1f} s",
                "" if row.ratio is None else f"{row.ratio:.2f}x",
                "" if row.ratio is None else f"{row.ratio / self.bound:.0%}",
                "" if row.peak is None else f"{row.peak / 1e6:.0f} MB",
            )
        return table


def measure(
    plan: CompiledPlan,
    module: nn.Module,
    image: Array,
    *,
    workload: Workload,
    batches: Sequence[int] = BATCHES,
    sample: int = 64,
    repeats: int = 3,
    threads: int | None = None,
    seed: int = 0,
    preparing: float | None = None,
) -> Report:
    """Time a plan and the dense engines in turns, in this process.

    The plan runs the whole workload. The dense engines, whose time does not depend on the position,
    run ``sample`` of its queries, which also give the errors.

    Args:
        plan: the plan.
        module: its model, in eval mode.
        image: one input, (C, H, W).
        workload: the plan's workload.
        batches: batch sizes to try for the dense engines.
        sample: queries for the dense engines; at most all of them.
        repeats: rounds.
        threads: of the dense engines. None: torch's own choice.
        seed: of the choice of queries.
        preparing: seconds that compiling and planning took, to be told.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    placed = workload.resolve(image.shape)
    chosen = np.random.default_rng(seed).permutation(len(placed))[: max(sample, *batches)]
    images = changed_inputs(workload, image, chosen)
    checked = np.sort(np.arange(len(chosen))[:sample])
    dense = torch_engine(module)
    engines = [dense]
    onnx, reason = onnx_engine(module, image.shape, threads)
    if onnx is not None:
        engines.append(onnx)
    _ = plan.source  # planned now, so that the run is measured and not the planning
    peaks = {"kqo": _plan_peak(plan, image)}
    peaks.update((e.name, _dense_peak(e, images[:MEMORY_BATCH])) for e in engines)
    best = {e.name: best_batch(e, images, _fitting(batches, len(images)), 1).batch for e in engines}
    seconds: dict[str, list[float]] = {"kqo": [], **{e.name: [] for e in engines}}
    for _ in range(repeats):
        time.sleep(SETTLING)
        began = time.perf_counter()
        result = plan.run(image[None])
        seconds["kqo"].append((time.perf_counter() - began) / len(placed))
        for engine in engines:
            time.sleep(SETTLING)
            timing = time_engine(engine, images[checked], best[engine.name])
            seconds[engine.name].append(timing.seconds)
    expected = np.concatenate([dense.run(images[i : i + 1]) for i in checked])
    own = statistics.median(seconds["kqo"])
    rows = [Row("kqo", None, own * 1e3, None, peaks["kqo"])]
    for engine in engines:
        taken = statistics.median(seconds[engine.name])
        peak = peaks[engine.name]
        rows.append(Row(engine.name, best[engine.name], taken * 1e3, taken / own, peak))
    if onnx is None:
        rows.append(Row("ONNX Runtime", None, None, None, None, reason))
    return Report(
        plan.name,
        len(placed),
        len(checked),
        repeats,
        *errors(result, chosen[checked], expected),
        plan.options.stated_tolerance,
        plan.subject().multiply_adds.fewer,
        tuple(rows),
        machine(),
        preparing,
    )


def timed_compile(
    model: Any,
    shape: Sequence[int],
    workload: Occlusion | Regions,
    options: kqo.Options | None,
    name: str,
) -> tuple[CompiledPlan, float]:
    """A plan for an image of a shape, and the seconds that compiling and planning it took.

    A small model is compiled before it, so that rules and parts of PyTorch are loaded, which each
    process does once.
    """
    small = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    _ = kqo.compile(small, (torch.zeros(1, 3, 8, 8),), kqo.Occlusion(3, 2)).source
    example = (torch.zeros((1, *shape)),)
    began = time.perf_counter()
    plan = kqo.compile(model, example, workload, options=options, name=name)
    _ = plan.source
    return plan, time.perf_counter() - began


def errors(
    result: Result, queries: NDArray[np.int64], expected: NDArray[Any]
) -> tuple[float, float]:
    """The largest difference of a result from what is expected at some queries, over the largest
    output and over the largest change of an output."""
    difference = np.abs(result.scores[queries] - expected).max()
    change = np.abs(expected - result.original).max()
    relative = float(difference / change) if change else 0.0
    return float(difference / np.abs(expected).max()), relative


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _fitting(batches: Sequence[int], images: int) -> list[int]:
    return [batch for batch in batches if batch <= images] or [images]


def _plan_peak(plan: CompiledPlan, image: Array) -> int | None:
    with peak_memory() as peak:
        plan.run(image[None])
    return peak.bytes


def _dense_peak(engine: Engine, images: Array) -> int | None:
    with peak_memory() as peak:
        engine.run(images)
    return peak.bytes

"""How near predicted times are to measured ones: ``python -m kqo.bench.predictions [MODEL...]``.

Runs on one thread, and compares processor times, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kqo.api import CompiledPlan, compile
from kqo.explain.text import duration
from kqo.ir.schema import shape
from kqo.options import Options
from kqo.runtime.timing import Timings
from kqo.workloads import Occlusion
from kqo.zoo import NAMES

LONG = 20.0
"""Seconds from which on one run is timed, without one before it."""


@dataclass(frozen=True)
class Compared:
    """One plan: processor seconds per input, as predicted and as measured."""

    model: str
    window: int
    stride: int
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1

    def __str__(self) -> str:
        return (
            f"{self.model:14} {self.window:6} {self.stride:6} {duration(self.predicted):>10} "
            f"{duration(self.measured):>10} {self.error:+7.1%}"
        )


def compare(plan: CompiledPlan) -> tuple[float, float]:
    """Processor seconds per input, as predicted and as measured (the better of two short runs)."""
    subject, engine = plan.subject(), plan.engine
    steps = range(len(subject.physical.steps))
    predicted = sum(step.seconds for step in subject.prediction.steps)
    generator = np.random.default_rng(0)
    inputs = {
        scan.name: generator.standard_normal(shape(scan.axes)).astype(np.float32)
        for scan in plan.logical.scans
    }
    measured = float("inf")
    for _ in range(1 if predicted > LONG else 2):
        timings = Timings(len(steps))
        engine.run(inputs, timings=timings)
        measured = min(measured, sum(timings.of(n) for n in steps))
    return predicted, measured


def compared(
    models: Sequence[str], windows: Sequence[int], strides: Sequence[int]
) -> Iterator[Compared]:
    """Each model with each window and stride, on one thread."""
    import torch

    from kqo.interop.models import resolve_model

    for name in models:
        found = resolve_model(name, None, None)
        example = (torch.zeros((1, *found.shape)),)
        for stride in strides:
            for window in windows:
                asked = Occlusion(window, stride)
                plan = compile(found.model, example, asked, Options(threads=1), name=name)
                yield Compared(name, window, stride, *compare(plan))


def main() -> None:
    """Print a table, its median error and its worst."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(NAMES))
    parser.add_argument("--windows", default="8,16,32")
    parser.add_argument("--strides", default="8,4")
    given = parser.parse_args()
    windows, strides = (
        [int(word) for word in text.split(",")] for text in (given.windows, given.strides)
    )
    print(
        f"{'model':14} {'window':>6} {'stride':>6} {'predicted':>10} {'measured':>10} {'error':>7}"
    )
    errors = []
    for row in compared(given.models, windows, strides):
        print(row, flush=True)
        errors.append(abs(row.error))
    print(f"error: median {statistics.median(errors):.1%}, worst {max(errors):.1%}")


if __name__ == "__main__":
    main()

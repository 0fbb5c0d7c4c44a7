"""Measures a GPU's rates with the kernels that plans run there, by the device's own events."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kqo.ir.nodes import Physical
from kqo.ir.text import parse_plan
from kqo.lang.ruleset import load_rules
from kqo.planner import calibrate as kept
from kqo.planner.choose import Chooser
from kqo.planner.cost import work
from kqo.planner.cuda_rates import GpuRates, cuda_rates
from kqo.planner.estimate import tiles_of
from kqo.planner.physical import Step
from kqo.planner.rates import REFERENCE, Rates
from kqo.rewrite.memo import explore
from kqo.runtime.cuda.device import Device
from kqo.runtime.cuda.engine import CudaEngine
from kqo.workloads import Regions
from kqo.workloads.base import changed_scan

ROUNDS = 5
ELEMENTS = 1 << 24
"""Values that a measured step writes: several times what the caches of GPUs hold."""
PRODUCT = """plan product float32
a = Scan(axes: (c:{inner}, x:{rows}))
w = Const(axes: (c:{wide}, i:{inner}))
%0 = Join(left: a, right: w, on: [c = i], axes: (), combine: mul)
%1 = Group(input: %0, by: (c, x), agg: sum)
return output = %1
"""
WINDOW = """plan window float32
a = Scan(axes: (c:{wide}, y:{side}, x:{side}))
w = Const(axes: (c:{wide}, i:{wide}, ky:3, kx:3))
%0 = Join(left: a, right: w, on: [c = i, y = y + ky - 1, x = x + kx - 1],
  axes: (y:{side}, x:{side}), combine: mul)
%1 = Group(input: %0, by: (c, y, x), agg: sum)
return output = %1
"""
POOL = """plan pool float32
a = Scan(axes: (c:{wide}, y:{side}, x:{side}))
%0 = Domain(axes: (ky:3, kx:3))
%1 = Join(left: a, right: %0, on: [y = y + ky - 1, x = x + kx - 1], axes: (y:{side}, x:{side}),
  combine: left)
%2 = Group(input: %1, by: (c, y, x), agg: max)
return output = %2
"""
ROWS = """plan rows float32
a = Scan(axes: (c:{wide}, x:{rows}))
{b}%0 = {what}
return output = %0
"""


@dataclass(frozen=True)
class Measured:
    """The step of a plan with one step that ran, and the seconds of each of its kernels."""

    step: Step
    rows: int
    tiles: int
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.seconds.values())


def calibrate_gpu(
    device: Device,
    precision: str,
    progress: Callable[[str], None] | None = None,
    elements: int = ELEMENTS,
) -> Rates:
    """Measure the rates of a GPU for products in a precision; takes some seconds, most of them to
    compile kernels.

    Args:
        device: the GPU.
        precision: float32, tf32 or float16.
        progress: called with the name of what is measured next.
        elements: values that each measured step writes.
    """
    say = progress or (lambda name: None)
    measure = _Measure(device, precision)
    given = cuda_rates(precision)
    say(f"matrix products in {precision}")
    table = tuple(
        tuple(_product(measure, inner, wide, elements) for wide in REFERENCE.wide)
        for inner in REFERENCE.inner
    )
    say("elementwise operations")
    rows = max(16, elements // 128)
    count = 128 * rows
    relu, exponential = "Map(input: a, fn: max(v, 0))", "Map(input: a, fn: exp(v))"
    scalar = measure(ROWS, what=relu, b="", wide=128, rows=rows).total
    function = measure(ROWS, what=exponential, b="", wide=128, rows=rows).total
    other = f"b = Scan(axes: (c:128, x:{rows}))\n"
    join = "Join(left: a, right: b, on: [], axes: (), combine: add)"
    pairs = measure(ROWS, what=join, b=other, wide=128, rows=rows).total
    say("gathers")
    side = max(4, int((elements // 128) ** 0.5))
    pool = measure(POOL, wide=128, side=side)
    counted = work(pool.step.form, pool.step.node, pool.rows)
    gathering = max(pool.total - counted.pairs * pairs / count, pool.total / 4)
    say("launches")
    launch = measure(PRODUCT, inner=4, wide=4, rows=4).total
    found = replace(
        given,
        gemm=table,
        panel=counted.gathered / gathering,
        gather=counted.gathered / gathering,
        scalar=count / scalar,
        vector=count / scalar,
        stream=count / pairs,
        function=count / function,
        bind=launch,
        source="calibrated",
    )
    if precision != "float32":
        return found
    say("Winograd")
    tiled = measure(WINDOW, without=("GatherProduct",), wide=128, side=side)
    counted = work(tiled.step.form, tiled.step.node, tiled.rows, tiled.tiles)
    products = sum(s for name, s in tiled.seconds.items() if "products" in name)
    return replace(
        found,
        batched=counted.batched / products,
        transform=counted.transforms / (tiled.total - products),
    )


def _product(measure: _Measure, inner: int, wide: int, elements: int) -> float:
    rows = max(16, elements // max(inner, wide))
    found = measure(PRODUCT, inner=inner, wide=wide, rows=rows)
    return 2 * rows * inner * wide / found.total


@dataclass(frozen=True)
class _Measure:
    """Times the view step of a plan with one step."""

    device: Device
    precision: str

    def __call__(self, text: str, without: tuple[str, ...] = (), **sizes: Any) -> Measured:
        generator = np.random.default_rng(0)
        text = text.format(**sizes)
        constants = {}
        if "Const(" in text:
            taps = (3, 3) if "ky:3" in text else ()
            wide, inner = sizes["wide"], sizes.get("inner", sizes["wide"])
            weights = generator.standard_normal((wide, inner, *taps), dtype=np.float32)
            constants["w"] = weights / np.float32(inner)
        plan = parse_plan(text, constants)
        scan = changed_scan(plan, 0)
        workload = Regions([[tuple((0, 1) for _ in scan.axes[1:])]])
        placed = workload.resolve(tuple(a.extent or 1 for a in scan.axes))
        changed = {scan.name: placed.boxes(scan.axes)}
        asked = workload.apply(plan)
        rules = load_rules().without("WinogradProductBy2", "WinogradProductBy6", *without)
        chooser = Chooser(asked, explore(asked, rules, {}), changed, cuda_rates(self.precision))
        physical = chooser.choose()
        engine = CudaEngine(physical, changed, device=self.device, precision=self.precision)
        inputs = {
            s.name: generator.standard_normal([a.extent or 1 for a in s.axes], dtype=np.float32)
            for s in plan.scans
        }
        number, step = next(
            (i, s) for i, s in enumerate(physical.steps) if not s.delta and s.form != "plain"
        )
        engine.analyze(inputs)
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for timed in engine.analyze(inputs):
                if timed.step == number:
                    times.setdefault(timed.kernel, []).append(timed.milliseconds / 1e3)
        node = dict(plan.roots)["output"]
        tiles = 0
        if step.form == "winograd" and isinstance(step.node, Physical):
            tiles = tiles_of(chooser.boxes(node), step.node, smaller=False)
        seconds = {name: max(median(t), 1e-9) for name, t in times.items()}
        return Measured(step, physical.tables[step.table].rows, tiles, seconds)


def rates_file(device: str, precision: str) -> Path:
    """Where the rates of a GPU are kept.

    Args:
        device: the GPU's name.
        precision: of products.
    """
    key = hashlib.sha256(f"{device} {precision}".encode()).hexdigest()[:16]
    return kept.cache_file().parent / f"rates-cuda-{key}.json"


def gpu_rates(device: str, precision: str) -> Rates:
    """The rates of a GPU where it was calibrated, else those that data sheets suggest; the latter
    always where ``KQO_RATES`` is ``reference``."""
    if os.environ.get(kept.VARIABLE) == "reference":
        return cuda_rates(precision)
    found = kept.read(rates_file(device, precision))
    return GpuRates.from_dict(found.to_dict()) if found else cuda_rates(precision)

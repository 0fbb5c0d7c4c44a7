"""Random plans of any shape as CUDA, against the interpreter and against their regions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kqo.errors import KqoError, PlanError
from kqo.ir.boxes import Boxes
from kqo.ir.interpret import interpret
from kqo.ir.schema import shape
from kqo.ir.text import format_plan
from kqo.lang.compile import CompiledRule
from kqo.lang.ruleset import RuleSet, load_rules
from kqo.planner.cuda_rates import cuda_rates
from kqo.planner.physical import PhysicalPlan
from kqo.prove.choices import Recorded
from kqo.prove.plans import Instance
from kqo.prove.prover import TRIES, _generate
from kqo.prove.run import _Preferring, boxes_of, without_overlays
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from kqo.runtime.cuda.device import Device
from kqo.runtime.cuda.engine import CudaEngine
from kqo.runtime.cuda.regions import RegionTable
from kqo.workloads.base import changed_scan

JUMPS = ("combine: gt", "combine: ge", "combine: eq", "floor(", "ceil(", "round(", "sign(", "gt(")
"""What falls to either side of a rounding error."""
SLACK = 1e-4


@dataclass(frozen=True)
class Planned:
    """A random plan as kqo would run it on a GPU, by whatever a rule offers.

    Attributes:
        physical: the physical plan, in float32.
        changed: the regions that queries change.
        fired: whether the rule had a part in it.
    """

    physical: PhysicalPlan
    changed: Mapping[str, Boxes]
    fired: bool


def planned(instance: Instance, rules: RuleSet, preferred: str = "") -> Planned | None:
    """None where nothing changes, or where there is no form for what the plan asks, on NumPy
    either."""
    plan = without_overlays(instance.plan)
    if plan is None:
        return None
    try:
        normal, trace = normalize(plan, rules)
        memo = explore(normal, rules)
        scan = changed_scan(normal, 0)
        regions = instance.regions[scan.name]
        changed = {scan.name: boxes_of(scan.axes, regions)}
        chooser = _Preferring(normal, memo, changed, cuda_rates("float32"))
        chooser.preferred = preferred
        physical = replace(chooser.choose(), dtype="float32")
    except PlanError:
        return None
    fired = any(a.rule == preferred for found in (trace, memo.trace) for a in found)
    return Planned(physical, changed, fired)


def instances(rule: CompiledRule, seed: int, count: int) -> Iterator[Instance]:
    """Random plans after a rule's pattern."""
    for number in range(count):
        found = _generate(Recorded(random.Random(f"{seed} {rule.name} {number}")), rule)
        if found is not None:
            yield found


def check_rule(
    rule: CompiledRule, device: Callable[[], Device], *, examples: int, seed: int
) -> int:
    """Hold what is emitted for what a rule offers against the interpreter; returns on how many
    plans."""
    rules, ran = load_rules(), 0
    for instance in instances(rule, seed, TRIES * examples):
        wanted = _wanted(instance)
        try:
            found = planned(instance, rules, rule.name) if wanted else None
        except KqoError:
            continue
        if wanted is None or found is None or not found.fired:
            continue
        engine = CudaEngine(found.physical, found.changed, device=device())
        for name, values in engine.run(instance.scans).items():
            full = np.broadcast_to(wanted[name], values[:-1].shape)
            slack = SLACK * max(1.0, float(np.abs(full).max(initial=0)))
            text = format_plan(instance.plan)
            np.testing.assert_allclose(values[:-1], full, rtol=0, atol=slack, err_msg=text)
        ran += 1
        if ran == examples:
            break
    return ran


def _wanted(instance: Instance) -> dict[str, np.ndarray] | None:
    """What the interpreter answers, where float32 can be expected to."""
    plan = without_overlays(instance.plan)
    if plan is None or any(word in format_plan(plan) for word in JUMPS):
        return None
    with np.errstate(all="ignore"):
        found = interpret(plan, instance.scans, instance.regions)
    small = all(np.isfinite(v).all() and np.abs(v).max(initial=0) < 1e4 for v in found.values())
    return found if small else None


def check_rows(instance: Instance, device: Device) -> int:
    """Hold the delta rows that a device numbers against their regions; returns how many."""
    found = planned(instance, load_rules())
    if found is None:
        return 0
    batch, seen = 2, 0
    engine = CudaEngine(found.physical, found.changed, device=device, batch=batch)
    with device.active():
        buffers = engine._allocate()
        buffers.state.fill(0)
        for first in range(0, engine.queries, batch):
            engine._bind_batch(buffers)
            points = device.numpy(buffers.points)
            for number, region in enumerate(engine.regions.tables):
                count = int(buffers.capacities.each[number][first // batch])
                start = buffers._points[number]
                keys = [(int(q), int(i)) for q, i in points[start : start + count]]
                assert set(keys) == _keys(region, range(first, min(first + batch, engine.queries)))
                assert len(set(keys)) == len(keys)
                seen += len(keys)
    return seen


def _keys(region: RegionTable, queries: range) -> set[tuple[int, int]]:
    found = set()
    for query in queries:
        mask = np.zeros(shape(region.positions), dtype=bool)
        for lo, hi in zip(region.boxes.lo[query], region.boxes.hi[query], strict=True):
            mask[tuple(slice(int(a), max(int(a), int(b))) for a, b in zip(lo, hi, strict=True))] = 1
        found |= {(query - queries.start, int(i)) for i in np.flatnonzero(mask)}
    return found

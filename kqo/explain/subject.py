"""What there is to explain: a plan at every stage, and what was decided on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kqo.errors import ArgumentError
from kqo.ir.boxes import Boxes
from kqo.ir.plan import Plan
from kqo.ir.region import Shrink, is_clipped
from kqo.planner.choose import Chooser
from kqo.planner.cost import work
from kqo.planner.estimate import Prediction, predict, reinference_seconds
from kqo.planner.physical import PhysicalPlan
from kqo.planner.rates import Rates
from kqo.planner.shrink import measured
from kqo.profile import COARSE, Drill, Expected
from kqo.rewrite.trace import Application, Trace

STAGES = ("logical", "normalized", "delta", "physical", "source")


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of direct convolution, which fast forms need fewer of.

    Attributes:
        deltas: of all queries' delta rows.
        views: of the views, once per input.
        full: of one full re-inference.
        queries: queries of the workload.
    """

    deltas: int
    views: int
    full: int
    queries: int

    @property
    def fewer(self) -> float:
        """How many times fewer the plan needs than full re-inference of every query."""
        return self.full * self.queries / max(1, self.deltas + self.views)


@dataclass(frozen=True)
class DrillDown:
    """A plan's queries in two stages: a coarse grid or the gradient, then those that this makes
    worth asking.

    Attributes:
        setting: how they are chosen.
        grid: shape of the wanted grid.
        coarse: queries of the first stage.
    """

    setting: Drill
    grid: tuple[int, ...]
    coarse: int

    @property
    def fine(self) -> int:
        """Queries of the second stage, at most."""
        return math.ceil(self.setting.share * (math.prod(self.grid) - self.coarse))


@dataclass(frozen=True)
class Stage:
    """A stage of a drill-down.

    Attributes:
        name: what its relation is called.
        operator: as a relational operator.
        queries: that it asks, at most.
        seconds: predicted, for one input.
    """

    name: str
    operator: str
    queries: int
    seconds: float


@dataclass(frozen=True)
class Subject:
    """A compiled plan, opened.

    Attributes:
        lowered: the logical plan as the frontend made it; None for a plan loaded from a file.
        normalizing: what the normalize rules did; None likewise.
        normalized: the plan after them.
        fired: names of the normalize rules, once per application.
        chooser: the alternatives, and the choice among them.
        physical: the plan that was chosen.
        source: the emitted Python source.
        boxes: for each table with delta rows its regions; the last query is the untouched input.
        queries: queries of the workload.
        batch: queries per batch.
        workers: threads.
        rates: of the machine, as the estimates use them.
        notes: sentences for the reader.
        approximations: parameters of approximate rules.
        drill: the stages in which queries are asked; None where all are.
        expected: what the profile lets expect that chose the parameters; None without one.
        distinct: rows that are computed by the steps that compute equal ones once, by step.
    """

    lowered: Plan | None
    normalizing: Trace | None
    normalized: Plan
    fired: tuple[str, ...]
    chooser: Chooser
    physical: PhysicalPlan
    source: str
    boxes: Mapping[int, Boxes]
    queries: int
    batch: int
    workers: int
    rates: Rates
    notes: tuple[str, ...]
    approximations: Mapping[str, Any]
    drill: DrillDown | None = None
    expected: Expected | None = None
    distinct: Mapping[int, Boxes] = field(default_factory=dict)

    @cached_property
    def cut(self) -> tuple[Shrink, ...]:
        """Regions that are cut as the plan runs, in its order."""
        return tuple(measured(self.physical).values())

    @property
    def approximate(self) -> tuple[str, ...]:
        """What makes results approximate: rules and options with their parameters; else empty."""
        found = []
        if any(t.region is not None and is_clipped(t.region) for t in self.physical.tables):
            found.append(f"ClipProjectiveField: tau = {self.approximations['tau']:g}")
        if self.cut:
            given = self.approximations["threshold"]
            if isinstance(given, Mapping):
                used = ", ".join(f"{part.layer} {part.threshold:g}" for part in self.cut)
            else:
                used = f"{given:g}"
            found.append(f"ClipByMagnitude: threshold = {used}")
        if self.drill is not None:
            found.append(f"drill-down: {self.drill.setting}")
        return tuple(found)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The plan of a drill-down as relational operators over its queries; else empty.

        A query costs the mean of all; the views belong to the first stage.
        """
        if self.drill is None:
            return ()
        setting = self.drill.setting
        pairs = zip(self.physical.steps, self.prediction.steps, strict=True)
        views = sum(e.seconds for s, e in pairs if not s.delta and s.once) / self.workers
        each = (self.prediction.seconds - views) / max(1, self.queries)
        rows = f"rows: {self.drill.fine}"
        fine, seconds = self.drill.fine, each * self.drill.fine
        if setting.first != COARSE:
            return (
                Stage("guess", "Gradient(score, times: change)", 0, views),
                Stage("fine", f"Limit(guess, order: score, {rows})", fine, seconds),
                Stage("heatmap", "Overlay(base: guess, patch: fine)", 0, 0.0),
            )
        axes = ["y", "x"] if len(self.drill.grid) == 2 else [f"p{n}" for n in range(9)]
        on = ", ".join(
            f"{axis} % {setting.step} = 0 or {axis} = {n - 1}"
            for axis, n in zip(axes, self.drill.grid, strict=False)
        )
        order = f"order: {setting.order}, {rows}"
        if setting.until is not None:
            order += f", until: SSIM {setting.until:g}"
        return (
            Stage(
                "coarse",
                f"Slice(queries, at: [{on}])",
                self.drill.coarse,
                views + each * self.drill.coarse,
            ),
            Stage("guess", "Interpolate(coarse, onto: queries)", 0, 0.0),
            Stage("fine", f"Limit(AntiJoin(guess, coarse), {order})", fine, seconds),
            Stage("heatmap", "Overlay(base: guess, patch: Union(coarse, fine))", 0, 0.0),
        )

    @cached_property
    def prediction(self) -> Prediction:
        """Estimates of the physical plan's steps."""
        return predict(
            self.physical,
            self.boxes,
            self.queries,
            batch=self.batch,
            workers=self.workers,
            rates=self.rates,
            distinct=self.distinct,
        )

    @cached_property
    def reinference(self) -> float:
        """Predicted seconds of running the whole model for each query instead."""
        args = (self.physical, self.boxes, self.queries, self.workers, self.rates)
        return reinference_seconds(*args)

    @cached_property
    def multiply_adds(self) -> MultiplyAdds:
        """Of the plan, and of full re-inference."""
        deltas = views = full = 0
        for step, estimate in zip(self.physical.steps, self.prediction.steps, strict=True):
            if not step.delta:
                views += estimate.work.macs
                continue
            deltas += estimate.work.macs
            full += work(step.form, step.node, self.physical.tables[step.table].rows).macs
        return MultiplyAdds(deltas, views, full, max(1, self.queries))

    def applications(self) -> tuple[Application, ...]:
        """All applications of rules that are known, in order."""
        before = () if self.normalizing is None else tuple(self.normalizing)
        return (*before, *self.chooser.memo.trace)

    def plan(self, stage: str) -> Plan:
        """The logical plan at a stage: logical, normalized or delta.

        Raises:
            ArgumentError: a stage that is no logical plan, or that a loaded plan lacks.
        """
        if stage == "logical":
            if self.lowered is None:
                given = "'logical', of a plan that was loaded from a file"
                hint = "a plan file holds the normalized plan; compile the model to see the other"
                raise ArgumentError("stage", given, ", ".join(STAGES[1:]), hint=hint)
            return self.lowered
        if stage == "normalized":
            return self.normalized
        if stage == "delta":
            from kqo.explain.delta import delta_plan

            return delta_plan(self.chooser)
        raise ArgumentError("stage", repr(stage), "logical, normalized or delta")

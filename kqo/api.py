"""The public API: compile a model for a workload, run the plan, look at it, keep it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kqo.answer import run_plan
from kqo.approximate.refine import refine_plan
from kqo.approximate.settle import settle, stages
from kqo.approximate.tune import tune_plan
from kqo.collecting import collecting_paused
from kqo.emit.source import emit
from kqo.errors import ArgumentError, PlanFileError
from kqo.explain.render import check_asked, explain
from kqo.explain.subject import Subject
from kqo.explain.text import torch_instead
from kqo.interop.preprocess import Preprocess
from kqo.ir.boxes import Boxes
from kqo.ir.plan import Plan
from kqo.ir.schema import shape
from kqo.lang.ruleset import RuleSet, rules_for
from kqo.options import Options
from kqo.planner.calibrate import current_rates
from kqo.planner.choose import Chooser
from kqo.planner.estimate import SURE
from kqo.planner.physical import PhysicalPlan
from kqo.planner.rates import REFERENCE
from kqo.planner.share import BATCH, shared
from kqo.planner.siblings import with_siblings
from kqo.profile import Expected, Profile, Threshold
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from kqo.rewrite.trace import Trace
from kqo.runtime import planfile
from kqo.runtime.arguments import take
from kqo.runtime.budget import check_budget
from kqo.runtime.cuda.device import check_target
from kqo.runtime.cuda.engine import CudaEngine
from kqo.runtime.cuda.target import gpu_engine, on_gpu
from kqo.runtime.engine import Engine
from kqo.runtime.finite import are_finite, spreads
from kqo.runtime.opaque import Functions
from kqo.runtime.planfile_checks import printable
from kqo.runtime.timing import Timings
from kqo.runtime.weights import Weights
from kqo.workloads import Occlusion, Placed, Regions, from_dict
from kqo.workloads.base import changed_scan
from kqo.workloads.fill import GIVEN

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from kqo.interop.reinference import Reinference

Values = NDArray[Any]
Asked = Occlusion | Regions
AnyEngine = Engine | CudaEngine


class CompiledPlan:
    """A plan for one model and workload; made by :func:`compile` or :func:`load`.

    Planning happens on first use and is kept. A plan may be used from several threads, which take
    turns.

    Attributes:
        name: of the model.
        logical: the normalized logical plan, before the workload is applied.
        workload: what is asked.
        options: how it may be computed; a quality or speedup asked for is settled in parameters.
        expected: what the profile lets expect, where one chose the parameters; else None.
        preprocess: how images become inputs; None where it was not given.
        notes: sentences about the model that its user should know.
    """

    def __init__(
        self,
        logical: Plan,
        workload: Asked,
        options: Options,
        preprocess: Preprocess | None = None,
        *,
        notes: Sequence[str] = (),
        normalized_by: Sequence[str] = (),
        lowered: Plan | None = None,
        normalizing: Trace | None = None,
        opaques: Functions | None = None,
        expected: Expected | None = None,
        whole: Reinference | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.name = logical.name
        self.logical = logical
        self.workload = workload
        self.preprocess = preprocess
        self.notes = tuple(notes)
        self._normalized_by = tuple(normalized_by)
        self._lowered = lowered
        self._normalizing = normalizing
        self._opaques: Functions = dict(opaques or {})
        self._whole = whole
        self._weights = weights or Weights()
        self._rates = current_rates()
        self._not_on_gpu: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self.scan = changed_scan(logical, workload.input)
        self.placed: Placed = workload.resolve(shape(self.scan.axes))
        self.options, found = settle(options, logical, workload, self.placed)
        self.expected = found or expected

    @cached_property
    @collecting_paused()
    def _planned(self) -> tuple[Chooser, PhysicalPlan, str, AnyEngine]:
        with self._lock:
            overlaid = self.workload.apply(self.logical)
            memo = explore(overlaid, rules_for(self.options), self.options.parameters)
            changed = {self.scan.name: self.placed.boxes(self.scan.axes)}
            found = gpu_engine(overlaid, memo, changed, self.options)
            if not isinstance(found, str):
                on_gpu_by, gpu, self._rates = found
                check_budget(self.options.memory_bytes, gpu, self.options.batch)
                return on_gpu_by, gpu.plan, gpu.source, gpu
            self._not_on_gpu = (found,) if found else ()
            chooser = Chooser(overlaid, memo, changed, self._rates, self.options.tolerance)
            engine = self._numpy(chooser, changed, self.options)
            check_budget(self.options.memory_bytes, engine, self.options.batch)
            return chooser, engine.plan, engine.source, engine

    def _numpy(self, by: Chooser, changed: Mapping[str, Boxes], options: Options) -> Engine:
        def engine_of(plan: PhysicalPlan) -> Engine:
            plan = with_siblings(plan, by.changed, by.bound, by.rates)
            return Engine(
                plan,
                emit(plan),
                changed,
                threads=options.threads,
                memory=options.memory_bytes,
                batch=options.batch,
                opaques=self._opaques,
                known=by.bound,
            )

        chosen = by.choose()
        engine = engine_of(shared(chosen, changed, by.rates))
        if engine.batch < BATCH and any(step.shared for step in engine.plan.steps):
            engine = engine_of(shared(chosen, changed, by.rates, engine.batch))
        by.bound.clear()  # boxes of thousands of queries each
        return engine

    @property
    def physical(self) -> PhysicalPlan:
        """The physical plan."""
        return self._planned[1]

    @property
    def engine(self) -> AnyEngine:
        """What runs the plan."""
        return self._planned[3]

    @property
    def source(self) -> str:
        """The emitted source, Python or CUDA, which is what runs."""
        return self._planned[2]

    def explain(
        self,
        *,
        stage: str | None = None,
        format: str = "text",
        rule: str | None = None,
        steps: bool = False,
        without: str | Sequence[str] = (),
        analyze: Any = False,
        image: NDArray[np.uint8] | None = None,
    ) -> str:
        """What the plan does: exactly what ``kqo explain`` prints.

        Args:
            stage: ``logical`` (as lowered), ``normalized``, ``delta`` (the chosen overlays and
                views), ``physical`` or ``source``; by default physical, for SQL logical.
            format: ``text``, ``json``, ``dot``, ``svg``, ``html`` or ``sql``.
            rule: show what this rule did, before and after, in place of the plan.
            steps: show a diff per application of a rule, in place of the plan.
            without: plan as if these rules, or families of rules, did not exist.
            analyze: run the plan, and show measured times beside the estimates: True for an input
                of noise, or the input (C, H, W) to run on.
            image: uint8 (H, W, 3), for the html page to draw regions on.

        Raises:
            ArgumentError: a stage, format or rule that there is not; a stage that the plan lacks
                since it was loaded from a file.
            PlanError: SQL cannot say an operator of the plan.
        """
        timed = analyze is not False
        check_asked(stage=stage, format=format, rule=rule, steps=steps, analyze=timed)
        dropped = (without,) if isinstance(without, str) else tuple(without)
        plan = self._without(dropped) if dropped else self
        timings = plan._timed(analyze) if timed else None
        return explain(
            plan.subject(),
            stage=stage,
            format=format,
            rule=rule,
            steps=steps,
            known_rules=rules_for(self.options).names(),
            timings=timings,
            without=dropped,
            other=self.subject() if dropped else None,
            image=image,
        )

    @cached_property
    def reinference(self) -> Reinference | None:
        """What runs the whole model for each query, where the incremental plan is not predicted to
        be clearly faster, the model is at hand, and the options let it."""
        fill, options = self.workload.fill, self.options
        refused = options.approximates or options.memory is not None  # which torch would not keep
        if self._whole is None or refused or (isinstance(fill, str) and fill == GIVEN):
            return None
        opened = self._opened(())
        faster = SURE * opened.reinference < opened.prediction.seconds
        return self._whole if faster and isinstance(self.engine, Engine) else None

    def subject(self) -> Subject:
        """The plan opened: every stage of it, as :meth:`explain` shows them."""
        if self.reinference is None:
            return self._opened(self.notes)
        return self._opened((torch_instead(self._opened(())), *self.notes))

    def _opened(self, notes: tuple[str, ...]) -> Subject:
        chooser, physical, source, engine = self._planned
        return Subject(
            self._lowered,
            self._normalizing,
            self.logical,
            self._normalized_by,
            chooser,
            physical,
            source,
            engine.boxes,
            len(self.placed),
            engine.batch,
            engine.workers,
            self._rates,
            (*self._not_on_gpu, *notes),
            self.options.parameters,
            stages(self.options, self.placed),
            self.expected,
            engine.distinct,
        )

    def _without(self, dropped: tuple[str, ...]) -> CompiledPlan:
        """The plan as if some rules did not exist."""
        rules = rules_for(self.options)
        left = rules.without(*dropped)
        options = replace(self.options, without=(*self.options.without, *dropped))
        plan, trace = self.logical, self._normalizing
        fired: Sequence[str] = self._normalized_by
        if left.family("normalize").names() != rules.family("normalize").names():
            if self._lowered is None:
                given = f"{', '.join(dropped)}, of a plan that was loaded from a file"
                accepted = "rules of other families than normalize"
                hint = "a plan file holds the normalized plan; compile with Options(without=...)"
                raise ArgumentError("without", given, accepted, hint=hint)
            plan, trace = normalize(self._lowered, left)
            fired = [a.rule for a in trace]
        return self._again(plan, options, fired, trace)

    def _again(
        self, plan: Plan, options: Options, fired: Sequence[str], trace: Trace | None
    ) -> CompiledPlan:
        """The same workload for a plan of the same model."""
        return CompiledPlan(
            plan,
            self.workload,
            options,
            self.preprocess,
            notes=self.notes,
            normalized_by=fired,
            lowered=self._lowered,
            normalizing=trace,
            opaques=self._opaques,
            whole=self._whole,
            weights=self._weights,
        )

    def _timed(self, given: Any) -> Timings:
        """Times of a run: the second one, whose memory and row numbers are there."""
        generator = np.random.default_rng(0)
        noise = tuple(generator.standard_normal(shape(s.axes)) for s in self.logical.scans)
        images, _ = self._inputs(noise if given is True else (given,))
        timings = Timings(len(self.physical.steps))
        for _ in range(2):
            self.engine.run(images[0], timings=timings)
        return timings

    def __str__(self) -> str:
        return self.explain()

    run = run_plan
    refine = refine_plan
    tune = tune_plan

    def approximated(
        self,
        *,
        tau: float = 1.0,
        threshold: Threshold = 0.0,
        step: int = 1,
        share: float = 1.0,
        until: float | None = None,
        order: str = "score",
        first: str = "coarse",
        profile: Profile | str | PathLike[str] | None = None,
        quality: float | None = None,
        speedup: float | None = None,
    ) -> CompiledPlan:
        """The same model and workload with these approximations in place of the plan's own.

        The arguments are those of :class:`kqo.Options`; none of them gives the exact plan.
        """
        options = replace(
            self.options,
            approximations={} if tau == 1 else {"tau": tau},
            threshold=threshold,
            step=step,
            share=share,
            until=until,
            order=order,
            first=first,
            profile=profile,
            quality=quality,
            speedup=speedup,
        )
        return self._again(self.logical, options, self._normalized_by, self._normalizing)

    def _inputs(self, given: tuple[Any, ...]) -> tuple[list[dict[str, Values]], bool]:
        self._weights.check()
        return take(self.logical, given, lambda value: on_gpu(lambda: self.engine, value))

    def _boxes(self, queries: NDArray[np.int64]) -> Boxes:
        return self.placed.take(queries).boxes(self.scan.axes)

    def _dense(self, boxes: Boxes, options: Options) -> Engine:
        """Full re-inference of some queries, by a plan without delta rules."""
        return self._engine(rules_for(options).without("delta"), boxes, options)

    def _engine(self, rules: RuleSet, boxes: Boxes, options: Options) -> Engine:
        """An engine on NumPy for other rules or positions, of forms that spread no NaN."""
        fast = [name for name in rules.names() if spreads(name, self._finite_constants)]
        plan = self.workload.apply(self.logical)
        memo = explore(plan, rules.without(*fast), options.parameters)
        changed = {self.scan.name: boxes}
        return self._numpy(Chooser(plan, memo, changed, REFERENCE), changed, options)

    @cached_property
    def _finite_constants(self) -> bool:
        return are_finite(self.logical.constants.values())

    @cached_property
    def _direct(self) -> Engine:
        """The engine for values that are not finite."""
        boxes = self.placed.boxes(self.scan.axes)
        return self._engine(rules_for(self.options), boxes, self.options)

    def _may_have_spread(self, answers: dict[str, Values]) -> bool:
        """Whether a fast form may have met NaN or infinity: a view or a result has one."""
        chooser, _, _, engine = self._planned
        if engine.views_are_finite() and are_finite(answers.values()):
            return False
        if not isinstance(engine, Engine):
            return True
        rules = {a.rule for a in chooser.memo.trace}
        return any(spreads(rule, self._finite_constants) for rule in rules)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan to a file: data, never code, which :func:`load` reads without torch."""
        about = {
            "workload": self.workload.to_dict(),
            "options": self.options.to_dict(),
            "preprocess": self.preprocess.to_dict() if self.preprocess is not None else None,
            "notes": list(self.notes),
            "normalized_by": list(self._normalized_by),
            "expected": None if self.expected is None else asdict(self.expected),
        }
        self._weights.check()
        planfile.save(path, planfile.Stored(self.logical, about))

    def __getstate__(self) -> dict[str, Any]:
        self._weights.check()
        made = ("_planned", "_direct", "_lock", "reinference")
        left = (*made, "_lowered", "_normalizing", "_whole")
        return {k: v for k, v in self.__dict__.items() if k not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lowered = self._normalizing = self._whole = None
        self._lock = threading.RLock()


@collecting_paused()
def compile(
    model: nn.Module | ExportedProgram | str | PathLike[str],
    inputs: tuple[Tensor, ...] | None,
    workload: Asked,
    options: Options | None = None,
    *,
    name: str = "",
    preprocess: Preprocess | None = None,
) -> CompiledPlan:
    """Compile a model for a workload.

    Args:
        model: a module in eval mode, an exported program, or the path of a ``.pt2`` file.
        inputs: example inputs with a batch axis, such as one image (1, C, H, W); they fix the
        shapes.
        workload: what is asked, such as :class:`kqo.Occlusion`.
        options: how it may be computed.
        name: what to call the model.
        preprocess: how images become inputs, stored with the plan.

    Raises:
        ArgumentError: an argument that is not accepted.
        ExportError: a model that torch.export cannot export.
        DeviceError: target cuda where there is no GPU that can be used.
        UnsupportedOperator: an operator that has no relational form, where the options are
            strict; one that is random, or that mixes the images of a batch.
    """
    from kqo.frontend.export import TRACING
    from kqo.frontend.lower import lower
    from kqo.interop.reinference import reinference_of

    options = options or Options()
    if not isinstance(workload, (Occlusion, Regions)):
        raise ArgumentError("workload", repr(workload), "kqo.Occlusion or kqo.Regions")
    check_target(options.target)
    if inputs is not None and not isinstance(inputs, tuple):
        inputs = (inputs,)
    with TRACING:
        lowered = lower(model, inputs, name, strict=options.strict)  # type: ignore[arg-type]
        never = options.reinference == "never"
        whole = None if never else reinference_of(model, inputs or (), lowered.output_names)
    plan, trace = normalize(lowered.plan, rules_for(options))
    return CompiledPlan(
        plan,
        workload,
        options,
        preprocess,
        notes=lowered.notes,
        normalized_by=[a.rule for a in trace.applications],
        lowered=lowered.plan,
        normalizing=trace,
        opaques=lowered.opaques,
        whole=whole,
        weights=Weights(lowered.weights),
    )


def load(path: str | PathLike[str]) -> CompiledPlan:
    """Read a plan file written by :meth:`CompiledPlan.save`. Needs no torch.

    Threads and memory that the options ask for are cut down to what this machine has.

    Raises:
        PlanFileError: not a plan file, one of another version, or a damaged one; or it needs the
            user's own rules, and they are not where they were.
    """
    stored = planfile.load(path)
    about: Mapping[str, Any] = stored.about
    try:
        workload = from_dict(about["workload"])
        options = Options.from_dict(about["options"]).on_this_machine()
        given = about["preprocess"]
        preprocess = None if given is None else Preprocess.from_dict(given)
        plan = CompiledPlan(
            stored.plan,
            workload,
            options,
            preprocess,
            notes=tuple(map(printable, about["notes"])),
            normalized_by=tuple(map(printable, about["normalized_by"])),
            expected=Expected.from_dict(about.get("expected")),
        )
    except Exception as error:
        # Values that a hostile file makes up fail in ways that nobody lists.
        raise planfile.blamed(str(path), "damaged", error) from None
    missing = [folder for folder in options.rules if not Path(folder).is_dir()]
    if missing:
        raise PlanFileError(f"{path}: needs the rules of {missing[0]}, which is not there")
    return plan

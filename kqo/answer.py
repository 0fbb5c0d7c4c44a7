"""``CompiledPlan.run``: all queries for one image or several, or as many as are asked for."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kqo.approximate.asking import Inputs
from kqo.approximate.refine import check_deadline
from kqo.approximate.run import Answered, Interrupted, about, answer
from kqo.approximate.verify import Checked, verified
from kqo.options import available_cores
from kqo.profile import Expected
from kqo.runtime.arguments import add_fill
from kqo.runtime.cuda.device import host_array
from kqo.runtime.cuda.engine import CudaEngine
from kqo.runtime.cuda.results import OnDevice, stacked
from kqo.runtime.engine import Engine, Progress
from kqo.runtime.progress import ProgressBar
from kqo.runtime.result import Result, Target
from kqo.workloads.changed import fill_values

if TYPE_CHECKING:
    from kqo.interop.reinference import Reinference
    from kqo.ir.nodes import Scan
    from kqo.planner.choose import Chooser
    from kqo.planner.physical import PhysicalPlan


class Answering(Checked, Protocol):
    """What is needed of a compiled plan; its class comes later in the order of imports."""

    expected: Expected | None
    scan: Scan

    @property
    def engine(self) -> Engine | CudaEngine:
        """What runs the plan."""

    @property
    def reinference(self) -> Reinference | None:
        """What runs the whole model for each query instead, where that is faster."""

    @property
    def _direct(self) -> Engine: ...

    @property
    def _planned(self) -> tuple[Chooser, PhysicalPlan, str, Engine | CudaEngine]: ...


def run_plan(
    plan: Answering,
    image: Any,
    *others: Any,
    fill: Any = None,
    target: Target = None,
    deadline: float | None = None,
    verify: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Answer all queries for one image, or for several.

    Args:
        image: the first input, (C, H, W), or (1, C, H, W), or (N, C, H, W) for several images;
            a NumPy array or a torch tensor.
        others: the model's further inputs, alike.
        fill: where the workload's fill is ``"given"``: an array that broadcasts to the changed
            input, or (N, C, H, W), one for each image.
        target: number or name of the class whose score says which cells are asked, where not
            all are. None: for each image the one with the highest score.
        deadline: seconds within which to answer; cells there is no time for are interpolated,
            as :meth:`refine` does. What is done on first use, such as planning, comes before. It
            is late by no more than one batch of each worker, and by the first ones, without which
            there is no answer.
        verify: check this many sampled queries by full re-inference, without delta rules. The
            error of an approximate plan is then in :attr:`Result.measured`.
        progress: called with queries done and their total; by default a bar on stderr where
            that is a terminal.

    Raises:
        ArgumentError: an input of another shape; a deadline, where positions fill no grid or
            the plan is for a GPU.
        VerificationError: a sampled query differs by more than the options' tolerance.
        Interrupted: a KeyboardInterrupt whose ``result`` holds what was computed; where not
            all queries are asked for, or there is a deadline.
    """
    check_deadline(deadline)
    images, many = plan._inputs((image, *others))
    add_fill(plan.logical, plan._planned[0].plan, images, fill)
    engine = plan.engine
    began = time.perf_counter()
    answers: list[dict[str, Any]] = []
    parts: list[Answered | None] = []
    again, interrupted = 0, False
    partly = plan.options.drills or deadline is not None
    total = len(images) * len(plan.placed)
    with ProgressBar(plan.options.progress, total, progress) as bar:
        for number, inputs in enumerate(images):
            bar.start(number * len(plan.placed))
            if partly:
                seconds = None
                if deadline is not None:
                    seconds = began + deadline - time.perf_counter()
                    seconds /= len(images) - number
                try:
                    part = answer(plan, inputs, target, seconds, bar.update)
                except KeyboardInterrupt:
                    if not answers:
                        raise
                    interrupted = True  # the images before are whole
                    break
                parts.append(part)
                if part is not None:
                    answers.append(part.outputs)
                    if part.interrupted:
                        interrupted = True
                        break
                    continue
            elif (whole := plan.reinference) is not None and whole.is_current:
                answers.append(_rerun(plan, whole, inputs, bar.update))
                continue
            elif isinstance(engine, CudaEngine):
                answers.append(engine.run(inputs, bar.update, on_device=True))
            else:
                answers.append(engine.run(inputs, bar.update))
            if partly or plan._may_have_spread(answers[-1]):
                answers[number:] = [plan._direct.run(on_host(inputs))]
                again += 1
    facts = {
        "seconds": time.perf_counter() - began,
        "batch": engine.batch,
        "not_finite": again,
        **_said(plan, parts, deadline),
    }
    result = _result(plan, answers, many, facts)
    if partly and not all(part is None for part in parts):
        everything = np.ones(len(plan.placed), dtype=np.bool_)
        known = [everything if part is None else part.computed for part in parts]
        result = replace(result, computed=np.stack(known) if many else known[0])
    if interrupted:
        raise Interrupted(result)
    return verified(plan, result, [on_host(i) for i in images], verify) if verify else result


def _rerun(
    plan: Answering, whole: Reinference, inputs: Inputs, progress: Progress
) -> dict[str, Any]:
    """One image's answers by full re-inference."""
    image = next(iter(inputs.values()))
    fill = np.broadcast_to(fill_values(plan.workload.fill, image), image.shape)
    boxes = plan.placed.boxes(plan.scan.axes)
    threads = plan.options.threads or available_cores()
    return whole.run(image, fill, boxes, threads, progress)


def _said(plan: Answering, parts: list[Answered | None], deadline: float | None) -> dict[str, Any]:
    """What is to be said of the quality of results."""
    facts = about(parts)
    if all(part is None or part.computed.all() for part in parts):
        # Cells that share and until leave out are what the profile measured; a deadline's are not.
        facts["expected_quality"] = None if plan.options.approximates else 1.0
    if plan.expected is not None and deadline is None:
        facts["expected_quality"] = plan.expected.quality
    return facts


def _result(
    plan: Answering, answers: list[dict[str, Any]], many: bool, facts: dict[str, Any]
) -> Result:
    """The images' answers as one result.

    Args:
        answers: for each image the outputs of all queries and of the untouched image.
        many: whether there is an axis of images.
        facts: about the run.
    """
    outputs: Any = {}
    originals: Any = {}
    for name, _ in plan.logical.roots:
        part = stacked([a[name] for a in answers]) if many else answers[0][name]
        if plan.logical.dtype == "float32":
            part = part.astype(np.float32, copy=False)
        outputs[name] = part[:, :-1] if many else part[:-1]
        originals[name] = part[:, -1] if many else part[-1]
    if isinstance(plan.engine, CudaEngine):  # they stay on the device until asked for
        outputs, originals = OnDevice(outputs), OnDevice(originals)
    return Result(
        outputs,
        originals,
        plan.placed,
        many,
        plan.preprocess is not None and plan.preprocess.outputs == "probabilities",
        plan.preprocess.classes if plan.preprocess is not None else (),
        facts,
    )


def on_host(inputs: Inputs) -> Inputs:
    """The same arrays in the processor's memory."""
    return {name: host_array(value) for name, value in inputs.items()}

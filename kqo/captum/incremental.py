"""Occlusion by an incremental plan, for models and arguments that allow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from kqo.captum.arguments import Baseline, Windows
from kqo.captum.cache import PlanCache
from kqo.captum.forward import Forward, Question
from kqo.errors import KqoError, StalePlanError
from kqo.runtime.result import Result, painted
from kqo.workloads import Placed

Values = NDArray[Any]

MOST_BYTES = 2 << 30
"""Largest array of outputs; beyond it (dense outputs, many windows) windows run one by one."""

_CLOSE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""How far a plan's outputs may be from the model's, relative to the largest: far above rounding."""


class NotIncremental(Exception):
    """A plan cannot stand for the forward function; the message says why."""


def incremental(
    question: Question, plans: PlanCache, progress: Callable[[int], object]
) -> tuple[Tensor, ...]:
    """Attributions of each input, by one plan for each: what :func:`kqo.captum.dense.dense` gives.

    Args:
        question: what is asked; the function must be a module.
        plans: where plans are kept.
        progress: called with the number of windows done since the last call.

    Raises:
        NotIncremental: the forward function, or an argument, does not allow it.
        AssertionError: the output has no such target.
    """
    forward, inputs, windows = question.forward, question.inputs, question.windows
    model = forward.function
    if not isinstance(model, nn.Module):
        raise NotIncremental(f"forward_func is a {type(model).__name__}, not a torch.nn.Module")
    _check_model(model)
    tensors = (*inputs, *forward.extra)
    _check_tensors(model, inputs, tensors)
    output = forward.raw(inputs)
    selected = forward.select(output)
    _check_output(output, inputs[0])
    size = int(output[0].numel()) * output.element_size() * len(output)
    if size * max(over.total for over in windows) > MOST_BYTES:
        raise NotIncremental("outputs for all windows would take more than 2 GiB")
    fills = [_fill(x, question.baselines[i]) for i, x in enumerate(inputs)]
    asker = _Asker(model, tensors, output, plans, progress)
    found = []
    for number, fill in enumerate(fills):
        placed, result = asker.ask(number, windows[number], fill)
        drops = _drops(forward, result, selected.numel())
        found.append(_averaged(placed, drops))
    return tuple(found)


def _check_model(model: nn.Module) -> None:
    for name, part in model.named_modules():
        called = f"module {name!r}" if name else "the model"
        if part.training:
            raise NotIncremental(f"{called} is in training mode")
        if part._forward_hooks or part._forward_pre_hooks:
            raise NotIncremental(f"{called} has forward hooks")
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise NotIncremental("there are forward hooks for all modules")


def _check_tensors(model: nn.Module, inputs: tuple[Tensor, ...], tensors: tuple[Any, ...]) -> None:
    """That all arguments and weights are batches of one floating type on the CPU."""
    dtype, examples = inputs[0].dtype, inputs[0].shape[0] if inputs[0].dim() else 0
    for number, tensor in enumerate(tensors):
        extra = number - len(inputs)
        called = f"additional argument {extra}" if extra >= 0 else f"input {number}"
        if not isinstance(tensor, Tensor):
            raise NotIncremental(f"{called} is a {type(tensor).__name__}, not a tensor")
        if tensor.dtype not in _CLOSE:
            raise NotIncremental(f"{called} is of type {tensor.dtype}")
        if tensor.dtype != dtype:
            raise NotIncremental(f"{called} is of type {tensor.dtype}, the first input of {dtype}")
        if tensor.device.type != "cpu":
            raise NotIncremental(f"{called} is on device {tensor.device}")
        if tensor.layout is not torch.strided:
            raise NotIncremental(f"{called} is a sparse tensor")
        if extra < 0 and tensor.dim() < 2:
            raise NotIncremental(f"{called} has no axis after the batch axis")
        if not tensor.dim() or tensor.shape[0] != examples or not tensor.numel():
            raise NotIncremental(f"{called} of shape {tuple(tensor.shape)} is no batch of examples")
        if not bool(tensor.isfinite().all()):
            raise NotIncremental(f"{called} has values that are not finite")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise NotIncremental(f"{name} is on device {tensor.device}")
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise NotIncremental(f"{name} is of type {tensor.dtype}, the inputs of {dtype}")


def _check_output(output: Any, first: Tensor) -> None:
    if not isinstance(output, Tensor) or output.dim() == 0 or output.shape[0] != len(first):
        raise NotIncremental("the output has no value for each example")
    if output.dtype != first.dtype:
        raise NotIncremental(f"the output is of type {output.dtype}, the inputs of {first.dtype}")
    if not bool(output.isfinite().all()):
        raise NotIncremental("the output has values that are not finite")


def _fill(tensor: Tensor, baseline: Baseline) -> Values:
    """The baseline for every element of the input, (N, ...)."""
    given = baseline if isinstance(baseline, Tensor) else torch.tensor(baseline)
    mixed = torch.result_type(tensor, baseline)
    if mixed != tensor.dtype:
        raise NotIncremental(f"the baseline would make the input {mixed}")
    try:
        fill = given.detach().to(tensor.dtype).expand((1, *tensor.shape))[0]
    except RuntimeError:
        shapes = f"{tuple(given.shape)} and {tuple(tensor.shape)}"
        raise NotIncremental(f"baseline and input have shapes {shapes}") from None
    if not bool(fill.isfinite().all()):
        raise NotIncremental("the baseline has values that are not finite")
    return np.asarray(fill.numpy())


class _Asker:
    """Asks plans of one model for one batch of inputs.

    Args:
        model: the model.
        tensors: its arguments.
        output: what it gives for them.
        plans: where plans are kept.
        progress: called with the number of windows done since the last call.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: tuple[Tensor, ...],
        output: Tensor,
        plans: PlanCache,
        progress: Callable[[int], object],
    ) -> None:
        self.model = model
        self.tensors = tensors
        self.output = output
        self.plans = plans
        self.progress = progress

    def ask(self, number: int, over: Windows, fill: Values) -> tuple[Placed, Result]:
        """Where windows over one input lie, and the outputs under them.

        Versions of parameters do not count what is written through ``.data``, nor attributes that
        are no tensors; a plan whose outputs are no longer the model's is made anew, once.
        """
        arrays = [t.detach().numpy() for t in self.tensors]
        for _ in range(2):
            try:
                plan = self.plans.plan(self.model, self.tensors, number, over)
                result = plan.run(*arrays, fill=fill, progress=_Counted(self.progress))
            except StalePlanError:
                self.plans.forget(self.model)
                continue
            except KqoError as error:
                raise NotIncremental(" ".join(str(error).split())) from error
            if self._is_the_models(result):
                return plan.placed, result
            self.plans.forget(self.model)
        raise NotIncremental("the exported model gives other outputs than the model itself")

    def _is_the_models(self, result: Result) -> bool:
        found = _batch(result, result.original)
        wanted = self.output.numpy()
        if len(result.outputs) != 1 or found.shape != wanted.shape:
            return False
        bound = _CLOSE[self.output.dtype] * float(np.abs(wanted).max(initial=0))
        return bool(np.abs(found - wanted).max(initial=0) <= bound)


class _Counted:
    """Turns a running total into what was added since the last call."""

    def __init__(self, progress: Callable[[int], object]) -> None:
        self.progress = progress
        self.done = 0

    def __call__(self, done: int, _: int) -> None:
        if done > self.done:
            self.progress(done - self.done)
            self.done = done


def _batch(result: Result, values: Values) -> Values:
    """Outputs led by an axis of examples, which a plan leaves out where there is one example."""
    return values if result.many else values[None]


def _drops(forward: Forward, result: Result, count: int) -> Values:
    """The untouched target minus the target under each window: (windows, outputs), float64."""
    scores = torch.from_numpy(_batch(result, result.scores))  # (N, windows, ...)
    queries = scores.shape[1]
    rows = scores.transpose(0, 1).reshape(-1, *scores.shape[2:])
    found = forward.select(rows, queries).reshape(queries, count).double()
    original = (
        forward.select(torch.from_numpy(_batch(result, result.original))).reshape(1, count).double()
    )
    return np.asarray((original - found).numpy())


def _averaged(placed: Placed, drops: Values) -> Tensor:
    """The mean over the windows that hide an element, float32 (outputs, ...)."""
    weights = painted(placed, np.ones(len(placed)))
    found = np.empty((drops.shape[1], *placed.shape), dtype=np.float32)
    for number, drop in enumerate(drops.T):
        np.divide(painted(placed, drop), weights, out=found[number], casting="same_kind")
    return torch.from_numpy(found)

"""The class that stands for ``captum.attr.Occlusion``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kqo.captum.arguments import (
    as_baselines,
    as_extra,
    as_inputs,
    as_windows,
    check_per_eval,
)
from kqo.captum.cache import PlanCache
from kqo.captum.dense import dense
from kqo.captum.forward import Forward, Question
from kqo.captum.incremental import NotIncremental, incremental

PLANS = PlanCache()
"""The plans of all instances."""


class DenseFallbackWarning(UserWarning):
    """An attribution is computed by calling the forward function for every window."""


class Occlusion:
    """Occlusion attributions with the signature and the results of ``captum.attr.Occlusion``.

    A ``torch.nn.Module`` in eval mode that ``torch.export`` can export is compiled once for its
    input shapes and windows, and answered incrementally. Anything else (an arbitrary callable, a
    model in training mode, with forward hooks, on another device, or one that kqo cannot express)
    is called for every window, as Captum does; a :class:`DenseFallbackWarning` says so once, with
    the reason.

    Args:
        forward_func: the model, or a function of the inputs and the additional arguments.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func
        self.use_weights = True
        self._said: set[str] = set()

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        sliding_window_shapes: tuple[int, ...] | tuple[tuple[int, ...], ...],
        strides: int | tuple[int, ...] | tuple[int | tuple[int, ...], ...] | None = None,
        baselines: Tensor | float | tuple[Tensor | float, ...] | None = None,
        target: Any = None,
        additional_forward_args: object = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """How much each element of the inputs matters to the target.

        The mean, over the windows that hide an element, of the target's value for the untouched
        inputs minus its value under the window. Windows are clipped at the border.

        Args:
            inputs: (N, ...), or a tuple of such tensors; a window touches one of them only.
            sliding_window_shapes: extent of the window on every axis after the batch axis, channels
                included; a tuple of tuples for several inputs.
            strides: distance between windows, a number or a tuple per input; 1 where not given.
            baselines: what stands in the windows: a number or a tensor that broadcasts, or a tuple
                of these, one per input; zero where not given.
            target: which output is meant: None where there is one per example; a number, a tensor
                of one number or of one per example, a tuple of numbers, or a list of numbers or
                tuples, one per example.
            additional_forward_args: further arguments of the forward function, one or a tuple.
            perturbations_per_eval: windows per call where the forward function is called for every
                window; without effect on a plan, whose batches follow from cost and memory.
            show_progress: write a progress bar to stderr.

        Returns:
            float32 with the shape of the inputs, a tuple if they are one. Where the target is not
            one value per example, the first dimension counts the values of the output.

        Raises:
            AssertionError: arguments that are not accepted, as in Captum.
        """
        tensors = as_inputs(inputs)
        windows = as_windows(sliding_window_shapes, strides, tensors)
        given = as_baselines(baselines, tensors)
        per_eval = check_per_eval(perturbations_per_eval)
        forward = Forward(self.forward_func, as_extra(additional_forward_args), target)
        question = Question(forward, tensors, windows, given)
        total = sum(over.total for over in windows)
        with (
            torch.no_grad(),
            _Bar(self.get_name(), total * _examples(tensors), show_progress) as bar,
        ):
            try:
                found = incremental(question, PLANS, bar.add)
            except NotIncremental as reason:
                self._say(str(reason))
                bar.restart(total)
                found = dense(question, per_eval, bar.add)
        return found if isinstance(inputs, tuple) else found[0]

    def attribute_future(self, *args: object, **kwargs: object) -> None:
        """Not there for occlusion, as in Captum: raises NotImplementedError."""
        raise NotImplementedError("attribute_future is not implemented for Occlusion")

    @classmethod
    def get_name(cls) -> str:
        """The name of the class in words."""
        return "".join(
            f" {char}" if number and not char.islower() else char
            for number, char in enumerate(cls.__name__)
        )

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are differences to a baseline, in Captum's term; they are."""
        return True

    def has_convergence_delta(self) -> bool:
        """Whether there is a convergence delta: there is none."""
        return False

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            message = f"Occlusion calls the forward function for every window: {reason}"
            warnings.warn(message, DenseFallbackWarning, stacklevel=3)


def _examples(tensors: tuple[Tensor, ...]) -> int:
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


class _Bar:
    """The progress bar: what was done, in windows."""

    def __init__(self, name: str, total: int, show: bool) -> None:
        self.bar = tqdm(desc=f"{name} attribution", total=total) if show else None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if self.bar is not None:
            if failed is None:
                self.bar.update(self.bar.total - self.bar.n)
            self.bar.close()

    def restart(self, total: int) -> None:
        if self.bar is not None:
            self.bar.reset(total)

    def add(self, done: int) -> None:
        if self.bar is not None:
            self.bar.update(done)

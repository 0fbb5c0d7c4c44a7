"""The forward function as attributions see it: called with its arguments, one target selected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from kqo.captum.arguments import Baseline, Windows


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a forward function.

    Attributes:
        forward: the function with its additional arguments and the target.
        inputs: the untouched inputs, each (N, ...).
        windows: the windows over each input; a window touches one input only.
        baselines: what stands in the windows of each input.
    """

    forward: Forward
    inputs: tuple[Tensor, ...]
    windows: tuple[Windows, ...]
    baselines: tuple[Baseline, ...]


class Forward:
    """A forward function with its additional arguments and the target that is asked about.

    Args:
        function: called with the inputs, then the additional arguments; one that takes no
            parameters is called without.
        extra: additional arguments. Tensors are repeated with the batch, others are passed on.
        target: which of the outputs is meant, as :func:`select` takes it.
    """

    def __init__(self, function: Callable[..., Any], extra: tuple[Any, ...], target: Any) -> None:
        self.function = function
        self.extra = extra
        self.target = target

    def raw(self, inputs: tuple[Tensor, ...], times: int = 1) -> Any:
        """What the function returns for inputs that hold the batch ``times`` times over."""
        if not signature(self.function).parameters:
            return self.function()
        return self.function(*inputs, *(_repeated(value, times) for value in self.extra))

    def select(self, output: Any, times: int = 1) -> Tensor:
        """The target of an output for inputs that hold the batch ``times`` times over.

        Raises:
            AssertionError: the output is no tensor or number, or has no such target.
        """
        assert not isinstance(output, torch.futures.Future), (
            "forward_func: got a Future; accepted: a tensor or a number"
        )
        return _as_tensor(select(output, _repeated_target(self.target, times)))

    def __call__(self, inputs: tuple[Tensor, ...], times: int = 1) -> Tensor:
        """The target's values for inputs that hold the batch ``times`` times over."""
        return self.select(self.raw(inputs, times), times)


def _as_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    assert isinstance(output, (int, float)), (
        f"forward_func: got {type(output).__name__}; accepted: a tensor or a number"
    )
    kinds = {bool: torch.bool, int: torch.int64, float: torch.float64}
    return torch.tensor(output, dtype=kinds[type(output)])


def _repeated(value: Any, times: int) -> Any:
    if times > 1 and isinstance(value, Tensor) and value.dim():
        return torch.cat([value] * times)
    return value


def _repeated_target(target: Any, times: int) -> Any:
    if isinstance(target, list):
        return target * times
    if isinstance(target, Tensor) and target.numel() > 1:
        return torch.cat([target] * times)
    return target


def select(output: Any, target: Any) -> Any:
    """The values of an output that a target names, one or more per example.

    Args:
        output: (N, ...) of N examples.
        target: None for all; a number or a one-element tensor for a place on the axis after the
            batch; a tuple for places on the axes after the batch; a list of numbers or a 1-D
            tensor, one per example of an (N, K) output; a list of tuples, one per example.

    Raises:
        AssertionError: a target of another form, or one that does not fit the output.
    """
    if target is None:
        return output
    examples = output.shape[0]
    if isinstance(target, Tensor):
        if target.numel() == 1 and isinstance(target.item(), int):
            return _column(output, (target.item(),))
        assert target.dim() == 1 and target.numel() == examples, (
            f"target: got a tensor of shape {tuple(target.shape)}; accepted: one number, or one "
            f"per example of an output of shape {tuple(output.shape)}"
        )
        return _gather(output, target)
    if isinstance(target, (int, tuple)):
        return _column(output, target if isinstance(target, tuple) else (target,))
    assert isinstance(target, list), (
        f"target: got {type(target).__name__}; accepted: None, int, tuple, tensor or list"
    )
    assert len(target) == examples, (
        f"target: got a list of {len(target)}; accepted: one per example, {examples}"
    )
    if isinstance(target[0], int):
        return _gather(output, torch.tensor(target, device=output.device))
    assert isinstance(target[0], tuple), (
        f"target: got a list of {type(target[0]).__name__}; accepted: a list of int or of tuples"
    )
    return torch.stack([output[(number, *place)] for number, place in enumerate(target)])


def _column(output: Tensor, place: tuple[Any, ...]) -> Tensor:
    assert len(place) <= output.dim() - 1, (
        f"target: got {place}; accepted: at most {output.dim() - 1} numbers for an output of shape "
        f"{tuple(output.shape)}"
    )
    return output[(slice(None), *place)]


def _gather(output: Tensor, places: Tensor) -> Tensor:
    assert output.dim() == 2, (
        f"target: got one number per example; accepted: that for an output of two axes only, not "
        f"{tuple(output.shape)}"
    )
    return torch.gather(output, 1, places.reshape(len(output), 1)).squeeze(-1)

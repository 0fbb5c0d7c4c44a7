"""The arguments of ``attribute``, checked and brought to one form, as Captum checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Baseline = Tensor | int | float


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows that slide over one input.

    Attributes:
        shape: extent of the window on each axis after the batch axis.
        stride: distance between window starts on each of these axes.
        counts: number of window starts on each of these axes.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Number of windows."""
        return int(np.prod(self.counts, dtype=np.int64))

    def at(self, number: int) -> tuple[slice, ...]:
        """The keys that a window covers; the first listed axis varies fastest."""
        found = []
        for width, step, count in zip(self.shape, self.stride, self.counts, strict=True):
            start = number % count * step
            number //= count
            found.append(slice(start, start + width))
        return tuple(found)


def as_inputs(inputs: object) -> tuple[Tensor, ...]:
    """The inputs as a tuple; AssertionError for what is neither a tensor nor a tuple."""
    if inputs is None:
        raise TypeError("inputs: got None; accepted: a tensor, or a tuple of tensors")
    if isinstance(inputs, tuple):
        return inputs
    assert isinstance(inputs, Tensor), (
        f"inputs: got {type(inputs).__name__}; accepted: a tensor, or a tuple of tensors"
    )
    return (inputs,)


def as_windows(shapes: Any, strides: Any, inputs: tuple[Tensor, ...]) -> tuple[Windows, ...]:
    """The windows over each input.

    Raises:
        AssertionError: a window or stride of another form than Captum takes, a window larger than
            the input, or a stride larger than the window where that does not cover the whole axis.
        RuntimeError: a window with a negative extent.
    """
    steps = _as_strides(strides, inputs)
    if isinstance(shapes[0], int):
        shapes = (shapes,)
    assert len(shapes) == len(inputs), (
        f"sliding_window_shapes: got {len(shapes)}; accepted: one per input, {len(inputs)}"
    )
    for given, tensor in zip(shapes, inputs, strict=True):
        rank = tensor.dim() - 1
        assert isinstance(given, tuple) and len(given) == rank, (
            f"sliding_window_shapes: got {given}; accepted: a tuple of {rank} numbers, one per "
            f"axis after the batch axis of an input of shape {tuple(tensor.shape)}"
        )
        if any(width < 0 for width in given):
            raise RuntimeError(f"sliding_window_shapes: got {given}; accepted: numbers from 0")
    return tuple(
        _on_grid(given, step, tuple(tensor.shape[1:]))
        for given, step, tensor in zip(shapes, steps, inputs, strict=True)
    )


def _as_strides(strides: Any, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    if strides is None:
        strides = tuple(1 for _ in inputs)
    if len(inputs) == 1 and not (isinstance(strides, tuple) and len(strides) == 1):
        strides = (strides,)
    assert isinstance(strides, tuple) and len(strides) == len(inputs), (
        f"strides: got {strides}; accepted: one per input, {len(inputs)}"
    )
    for step, tensor in zip(strides, inputs, strict=True):
        rank = tensor.dim() - 1
        assert isinstance(step, int) or (isinstance(step, tuple) and len(step) == rank), (
            f"strides: got {step}; accepted: a number, or a tuple of {rank} numbers for an input "
            f"of shape {tuple(tensor.shape)}"
        )
    return strides


def _on_grid(
    shape: tuple[int, ...], step: int | tuple[int, ...], extents: tuple[int, ...]
) -> Windows:
    stride = (step,) * len(extents) if isinstance(step, int) else step
    counts = []
    for width, distance, extent in zip(shape, stride, extents, strict=True):
        assert width <= extent, (
            f"sliding_window_shapes: got {shape}; accepted: at most the input's shape {extents}"
        )
        assert distance >= 1, f"strides: got {stride}; accepted: numbers from 1"
        assert distance <= width or width == extent, (
            f"strides: got {stride}; accepted: at most the window {shape} where that does not "
            "cover the whole axis"
        )
        counts.append(-(-(extent - width) // distance) + 1)
    return Windows(shape, stride, tuple(counts))


def as_baselines(baselines: object, inputs: tuple[Tensor, ...]) -> tuple[Baseline, ...]:
    """One baseline per input: zero where none are given.

    Raises:
        AssertionError: a baseline that is neither a tensor nor a number.
    """
    if baselines is None:
        return tuple(False if tensor.dtype is torch.bool else 0 for tensor in inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    for baseline in given:
        assert isinstance(baseline, (Tensor, int, float)), (
            f"baselines: got {type(baseline).__name__}; accepted: a tensor or a number per input"
        )
    return given


def as_extra(additional: object) -> tuple[Any, ...]:
    """The additional arguments of the forward function as a tuple."""
    if additional is None:
        return ()
    return additional if isinstance(additional, tuple) else (additional,)


def check_per_eval(given: object) -> int:
    """The number of windows per call of the forward function; AssertionError unless it is >= 1."""
    assert isinstance(given, int) and given >= 1, (
        f"perturbations_per_eval: got {given}; accepted: a whole number from 1"
    )
    return given

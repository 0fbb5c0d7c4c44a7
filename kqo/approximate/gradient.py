"""A heatmap to first order: the gradient of a score times the change, from one backward pass."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError
from kqo.workloads import Occlusion, Placed, Regions
from kqo.workloads.changed import fill_values


class Derivable(Protocol):
    """A compiled plan that may have its model at hand."""

    workload: Occlusion | Regions
    placed: Placed
    _whole: Any


def linear_scores(
    plan: Derivable, inputs: dict[str, NDArray[Any]], target: int, original: float
) -> NDArray[np.float64]:
    """By query, the score that the gradient at the untouched image has it fall or rise to.

    The score plus the sum of gradient times change over the elements that change: "gradient times
    input" (Shrikumar et al., arXiv:1605.01713) summed over each window, where the fill is zero.

    Args:
        plan: the plan.
        inputs: the base relation's values.
        target: number of the output's value, row-major.
        original: its value for the untouched image.

    Raises:
        ArgumentError: the model is not at hand, or torch cannot differentiate it.
    """
    if plan._whole is None:
        accepted = (
            "'coarse', or a plan that was compiled in this process from a torch module in float32 "
            "with one input and one output, whose options do not have reinference='never'"
        )
        raise ArgumentError("first", "'gradient' for a plan without its torch model", accepted)
    (image,) = inputs.values()
    gradient = plan._whole.gradient(image, target)
    change = np.broadcast_to(fill_values(plan.workload.fill, image), image.shape) - image
    effect = np.multiply(gradient, change, dtype=np.float64)
    # An integral image: a box's sum is read off its corners.
    for axis in range(effect.ndim):
        effect = np.cumsum(effect, axis=axis)
    effect = np.pad(effect, [(1, 0)] * effect.ndim)
    placed = plan.placed
    found = np.full(len(placed), original, dtype=np.float64)
    for corner in np.ndindex(*[2] * effect.ndim):
        at = np.where(np.array(corner) == 1, placed.hi, placed.lo)
        sign = (-1) ** (effect.ndim - sum(corner))
        np.add.at(found, placed.query, sign * effect[tuple(at.T)])
    return found

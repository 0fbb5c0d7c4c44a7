"""Occlusion by calling the forward function for every window: right for anything that runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kqo.captum.arguments import Baseline
from kqo.captum.forward import Question

Place = tuple[int, int]  # an input, and the number of a window over it


def dense(
    question: Question, per_eval: int, progress: Callable[[int], object]
) -> tuple[Tensor, ...]:
    """Attributions of each input, by one call of the forward function per ``per_eval`` windows.

    Args:
        question: what is asked.
        per_eval: windows per call; the examples are repeated that often.
        progress: called with the number of windows done since the last call.

    Returns:
        for each input float32 (outputs, ...): the mean, over the windows that hide an element, of
        the untouched output minus the output under that window.

    Raises:
        AssertionError: ``per_eval`` above 1 where the output does not grow with the batch.
    """
    forward, inputs, windows = question.forward, question.inputs, question.windows
    original = forward(inputs)
    count = original.numel()
    totals = [_zeros(count, x, original.dtype) for x in inputs]
    weights = [_zeros(count, x, torch.float32) for x in inputs]
    places = [(i, n) for i, over in enumerate(windows) for n in range(over.total)]
    checked = per_eval == 1
    for first in range(0, len(places), per_eval):
        chunk = places[first : first + per_eval]
        if all(inputs[i].numel() == 0 for i, _ in chunk):
            continue
        masks, changed = _occluded(question, chunk)
        found = forward(changed, len(chunk))
        if not checked:
            _check_grows(original, found, len(chunk), len(inputs[0]), len(changed[0]))
            checked = True
        drop = original.reshape(1, -1) - found.reshape(-1, count)
        for i, mask in masks.items():
            weights[i] += mask.sum(dim=0)
            if inputs[i].numel():
                wide = drop.reshape(*drop.shape, *(1,) * (inputs[i].dim() - 1))
                totals[i] += (wide.to(totals[i].device) * mask.to(original.dtype)).sum(dim=0)
        progress(len(chunk))
    return tuple(t.float() / w for t, w in zip(totals, weights, strict=True))


def _zeros(count: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros((count, *like.shape[1:]), dtype=dtype, device=like.device)


def _occluded(
    question: Question, chunk: list[Place]
) -> tuple[dict[int, Tensor], tuple[Tensor, ...]]:
    """Masks (windows, 1, ...) of the inputs that are touched, and the inputs of one call."""
    masks: dict[int, Tensor] = {}
    changed = []
    for i, tensor in enumerate(question.inputs):
        many = tensor if len(chunk) == 1 else torch.cat([tensor] * len(chunk))
        if all(touched != i for touched, _ in chunk):
            changed.append(many)
            continue
        mask = torch.zeros((len(chunk), 1, *tensor.shape[1:]), device=tensor.device)
        for row, (touched, number) in zip(mask, chunk, strict=True):
            if touched == i:
                row[(0, *question.windows[i].at(number))] = 1
        masks[i] = mask
        changed.append(_mixed(many, mask, question.baselines[i]))
    return masks, tuple(changed)


def _mixed(many: Tensor, mask: Tensor, baseline: Baseline) -> Tensor:
    """x * (1 - m) + b * m, so that a NaN under the window stays NaN."""
    own = mask.to(many.dtype)
    shaped = many.reshape(len(mask), -1, *many.shape[1:])
    given = baseline.reshape(1, *baseline.shape) if isinstance(baseline, Tensor) else baseline
    kept = shaped * (1 - mask).to(many.dtype)
    return (kept + given * own).reshape(many.shape)


def _check_grows(original: Tensor, found: Tensor, times: int, examples: int, rows: int) -> None:
    grows = original.dim() and found.dim() and found.shape[0] == times * original.shape[0]
    assert grows, (
        "perturbations_per_eval: got more than 1; accepted: that for an output whose first axis "
        f"grows with the batch only: for {examples} examples the output of forward_func has shape "
        f"{tuple(original.shape)}, for {rows} it has {tuple(found.shape)}"
    )

"""Full re-inference by torch, for workloads where an incremental plan is not clearly faster."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kqo.errors import ArgumentError
from kqo.frontend.export import TRACING
from kqo.interop.folded import folded
from kqo.ir.boxes import Boxes
from kqo.runtime.engine import Progress

Values = NDArray[Any]
BATCH = 8
"""Images at a time, about: what is fastest for most networks on few cores. A few more in one batch
are faster than a batch of so few."""


class Reinference:
    """A model that answers queries by running whole for each.

    For its second input it takes a copy, with batch norms folded, which takes as long as a few
    images do; no change of the module reaches it.

    Args:
        module: in eval mode, from one tensor (N, ...) float32 to one tensor (N, ...).
        output: name of what it returns.
    """

    def __init__(self, module: nn.Module, output: str) -> None:
        self._module = module
        self._output = output
        self._state = self._versions()
        self._copy: nn.Module | None = None
        self._inputs = 0

    def _versions(self) -> tuple[tuple[int, int], ...]:
        tensors = (*self._module.parameters(), *self._module.buffers())
        return tuple((t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors)

    @property
    def is_current(self) -> bool:
        """Whether what it runs still has the values that the plan was made of."""
        if self._copy is not None:
            return True
        with TRACING:
            return not self._module.training and self._versions() == self._state

    def run(
        self, image: Values, fill: Values, changed: Boxes, threads: int, progress: Progress
    ) -> dict[str, Values]:
        """Answers of all queries and of the untouched image, as an engine gives them.

        Args:
            image: (C, ...), float32.
            fill: what the queries put over it, of the same shape.
            changed: where each does, over the image's axes in their order.
            threads: of torch.
            progress: called with the number of queries done and their total.
        """
        with nullcontext() if self._copy is not None else TRACING:
            return self._run(image, fill, changed, threads, progress)

    def _run(
        self, image: Values, fill: Values, changed: Boxes, threads: int, progress: Progress
    ) -> dict[str, Values]:
        self._inputs += 1
        found: list[Values] = []
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            if self._inputs == 2 and np.isfinite(image).all():
                self._copy = folded(self._module, torch.from_numpy(image[None]))
            images = changed.queries + 1
            batches = max(1, round(images / BATCH))
            for number in range(batches):
                first, last = (images * n // batches for n in (number, number + 1))
                found.append(self._answers(_changed(image, fill, changed, first, last)))
                progress(min(last, changed.queries), changed.queries)
        finally:
            torch.set_num_threads(before)
        return {self._output: np.concatenate(found)}

    def gradient(self, image: Values, target: int) -> Values:
        """The gradient (C, ...) of one of the output's values, row-major, at an image (C, ...).

        Raises:
            ArgumentError: the model has changed, or torch cannot differentiate it.
        """
        if not self.is_current:
            given = "'gradient' for a model that has changed since it was compiled"
            raise ArgumentError("first", given, "the model as it was, in eval mode")
        try:
            with TRACING, torch.inference_mode(False), torch.enable_grad():
                leaf = torch.tensor(image[None], requires_grad=True)
                # A copy: a first layer that works in place must not write into the leaf.
                score = self._module(leaf.clone()).reshape(-1)[target]
                (found,) = torch.autograd.grad(score, leaf)
        except RuntimeError as error:
            given = f"'gradient' for a model that torch cannot differentiate ({error})"
            raise ArgumentError("first", given, "'coarse'") from None
        return np.asarray(found[0].numpy())

    def _answers(self, images: Values) -> Values:
        tensor = torch.from_numpy(images)
        if tensor.dim() == 4:
            tensor = tensor.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            return np.asarray((self._copy or self._module)(tensor).resolve_neg().numpy())


def _changed(image: Values, fill: Values, changed: Boxes, first: int, last: int) -> Values:
    """The inputs of some queries; the one behind the last query is untouched."""
    found: Values = np.repeat(image[None], last - first, axis=0)
    for row, query in zip(found, range(first, min(last, changed.queries)), strict=False):
        for low, high in zip(changed.lo[query].tolist(), changed.hi[query].tolist(), strict=True):
            part = tuple(map(slice, low, high))
            row[part] = fill[part]
    return found


def reinference_of(
    model: object, inputs: tuple[torch.Tensor, ...], outputs: tuple[str, ...]
) -> Reinference | None:
    """Full re-inference of a model; None for those that it does not take.

    Args:
        model: what was compiled.
        inputs: its example inputs.
        outputs: names of what the plan computes.
    """
    if not isinstance(model, nn.Module) or len(inputs) != 1 or outputs != ("output",):
        return None
    tensors = (*model.parameters(), *model.buffers(), *inputs)
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in tensors):
        return None
    if any(t.device.type != "cpu" for t in tensors) or model.training:
        return None
    return Reinference(model, outputs[0])

"""The model's tensors that a plan was made of, and whether they still hold the same values.

A plan's constants share memory with the model's parameters where nothing was folded into them: a
copy of VGG16's takes 528 MB. Training on in place would change answers, some of them, without a
word; so a plan looks at its tensors before it runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kqo.errors import StalePlanError

_SAMPLED = 8
"""Elements that are compared: writing through ``.data`` or an alias leaves the version as it is."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor as it was: ``step`` is how far apart the elements that are compared lie, and 0 where
    they do not lie in one row."""

    name: str
    known: weakref.ref[Any]
    address: int
    version: int | None
    shared: bool
    step: int
    values: list[float]


class Weights:
    """Tensors of a model and their state when it was compiled.

    They are not kept alive: a tensor that is gone, or whose storage was replaced, can no longer
    change what the plan holds.

    Args:
        tensors: of torch, by name.
    """

    def __init__(self, tensors: Mapping[str, Any] | None = None) -> None:
        self._tensors = [_taken(name, tensor) for name, tensor in (tensors or {}).items()]

    def check(self) -> None:
        """Look whether all still hold what they held.

        Raises:
            StalePlanError: one was changed in place, or moved to memory that processes share.
        """
        for each in self._tensors:
            tensor = each.known()
            if tensor is None:
                continue
            if tensor.data_ptr() != each.address:
                if tensor.is_shared() and not each.shared:
                    # The storage itself was moved: what the plan sees of it is memory of others.
                    raise StalePlanError(
                        f"the model's {each.name} was moved to shared memory after it was compiled",
                        hint="compile it again, or share its memory before",
                    )
                continue
            now = _values(tensor, each.step, len(each.values)) if each.values else []
            if _version(tensor) != each.version or not _equal(now, each.values):
                raise StalePlanError(
                    f"the model's {each.name} was changed in place after it was compiled",
                    hint="compile it again; a plan that was saved, loaded or pickled has a copy",
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return Weights, ()  # what is copied by value shares no memory with the model


def _taken(name: str, tensor: Any) -> _Tensor:
    elements = tensor.numel() if tensor.is_floating_point() else 0
    step = max(1, elements // _SAMPLED) if _is_dense(tensor) else 0
    values = _values(tensor, step, min(_SAMPLED, elements)) if elements else []
    known = weakref.ref(tensor)
    shared = bool(tensor.is_shared())
    return _Tensor(name, known, tensor.data_ptr(), _version(tensor), shared, step, values)


def _is_dense(tensor: Any) -> bool:
    """Whether its elements fill one run of memory, in any order, as of channels_last."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != extent:
                return False
            extent *= size
    return True


def _version(tensor: Any) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _values(tensor: Any, step: int, count: int) -> list[float]:
    """Some elements. A network has hundreds of tensors, and a run of few queries no time."""
    values = tensor.detach()
    if step:
        return list(values.as_strided((count,), (step,)).tolist())
    some = np.linspace(0, values.numel() - 1, count).astype(np.int64)
    at = tuple(index.tolist() for index in np.unravel_index(some, tuple(values.shape)))
    return list(values[at].tolist())


def _equal(values: list[float], others: list[float]) -> bool:
    return values == others or np.array_equal(values, others, equal_nan=True)

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
    name: str
    known: weakref.ref[Any]
    address: int
    state: tuple[Any, ...]


class Weights:
    """Tensors of a model and their state when it was compiled.

    They are not kept alive: a tensor that is gone, or whose storage was replaced, can no longer
    change what the plan holds.

    Args:
        tensors: of torch, by name.
    """

    def __init__(self, tensors: Mapping[str, Any] | None = None) -> None:
        self._tensors = [
            _Tensor(name, weakref.ref(tensor), tensor.data_ptr(), _state(tensor))
            for name, tensor in (tensors or {}).items()
        ]

    def check(self) -> None:
        """Look whether all still hold what they held.

        Raises:
            StalePlanError: one was changed in place.
        """
        for each in self._tensors:
            tensor = each.known()
            if tensor is None or tensor.data_ptr() != each.address:
                continue
            if _state(tensor) != each.state:
                raise StalePlanError(
                    f"the model's {each.name} was changed in place after it was compiled",
                    hint="compile it again; a plan that was saved, loaded or pickled has a copy",
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return Weights, ()  # what is copied by value shares no memory with the model


def _state(tensor: Any) -> tuple[Any, ...]:
    """Version of a tensor and bytes of some of its elements, where it has them."""
    version = None if tensor.is_inference() else tensor._version
    if not tensor.is_floating_point() or not tensor.numel():
        return version, b""
    some = np.linspace(0, tensor.numel() - 1, _SAMPLED).astype(np.int64)
    values = tensor.detach() if tensor.dim() else tensor.detach()[None]
    at = tuple(index.tolist() for index in np.unravel_index(some, tuple(values.shape)))
    return version, values[at].cpu().double().numpy().tobytes()

"""Results that stay on a device until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.runtime.cuda.device import host_array


def stacked(arrays: Sequence[Any]) -> Any:
    """Arrays of equal shape as one, led by an axis for them: on the device, unless one of them is
    not there or the device has no memory for all of them."""
    if len({type(array) for array in arrays}) == 1:
        with suppress(MemoryError):
            return np.stack(arrays)  # CuPy answers for its own
    return np.stack([host_array(array) for array in arrays])


class OnDevice(Mapping[str, NDArray[Any]]):
    """Arrays of a device by name, read as NumPy arrays: each is copied when it is first read.

    Args:
        arrays: by name, CuPy arrays; others are what they are.

    Attributes:
        arrays: the same, where they are. torch reads those on a GPU without a copy, by
            ``torch.from_dlpack``.
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = dict(arrays)
        self._copies: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._copies:
            self._copies[name] = host_array(self.arrays[name])
        return self._copies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

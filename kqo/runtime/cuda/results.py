"""Results that stay on a device until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from kqo.runtime.cuda.device import host_array


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

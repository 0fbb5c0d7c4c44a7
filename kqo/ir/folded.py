"""Values of a plan's constants, of which those that others were folded from need not be kept.

A model's batch norms are folded into its kernels, and steps read kernels in layouts of their own:
once those are made, the folded kernels are read again only to be saved, or for another plan of the
same model. Until then their memory, as much as the model's own, is free for the run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from kqo.errors import StalePlanError

Array = NDArray[np.generic]

RELEASED = 1 << 16
"""Bytes from which on a folded constant is worth computing again."""


class Folded:
    """A constant that was computed from others, kept until it is released.

    Args:
        name: of the constant.
        value: what it is.
        again: computes it again.
    """

    __slots__ = ("_again", "_checksum", "_last", "_name", "_value")

    def __init__(self, name: str, value: Array, again: Callable[[], Array]) -> None:
        self._name = name
        self._value: Array | None = value
        self._again = again
        self._last: ref[Array] | None = None
        self._checksum = 0

    def value(self) -> Array:
        """What it is; computed again where it was released and nobody holds it.

        Raises:
            StalePlanError: it is not what it was, since the model was trained on in place.
        """
        held = self._value
        if held is None and self._last is not None:
            held = self._last()
        if held is None:
            held = self._again()
            if zlib.crc32(held.data) != self._checksum:
                raise StalePlanError(
                    f"what the plan's {self._name} was folded from was changed in place after the"
                    " model was compiled",
                    hint="compile it again",
                )
            self._last = ref(held)
        return held

    def release(self) -> None:
        """Keep it no longer."""
        value = self._value
        if value is not None:
            self._checksum, self._last = zlib.crc32(value.data), ref(value)
            self._value = None  # last: other threads may ask meanwhile


class Constants(Mapping[str, Array]):
    """Values by name; it cannot be changed. Constants made of others share what is folded.

    Args:
        given: values by name; of equal names the last holds.
        names: those to take; None for all.
    """

    __slots__ = ("_held",)

    def __init__(
        self, *given: Mapping[str, Array | Folded], names: Collection[str] | None = None
    ) -> None:
        self._held: dict[str, Array | Folded] = {}
        for each in given:
            held = each._held if isinstance(each, Constants) else each
            self._held.update(
                (name, value) for name, value in held.items() if names is None or name in names
            )

    def __getitem__(self, name: str) -> Array:
        value = self._held[name]
        return value.value() if isinstance(value, Folded) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: object) -> bool:
        return name in self._held  # which computes nothing, as the inherited one does

    def __repr__(self) -> str:
        return f"Constants({', '.join(self._held)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Constants, (dict(self),)

    def release(self) -> None:
        """Keep no values that can be computed again."""
        for value in self._held.values():
            if isinstance(value, Folded):
                value.release()


def releasable(name: str, value: Array, again: Callable[[], Array]) -> Array | Folded:
    """The value, as one that can be released where that frees memory worth computing it again."""
    own = isinstance(value, np.ndarray) and value.base is None and value.flags.c_contiguous
    return Folded(name, value, again) if own and value.nbytes >= RELEASED else value

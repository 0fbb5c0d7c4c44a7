"""Values of a plan's constants, of which those that can be had again need not be kept.

A model's batch norms are folded into its kernels, and steps read kernels in layouts of their own:
once those are made, the folded kernels are read again only to be saved, or for another plan of the
same model; and so are the kernels that a plan file holds. Until then their memory, as much as the
model's own, is free for the run.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from kqo.errors import KqoError

Array = NDArray[np.generic]

RELEASED = 1 << 16
"""Bytes from which on a constant is worth computing or reading again."""
_OWN_REFERENCES = 3
"""Of an array: the attribute, the local variable, and the argument of the call that counts."""


class Releasable:
    """A constant that can be had again, kept until it is released.

    Args:
        name: of the constant.
        value: what it is.
        again: computes or reads it again.
        changed: the error to raise where that gives something else, by the constant's name.
    """

    __slots__ = ("_again", "_changed", "_checksum", "_last", "_name", "_value")

    def __init__(
        self,
        name: str,
        value: Array,
        again: Callable[[], Array],
        changed: Callable[[str], KqoError],
    ) -> None:
        self._name = name
        self._value: Array | None = value
        self._again = again
        self._changed = changed
        self._last: ref[Array] | None = None
        self._checksum = 0

    def value(self) -> Array:
        """What it is; had again where it was released and nobody holds it.

        Raises:
            KqoError: it is not what it was.
        """
        held = self._value
        if held is None and self._last is not None:
            held = self._last()
        if held is None:
            held = self._again()
            if zlib.crc32(held.data) != self._checksum:
                raise self._changed(self._name)
            self._last = ref(held)
        return held

    def release(self) -> None:
        """Keep it no longer, unless somebody else does: that would free no memory."""
        value = self._value
        if value is not None and sys.getrefcount(value) <= _OWN_REFERENCES:
            self._checksum, self._last = zlib.crc32(value.data), ref(value)
            self._value = None  # last: other threads may ask meanwhile


class Constants(Mapping[str, Array]):
    """Values by name; it cannot be changed. Constants made of others share what is releasable.

    Args:
        given: values by name; of equal names the last holds.
        names: those to take; None for all.
    """

    __slots__ = ("_held",)

    def __init__(
        self, *given: Mapping[str, Array | Releasable], names: Collection[str] | None = None
    ) -> None:
        self._held: dict[str, Array | Releasable] = {}
        for each in given:
            held = each._held if isinstance(each, Constants) else each
            self._held.update(
                (name, value) for name, value in held.items() if names is None or name in names
            )

    def __getitem__(self, name: str) -> Array:
        value = self._held[name]
        return value.value() if isinstance(value, Releasable) else value

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
        """Keep no values that can be had again, and that nobody else holds."""
        for value in self._held.values():
            if isinstance(value, Releasable):
                value.release()


def releasable(
    name: str, value: Array, again: Callable[[], Array], changed: Callable[[str], KqoError]
) -> Array | Releasable:
    """The value, as one that can be released where that frees memory worth having it again for.

    The arguments are those of :class:`Releasable`.
    """
    own = isinstance(value, np.ndarray) and value.base is None and value.flags.c_contiguous
    return Releasable(name, value, again, changed) if own and value.nbytes >= RELEASED else value

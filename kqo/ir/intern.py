"""Interning: equal values are one object, so that comparison and hashing take constant time.

Plans and regions are DAGs: a residual network reads every block's region twice, and a hash that
walks the expression as a tree would take time exponential in the depth.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, fields
from typing import Any, dataclass_transform


class _Held(weakref.ref[Any]):
    """What is interned, for as long as it is used, and its key."""

    __slots__ = ("key",)
    key: Any


_INTERNED: dict[Any, _Held] = {}
_LOCK = threading.RLock()


# Bound here, since modules may be gone when the last objects go.
def _forget(held: Any, table: dict[Any, _Held] = _INTERNED, lock: Any = _LOCK) -> None:
    """An object is used no more. There may be another of its key by now."""
    key = held.key
    with lock:
        if table.get(key) is held:
            del table[key]


@dataclass_transform(frozen_default=True)
class Interned(type):
    """Metaclass of frozen dataclasses whose construction returns the one object that is equal.

    Attributes:
        field_names: names of a class's fields, in order.
    """

    field_names: tuple[str, ...]

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:  # noqa: D102
        made: Any = dataclass(frozen=True, eq=False, repr=False)(
            super().__new__(mcs, name, bases, space)
        )
        made.field_names = tuple(field.name for field in fields(made))
        return made

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        if kwargs or len(args) != len(cls.field_names):
            made = super().__call__(*args, **kwargs)
            args = tuple(getattr(made, name) for name in cls.field_names)
        else:
            made = None
        key = (cls, *args)
        with _LOCK:
            held = _INTERNED.get(key)
            found = None if held is None else held()
            if found is None:  # most of what rules make is there already
                if made is None:
                    made = object.__new__(cls)  # type: ignore[arg-type]
                    made.__dict__.update(zip(cls.field_names, args, strict=True))
                _INTERNED[key] = kept = _Held(made, _forget)
                kept.key, found = key, made
            return found

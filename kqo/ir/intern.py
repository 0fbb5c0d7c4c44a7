"""Interning: equal values are one object, so that comparison and hashing take constant time.

Plans and regions are DAGs: a residual network reads every block's region twice, and a hash that
walks the expression as a tree would take time exponential in the depth.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, fields
from typing import Any, dataclass_transform

_INTERNED: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
_LOCK = threading.RLock()


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
            found = _INTERNED.get(key)
            if found is None:  # most of what rules make is there already
                if made is None:
                    made = object.__new__(cls)  # type: ignore[arg-type]
                    made.__dict__.update(zip(cls.field_names, args, strict=True))
                _INTERNED[key] = found = made
            return found

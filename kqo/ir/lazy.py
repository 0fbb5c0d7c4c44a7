"""Values that are found out when an object is first asked, and that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class lazily(Generic[T]):
    """``functools.cached_property`` without the lock that it has before Python 3.12.

    Planning asks tens of thousands of nodes, once each. Two threads that ask at once both find out.
    """

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find = find
        self.__doc__ = find.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> lazily[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> lazily[T] | T:
        if instance is None:
            return self
        found = instance.__dict__[self._name] = self._find(instance)
        return found


def kept(find: Callable[[Any], T]) -> Callable[[Any], T]:
    """A function of an object that keeps what was found, so that no table of objects is needed."""
    name = f"{find.__module__}.{find.__qualname__}"

    @wraps(find)
    def ask(of: Any) -> T:
        known = of.__dict__
        if name not in known:
            known[name] = find(of)
        found: T = known[name]
        return found

    return ask

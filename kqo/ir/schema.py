"""Schemas: the key axes of a relation.

A tensor is a relation with one tuple per element: its key is one integer per axis, its value a
number. The batch axis of the model is not part of the key; where an input changes per query, the
relation has the query axis :data:`QUERY` as its first key axis, and every operator carries it
along.

Axis names carry roles. ``z``, ``y``, ``x`` (possibly with digits after) are positions; names that
start with ``k`` are taps of a window; every other name is a feature. The physical design stores one
row per position and one column per feature.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

QUERY = "q"
_POSITION = re.compile(r"[zyx]\d*\Z")
_TAP = re.compile(r"k\w*\Z")
NAME = re.compile(r"[A-Za-z]\w*\Z")


class Axis(NamedTuple):
    """One key axis: its name and number of keys, from 0. The query axis has extent None."""

    name: str
    extent: int | None

    def __str__(self) -> str:
        return f"{self.name}:{'*' if self.extent is None else self.extent}"


Axes = tuple[Axis, ...]
QUERY_AXIS = Axis(QUERY, None)


def axes_of(**extents: int) -> Axes:
    """Axes in the order given: ``axes_of(c=3, y=8, x=8)``."""
    return tuple(Axis(name, extent) for name, extent in extents.items())


def names(axes: Axes) -> tuple[str, ...]:
    """The names of the axes, in order."""
    return tuple(axis.name for axis in axes)


def extent_of(axes: Axes, name: str) -> int:
    """The extent of the axis called ``name``; KeyError where there is none."""
    for axis in axes:
        if axis.name == name:
            if axis.extent is None:
                raise KeyError(f"axis {name} has no fixed extent")
            return axis.extent
    raise KeyError(name)


def has_query(axes: Axes) -> bool:
    """Whether the relation varies by query."""
    return bool(axes) and axes[0].name == QUERY


def without_query(axes: Axes) -> Axes:
    """The axes without the query axis."""
    return axes[1:] if has_query(axes) else axes


def with_query(axes: Axes, query: bool) -> Axes:
    """The axes, led by the query axis where ``query`` holds."""
    axes = without_query(axes)
    return (QUERY_AXIS, *axes) if query else axes


def shape(axes: Axes) -> tuple[int, ...]:
    """Extents of all axes but the query axis."""
    return tuple(axis.extent for axis in without_query(axes) if axis.extent is not None)


@lru_cache(maxsize=4096)
def size(axes: Axes) -> int:
    """Number of keys, per query."""
    return math.prod(shape(axes))


@lru_cache(maxsize=1024)
def is_position(name: str) -> bool:
    """Whether an axis of this name counts positions in space or time."""
    return _POSITION.match(name) is not None


@lru_cache(maxsize=1024)
def is_tap(name: str) -> bool:
    """Whether an axis of this name counts the taps of a window."""
    return _TAP.match(name) is not None


@lru_cache(maxsize=4096)
def positions(axes: Axes) -> Axes:
    """The position axes: together they number the rows of the physical design."""
    return tuple(axis for axis in axes if is_position(axis.name))


@lru_cache(maxsize=4096)
def features(axes: Axes) -> Axes:
    """The axes that are neither positions nor the query: they number the columns."""
    return tuple(a for a in axes if not is_position(a.name) and a.name != QUERY)


def merge_features(axes: Axes) -> Axes:
    """The axes with all features numbered as one, row-major, by the last one's name."""
    merged = features(axes)
    one = Axis(merged[-1].name, size(merged))
    return tuple(one if a == merged[-1] else a for a in axes if a not in merged[:-1])


@lru_cache(maxsize=4096)
def format_axes(axes: Axes) -> str:
    """``(c:3, y:8, x:8)``."""
    return "(" + ", ".join(map(str, axes)) + ")"

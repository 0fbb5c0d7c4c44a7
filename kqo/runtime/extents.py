"""What is worked out by a box's extents: batches have boxes of few extents, again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import TypeVar

Made = TypeVar("Made")
SMALL = 1024
"""Positions of a box up to which what was made for it is kept: some KB."""
MOST = 256
"""Extents that it is kept for."""


def cached_when_small(make: Callable[..., Made]) -> Callable[..., Made]:
    """A function of a box's extents, its first argument, that keeps what it made for small ones."""
    kept = lru_cache(maxsize=MOST)(make)

    @wraps(make)
    def made(extent: tuple[int, ...], *others: Hashable) -> Made:
        return (make if math.prod(extent) > SMALL else kept)(extent, *others)

    return made

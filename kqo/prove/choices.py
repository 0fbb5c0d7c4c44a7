"""Choices that a generator makes, so that what it made can be made again, and smaller.

A generator asks for nothing but numbers. Kept in a list, they are the instance: replayed they give
it again, and with smaller or fewer numbers a simpler one, since every generator has its simplest
answer first. Hypothesis shrinks in the same way (MacIver & Donaldson 2020, Test-Case Reduction via
Test-Case Generation).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
_CHUNKS = (16, 8, 4, 2, 1)


class Choices(ABC):
    """Where a generator's choices come from."""

    @abstractmethod
    def integer(self, lo: int, hi: int) -> int:
        """A number from lo to hi, both included; lo is the simplest."""

    def one_of(self, values: Sequence[T]) -> T:
        """One of the values; the first is the simplest."""
        return values[self.integer(0, len(values) - 1)]

    def boolean(self) -> bool:
        """True or False; False is the simplest."""
        return self.integer(0, 1) == 1


class Recorded(Choices):
    """Random choices, or those of a list; beyond its end the simplest ones.

    Attributes:
        made: the choices so far, each as its distance from the simplest.
    """

    def __init__(self, source: random.Random | Sequence[int]) -> None:
        self._random = source if isinstance(source, random.Random) else None
        self._given: Sequence[int] = () if isinstance(source, random.Random) else source
        self.made: list[int] = []

    def integer(self, lo: int, hi: int) -> int:
        """A number from lo to hi: a random one, or that of the list, cut to fit."""
        at = len(self.made)
        if self._random is not None:
            number = self._random.randrange(hi - lo + 1)
        else:
            number = min(self._given[at], hi - lo) if at < len(self._given) else 0
        self.made.append(number)
        return lo + number


def shrink(
    made: Sequence[int],
    measure: Callable[[Sequence[int]], tuple[int, ...] | None],
    budget: int = 600,
) -> tuple[int, ...]:
    """Choices that are as simple as a search finds them, of which the measure still speaks.

    Args:
        made: choices to start from, whose measure is not None.
        measure: how large what the choices give is, or None where it is not what is sought. Of
            equal ones the shorter list counts as smaller, then the one with smaller numbers.
        budget: the most calls of ``measure``.
    """

    def order(choices: Sequence[int], size: tuple[int, ...]) -> tuple[object, ...]:
        return (*size, len(choices), sum(choices), tuple(choices))

    best = tuple(made)
    first = measure(best)
    assert first is not None
    least = order(best, first)
    calls = 0
    improved = True
    while improved and calls < budget:
        improved = False
        for candidate in _simpler(best):
            if calls >= budget:
                break
            calls += 1
            size = measure(candidate)
            if size is not None and order(candidate, size) < least:
                best, least, improved = candidate, order(candidate, size), True
                break
    return best


def _simpler(made: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Lists with choices left out, with choices made the simplest, with smaller choices."""
    for length in _CHUNKS:
        for at in range(len(made) - length, -1, -1):
            yield made[:at] + made[at + length :]
    for length in _CHUNKS:
        for at in range(0, len(made) - length + 1):
            if any(made[at : at + length]):
                yield made[:at] + (0,) * length + made[at + length :]
    for at, number in enumerate(made):
        for smaller in dict.fromkeys((number // 2, number - 1)):
            if 0 < smaller < number:
                yield (*made[:at], smaller, *made[at + 1 :])

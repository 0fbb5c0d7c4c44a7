"""Choices that a generator makes, so that what it made can be made again, and smaller.

A generator asks for nothing but numbers. Kept in a list, they are the instance: replayed they give
it again, and with smaller or fewer numbers a simpler one, since every generator has its simplest
answer first. Hypothesis shrinks in the same way (MacIver & Donaldson 2020, Test-Case Reduction via
Test-Case Generation).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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
    budget: int = 1000,
) -> tuple[int, ...]:
    """Choices that are as simple as a search finds them, of which the measure still speaks.

    Args:
        made: choices to start from, whose measure is not None.
        measure: how large what the choices give is, or None where it is not what is sought. Of
            equal ones the shorter list counts as smaller, then the one with smaller numbers.
        budget: the most calls of ``measure``.
    """
    return _Search(tuple(made), measure, budget).run()


class _Search:
    """A search that goes on from every smaller list it finds, until a whole round finds none."""

    def __init__(
        self,
        made: tuple[int, ...],
        measure: Callable[[Sequence[int]], tuple[int, ...] | None],
        budget: int,
    ) -> None:
        self._measure, self._left = measure, budget
        self.best = made
        first = measure(made)
        assert first is not None
        self._least = self._order(made, first)

    @staticmethod
    def _order(made: tuple[int, ...], size: tuple[int, ...]) -> tuple[object, ...]:
        return (*size, len(made), sum(made), made)

    def run(self) -> tuple[int, ...]:
        improved = True
        while improved and self._left > 0:
            improved = False
            for simpler in (_shorter, _simplest, _halved, _less):
                for length in _CHUNKS if simpler in (_shorter, _simplest) else (1,):
                    at = len(self.best) - length
                    while at >= 0:
                        if self._try(simpler(self.best, at, length)):
                            improved = True
                            at = min(at, len(self.best) - length)
                        else:
                            at -= 1
            improved = improved or self._lower_and_drop()
        return self.best

    def _lower_and_drop(self) -> bool:
        """One choice less and a later one left out: a smaller number often asks for fewer."""
        for at, number in enumerate(self.best):
            for dropped in range(at + 1, len(self.best) if number else 0):
                made = _less(self.best, at, 1)
                if self._try(_shorter(made, dropped, 1)):
                    return True
        return False

    def _try(self, made: tuple[int, ...]) -> bool:
        if made == self.best or self._left <= 0:
            return False
        self._left -= 1
        size = self._measure(made)
        if size is None or self._order(made, size) >= self._least:
            return False
        self.best, self._least = made, self._order(made, size)
        return True


def _shorter(made: tuple[int, ...], at: int, length: int) -> tuple[int, ...]:
    return made[:at] + made[at + length :]


def _simplest(made: tuple[int, ...], at: int, length: int) -> tuple[int, ...]:
    return made[:at] + (0,) * length + made[at + length :]


def _halved(made: tuple[int, ...], at: int, length: int) -> tuple[int, ...]:
    return (*made[:at], made[at] // 2, *made[at + length :])


def _less(made: tuple[int, ...], at: int, length: int) -> tuple[int, ...]:
    return (*made[:at], max(0, made[at] - 1), *made[at + length :])

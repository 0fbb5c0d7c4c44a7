"""The generator of random small plans as a strategy of Hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from kqo.ir.nodes import Node, walk
from kqo.ir.plan import Plan
from kqo.prove.choices import Choices
from kqo.prove.plans import Case, random_case

T = TypeVar("T")


class Drawn(Choices):
    """Choices that Hypothesis draws."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def integer(self, lo: int, hi: int) -> int:
        return int(self._draw(st.integers(lo, hi)))

    def one_of(self, values: Sequence[T]) -> T:
        return self._draw(st.sampled_from(values))  # type: ignore[no-any-return]


@st.composite
def cases(draw: Any, **options: Any) -> Case:
    """Random small plans; the options are those of ``kqo.prove.plans.random_case``."""
    return random_case(Drawn(draw), **options)


def count(plan: Plan, kind: type[Node]) -> int:
    """Number of nodes of one kind."""
    return sum(isinstance(node, kind) for node in walk(*(root for _, root in plan.roots)))

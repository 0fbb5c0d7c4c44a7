"""The table from ATen operators to the functions that lower them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


class Lowering(NamedTuple):
    """How one operator is lowered.

    Attributes:
        run: the function that does it.
        kind: the kind of layer that it is shown as.
        does: what it is lowered to, in a sentence; ``docs/operators.md`` shows it.
    """

    run: Callable[..., Any]
    kind: str
    does: str


TABLE: dict[str, Lowering] = {}


def lowers(*operators: str, kind: str = "", does: str = "") -> Callable[[_F], _F]:
    """Register a function for ATen operators such as ``aten.relu.default``.

    It is called as ``run(context, *args, **kwargs)`` with the operator's own arguments, where
    tensors are Value or Constant and at least one is a Value; it returns a Value, a Constant, or a
    tuple of such for operators with several results (None for one that cannot be expressed).
    What it does is said by ``does``, or by the first paragraph of its docstring.
    """

    def register(run: _F) -> _F:
        said = does or " ".join((run.__doc__ or "").split("\n\n")[0].split())
        assert said, operators
        for operator in operators:
            assert operator not in TABLE, operator
            TABLE[operator] = Lowering(run, kind or operator.split(".")[1].strip("_"), said)
        return run

    return register

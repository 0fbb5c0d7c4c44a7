"""The memory budget of a run: kept, or refused where no batch is small enough for it."""

from __future__ import annotations

from typing import Protocol

from kqo.errors import ArgumentError


class _Needy(Protocol):
    @property
    def least_bytes(self) -> int: ...


def check_budget(memory: int | None, engine: _Needy) -> None:
    """That a run can keep its budget.

    Args:
        memory: bytes that it may use; None: there is no budget.
        engine: what runs.

    Raises:
        ArgumentError: one query at a time takes more.
    """
    if memory is not None and engine.least_bytes > memory:
        raise ArgumentError(
            "memory",
            f"{memory} bytes",
            f"at least {engine.least_bytes} bytes, which the views and one query at a time take",
        )

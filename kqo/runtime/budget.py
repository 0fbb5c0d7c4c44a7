"""The memory budget of a run: kept, or refused where no batch is small enough for it."""

from __future__ import annotations

from typing import Protocol

from kqo.errors import ArgumentError


class _Needy(Protocol):
    @property
    def least_bytes(self) -> int: ...
    @property
    def planned_bytes(self) -> int: ...


def check_budget(memory: int | None, engine: _Needy, batch: int | None = None) -> None:
    """That a run can keep its budget.

    Args:
        memory: bytes that it may use; None: there is no budget.
        engine: what runs.
        batch: queries of a batch that were asked for.

    Raises:
        ArgumentError: one query at a time takes more, or the batch that was asked for.
    """
    if memory is None:
        return
    needed = engine.least_bytes if batch is None else engine.planned_bytes
    if needed > memory:
        queries = "one query at a time takes" if batch is None else f"batches of {batch} take"
        accepted = f"at least {needed} bytes, which the views and {queries}"
        raise ArgumentError("memory", f"{memory} bytes", accepted)

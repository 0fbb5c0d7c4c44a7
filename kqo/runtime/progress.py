"""How far a run has come, for a person who waits or for the caller."""

from __future__ import annotations

import sys
from typing import Any

from kqo.runtime.engine import Progress


class ProgressBar:
    """A progress bar on stderr, or the caller's function.

    Args:
        wanted: whether to show a bar; None where stderr is a terminal.
        total: number of queries.
        given: called with queries done and their total, in place of the bar.
    """

    def __init__(self, wanted: bool | None, total: int, given: Progress | None) -> None:
        self.given = given
        self.total = total
        self.base = 0
        self.bar: Any = None
        show = sys.stderr.isatty() if wanted is None else wanted
        if given is None and show:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="query", file=sys.stderr, leave=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def start(self, base: int) -> None:
        """Say how many queries were done before those that are counted next."""
        self.base = base

    def update(self, done: int, _: int) -> None:
        """Say how many queries are done, beside those before."""
        if self.given is not None:
            self.given(self.base + done, self.total)
        elif self.bar is not None:
            self.bar.update(self.base + done - self.bar.n)

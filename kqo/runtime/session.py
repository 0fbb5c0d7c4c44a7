"""Queries of one input a few at a time, in any order, on views that are computed once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.plan import Array
from kqo.runtime import blas
from kqo.runtime.engine import Engine, Progress
from kqo.runtime.rows import Ints


class Session:
    """One input, whose queries are answered as they are asked for.

    The engine stays free for other inputs between two calls; the views are computed again after
    such use.

    Args:
        engine: on NumPy.
        inputs: each base relation's values, shaped as its axes.
    """

    def __init__(self, engine: Engine, inputs: Mapping[str, Array]) -> None:
        self._engine = engine
        self._inputs = inputs

    @property
    def round(self) -> int:
        """Queries that one call answers best: a batch for each worker."""
        return self._engine.batch * self._engine.workers

    @property
    def untouched(self) -> int:
        """Number of the query that changes nothing."""
        return self._engine.queries - 1

    def results(self) -> dict[str, NDArray[Any]]:
        """Outputs of all queries (queries + 1, *axes) by output name; NaN, since none is known."""
        found = self._engine.results()
        for values in found.values():
            values.fill(np.nan)
        return found

    def answer(
        self,
        queries: Ints,
        results: dict[str, NDArray[Any]],
        progress: Progress | None = None,
    ) -> None:
        """Write the outputs of the given queries into their rows of the outputs of all.

        Where it is interrupted, the rows of the batches that were done are there.

        Args:
            queries: numbers of queries, each once.
            results: of :meth:`results`.
            progress: called with the number of these queries done and a total.

        Raises:
            ArgumentError: an input is missing or has another shape.
        """
        engine = self._engine
        with (
            engine.holding(self, self._inputs),
            blas.one_thread(),
            np.errstate(all="ignore"),
            ThreadPoolExecutor(engine.workers, thread_name_prefix="kqo") as pool,
        ):
            engine.run_batches(pool, engine.fitting(queries), results, progress)

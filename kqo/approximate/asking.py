"""One image's queries, asked in any order, and what can be said of those that were not."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kqo.approximate.gradient import linear_scores
from kqo.approximate.guess import Guess
from kqo.approximate.interpolate import Ints, Values, weights
from kqo.errors import ArgumentError
from kqo.interop.preprocess import Preprocess
from kqo.ir.plan import Plan
from kqo.options import Options
from kqo.runtime.engine import Engine, Progress
from kqo.runtime.result import Target
from kqo.runtime.session import Session
from kqo.workloads import Occlusion, Placed, Regions

Inputs = dict[str, NDArray[Any]]


class Planned(Protocol):
    """What is needed of a compiled plan; its class comes later in the order of imports."""

    name: str
    logical: Plan
    workload: Occlusion | Regions
    placed: Placed
    options: Options
    preprocess: Preprocess | None
    _whole: Any

    @property
    def engine(self) -> object:
        """What runs the plan."""

    def _inputs(self, given: tuple[Any, ...]) -> tuple[list[Inputs], bool]: ...

    def _may_have_spread(self, answers: Inputs) -> bool: ...


def check_grid(placed: Placed) -> tuple[int, ...]:
    """The grid that the positions fill; ArgumentError where they fill none."""
    if placed.grid is None or placed.cells is None or len(placed) != math.prod(placed.grid):
        raise ArgumentError("workload", "positions that do not fill a grid", "a whole grid")
    return placed.grid


class Asking:
    """One image's outputs, as far as they are known.

    Attributes:
        grid: of the positions.
        round: queries that are best asked at once.
        target: number of the output's value by which cells are chosen, row-major.
        original: its value for the untouched image.
        known: by cell whether its query was answered.
        linear: by cell the target's score as its gradient has it; None where no gradient is taken.

    Args:
        plan: on NumPy, of positions that fill a grid.
        inputs: each base relation's values.
        target: number or name of the class; None: the largest for the untouched image.
        gradient: whether what is not known starts from the gradient, not from what is known.

    Raises:
        ArgumentError: positions that do not fill a grid; a plan for a GPU.
    """

    def __init__(
        self, plan: Planned, inputs: Inputs, target: Target = None, *, gradient: bool = False
    ) -> None:
        engine = plan.engine
        if not isinstance(engine, Engine):
            raise ArgumentError("target", "a plan for a GPU", "a plan with Options(target='numpy')")
        self.grid = check_grid(plan.placed)
        engine.prepare()  # on first use only, and so before any clock runs
        self._plan = plan
        self._inputs, self._gradient = inputs, gradient
        self.linear: Values | None = None
        self._session = Session(engine, inputs)
        self._outputs = self._session.results()
        self._query = np.argsort(plan.placed.cells)  # type: ignore[arg-type]
        self._wanted = target
        self.round = self._session.round
        self.target, self.original = 0, math.nan
        self.known = np.zeros(len(plan.placed), dtype=np.bool_)

    def begin(self) -> None:
        """Answer the untouched image, settle the target, and take its gradient where asked to.

        Raises:
            ArgumentError: a target that there is not; a gradient that cannot be taken.
        """
        untouched = self._session.untouched
        self._session.answer(np.array([untouched]), self._outputs)
        first = self._outputs[self._plan.logical.roots[0][0]]
        values = first[untouched].reshape(-1)
        wanted = self._number(first.shape[1:])
        self.target = int(values.argmax()) if wanted is None else wanted
        self.original = float(values[self.target])
        if self._gradient:
            by_query = linear_scores(self._plan, self._inputs, self.target, self.original)
            self.linear = by_query[self._query]

    def _number(self, extents: tuple[int, ...]) -> int | None:
        wanted = self._wanted
        count = math.prod(extents)
        if wanted is None:
            return None
        preprocess = self._plan.preprocess
        names = preprocess.classes if preprocess is not None else ()
        if isinstance(wanted, str) and wanted in names:
            wanted = names.index(wanted)
        if isinstance(wanted, (int, np.integer)) and -count <= wanted < count:
            return int(wanted) % count
        if isinstance(wanted, (tuple, list)) and len(wanted) == len(extents):
            wrapped = [int(i) % n for i, n in zip(wanted, extents, strict=True)]
            return int(np.ravel_multi_index(wrapped, extents))
        raise ArgumentError("target", repr(wanted), f"a number within {count} outputs")

    def ask(self, cells: Ints, progress: Progress | None = None) -> None:
        """Answer the queries of some cells; where it is interrupted, what was done is kept."""
        try:
            self._session.answer(self._query[cells], self._outputs, progress)
        finally:
            first = self._outputs[self._plan.logical.roots[0][0]]
            answered = first[self._query[cells]].reshape(len(cells), -1)
            self.known[cells[~np.isnan(answered).all(axis=1)]] = True

    def is_finite(self) -> bool:
        """Whether no value that is not finite can have spread to the wrong queries."""
        rows = self._query[self.known]
        return not self._plan._may_have_spread({n: v[rows] for n, v in self._outputs.items()})

    def scores(self) -> Values:
        """The target's score by cell, NaN where it is not known."""
        first = self._outputs[self._plan.logical.roots[0][0]]
        column = first.reshape(len(first), -1)[:, self.target]
        return np.asarray(column[self._query], dtype=np.float64)

    def guess(self) -> Guess:
        """The target's heatmap as far as it is known."""
        return Guess(self.scores(), self.known, self.grid, self.linear)

    def outputs(self) -> Inputs:
        """Outputs of all queries (queries + 1, *axes) by name, unknown ones interpolated from
        known ones; those of the untouched image where none is known."""
        if self.known.all():
            return self._outputs
        known, unknown = self._query[self.known], self._query[~self.known]
        if len(known):
            found = weights(self.grid, np.flatnonzero(self.known), np.flatnonzero(~self.known))
        for values in self._outputs.values():
            values[unknown] = found.apply(values[known]) if len(known) else values[-1]
        if self.linear is not None:
            first = self._outputs[self._plan.logical.roots[0][0]]
            column = self.guess().values[~self.known]
            first.reshape(len(first), -1)[unknown, self.target] = column
        return self._outputs

    def computed(self) -> NDArray[np.bool_]:
        """By query whether it was answered."""
        found = np.empty(len(self.known), dtype=np.bool_)
        found[self._query] = self.known
        return found

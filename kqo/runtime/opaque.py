"""Rows of a relation that a function of whole relations gives: what torch runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.ir.nodes import Opaque
from kqo.ir.schema import Axes, features, names, positions, shape, without_query
from kqo.planner.physical import Step
from kqo.runtime.bind import Binder, natural_reads
from kqo.runtime.rows import ZERO, everything, lookup

Values = NDArray[Any]
Functions = Mapping[str, Callable[..., Sequence[Values]]]
"""By the name of Opaque nodes: functions of arrays (queries, ...) that give one per output."""


def assemble(binder: Binder, table: int, axes: Axes, count: int, delta: bool) -> Values:
    """Whole relations of ``count`` queries, shape (count, *axes)."""
    about = binder.tables[table]
    out = everything(about.positions, count)
    source = binder.source(table, delta)
    index = lookup(out.points, source, natural_reads(about.positions), (), ZERO)
    rows = binder.buffers[table][index[:, 0]]
    own = (*about.positions, *about.features)
    shaped = rows.reshape(count, *shape(own))
    order = [names(own).index(n) for n in names(axes)]
    return shaped.transpose(0, *(i + 1 for i in order))


class OpaqueRows:
    """Runs the function of an Opaque node over whole relations, and writes all rows.

    Args:
        step: its node is Opaque.
        binder: where rows lie.
        count: queries.
        functions: by name.
        made: results of this batch so far, by node name and arguments, since a function with
            several outputs has a node for each.

    Raises:
        PlanError: there is no function for the node.
    """

    def __init__(
        self,
        step: Step,
        binder: Binder,
        count: int,
        functions: Functions,
        made: dict[Any, Sequence[Values]],
    ) -> None:
        assert isinstance(step.node, Opaque)
        self.node = step.node
        self.step = step
        self.binder = binder
        self.count = count
        self.made = made
        if step.node.name not in functions:
            raise PlanError(f"{step.node.name}: torch runs it, and there is no function for it")
        self.function = functions[step.node.name]

    def write(self, target: Values) -> None:
        """Write the rows of every query."""
        key = (self.node.name, self.node.args, self.step.delta)
        if key not in self.made:
            inputs = [
                assemble(self.binder, table, without_query(arg.schema), self.count, self.step.delta)
                for arg, table in zip(self.node.args, self.step.sources, strict=True)
                if table is not None
            ]
            self.made[key] = self.function(*inputs)
        value = self.made[key][self.node.index]
        axes = self.node.axes
        own = (*positions(axes), *features(axes))
        order = [names(axes).index(name) for name in names(own)]
        rows = np.asarray(value).transpose(0, *(i + 1 for i in order))
        target[:] = rows.reshape(target.shape)

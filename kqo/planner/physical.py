"""The physical plan: which relations are stored as rows, and which step computes each.

Immutable, and independent of any position or image: rows are counted when the plan is bound
(:mod:`kqo.runtime.bind`).
"""

from __future__ import annotations

from dataclasses import dataclass

from kqo.ir.folded import Constants
from kqo.ir.nodes import Node
from kqo.ir.region import Region
from kqo.ir.schema import Axes, features, positions, size, without_query

LARGE_KERNEL = 16 << 20
"""Bytes from which on a kernel is used in the memory order that it has; activations are permuted
instead."""


@dataclass(frozen=True, slots=True)
class Table:
    """A relation stored as rows: one row per position, one column per feature.

    Attributes:
        id: its number in the plan.
        name: the layer that computes it, for people.
        axes: its key axes without the query axis.
        view: whether it has view rows (one per position, computed once per input).
        region: which positions have delta rows, per query; None where nothing varies by query.
    """

    id: int
    name: str
    axes: Axes
    view: bool
    region: Region | None

    @property
    def positions(self) -> Axes:
        """Position axes, which number its rows."""
        return positions(self.axes)

    @property
    def features(self) -> Axes:
        """Feature axes, which number its columns."""
        return features(without_query(self.axes))

    @property
    def rows(self) -> int:
        """Rows of the whole relation."""
        return size(self.positions)

    @property
    def columns(self) -> int:
        """Values per row."""
        return size(self.features)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the plan.

    Attributes:
        name: the layer it comes from.
        form: the template that implements it.
        node: the plan node whose rows it computes.
        table: id of the table it writes.
        delta: whether it writes delta rows (once per batch) or view rows.
        once: whether its view rows are computed once per input rather than once per batch.
        sources: ids of the tables it reads, aligned with the node's data inputs; None for
        constants.
        rule: the physical rule that chose the form; empty for the plain implementation.
        shared: whether it computes rows that are equal once per batch.
        siblings: the steps behind it whose rows it computes too, by one product with its own.
        leader: id of the table whose step computes the rows, for a sibling of that step.
    """

    name: str
    form: str
    node: Node
    table: int
    delta: bool
    once: bool
    sources: tuple[int | None, ...]
    rule: str = ""
    shared: bool = False
    siblings: tuple[Step, ...] = ()
    leader: int | None = None

    @property
    def members(self) -> tuple[Step, ...]:
        """The steps whose rows are computed with this one's: itself, then its siblings."""
        return (self, *self.siblings)

    @property
    def writes(self) -> tuple[int, ...]:
        """Ids of the tables that it writes, with its siblings'."""
        return tuple(step.table for step in self.members)

    @property
    def reads(self) -> tuple[int, ...]:
        """Ids of the tables that it reads, with its siblings'."""
        return tuple(t for step in self.members for t in step.sources if t is not None)


@dataclass(frozen=True, slots=True)
class PhysicalPlan:
    """Tables and steps in order of execution, and which table holds each output.

    Attributes:
        name: the model's name.
        tables: all stored relations, by id.
        steps: view steps and delta steps, each after those that it reads.
        scans: ids of the tables that hold base relations, which each input fills.
        roots: output name, table id and key axes of the output, in the model's order.
        constants: values of the Const nodes that the steps read.
        dtype: float32 or float64.
    """

    name: str
    tables: tuple[Table, ...]
    steps: tuple[Step, ...]
    scans: tuple[int, ...]
    roots: tuple[tuple[str, int, Axes], ...]
    constants: Constants
    dtype: str

    @property
    def changing(self) -> tuple[Table, ...]:
        """The tables of base relations that queries change."""
        return tuple(self.tables[t] for t in self.scans if self.tables[t].region is not None)

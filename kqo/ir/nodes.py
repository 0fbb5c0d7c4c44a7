"""Logical plan nodes: relational algebra over tensors.

A node is a frozen value with named fields, and interned: equal nodes are one object, so that common
subplans are shared and comparison is identity. Every node has a ``schema``, its key axes; where any
input varies by query the query axis leads it, and every operator carries it along (a Group never
aggregates over it). Convolution, pooling and normalization are no nodes: they are joins and groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from kqo.errors import PlanError
from kqo.ir.equations import Condition
from kqo.ir.intern import Interned
from kqo.ir.lazy import lazily
from kqo.ir.region import Region
from kqo.ir.scalar import Expr
from kqo.ir.schema import (
    Axes,
    Axis,
    has_query,
    merge_features,
    names,
    shape,
    with_query,
    without_query,
)

GROUPED = "grouped_gemm"
AGGREGATES = ("sum", "mean", "max", "min")
COMBINES = ("mul", "add", "sub", "div", "max", "min", "pow", "left", "gt", "ge", "eq", "when")


class Node(metaclass=Interned):
    """Base of all plan nodes.

    Attributes:
        op: name of the operator.
        reads: names of the fields that hold input nodes.
    """

    op: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.op = cls.__name__
        kinds = ("Node", "tuple[Node, ...]")
        cls.reads = tuple(name for name, kind in cls.__annotations__.items() if kind in kinds)

    @lazily
    def schema(self) -> Axes:
        """Key axes of the relation, led by the query axis where it varies by query."""
        axes = without_query(self._axes())
        for source in self.inputs:
            if has_query(source.schema):
                return with_query(axes, True)
        return axes

    def _axes(self) -> Axes:
        """Key axes without regard to the query axis."""
        raise NotImplementedError

    @lazily
    def inputs(self) -> tuple[Node, ...]:
        """Input nodes, in field order."""
        found: list[Node] = []
        for name in self.reads:
            value = getattr(self, name)
            if isinstance(value, tuple):
                found += value
            else:
                found.append(value)
        return tuple(found)

    def with_inputs(self, inputs: tuple[Node, ...]) -> Node:
        """The same operator over other inputs, in the order of ``inputs``."""
        rest = iter(inputs)
        values = {name: getattr(self, name) for name in type(self).field_names}
        for name in self.reads:
            several = values[name]
            values[name] = (
                tuple(next(rest) for _ in several) if isinstance(several, tuple) else next(rest)
            )
        return type(self)(*values.values())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in type(self).field_names)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={v.op if isinstance(v := getattr(self, name), Node) else v!r}"
            for name in type(self).field_names
        )
        return f"{self.op}({shown})"


class Scan(Node):
    """A base relation that may change: the image, or the kernels of a layer."""

    name: str
    axes: Axes

    def _axes(self) -> Axes:
        return self.axes


class Const(Node):
    """A base relation that does not change. Its values are in the plan's constants, by name."""

    name: str
    axes: Axes

    def _axes(self) -> Axes:
        return self.axes


class Domain(Node):
    """All keys of the axes, each with value 1. Pooling joins its input with a domain of taps."""

    axes: Axes

    def _axes(self) -> Axes:
        return self.axes


class Join(Node):
    """Natural join of two relations under conditions that bind axes of the left one.

    Output axes: the left's in order, where a bound axis gives place to the output axis of its own
    name if there is one and vanishes otherwise (it is a function of the others); then the right's;
    then what remains of ``axes``, which declares those that neither side has. The value is
    ``combine(left, right)``; ``left`` ignores the right value.
    """

    left: Node
    right: Node
    on: tuple[Condition, ...]
    axes: Axes
    combine: str

    def _axes(self) -> Axes:
        return _joined(self.left.schema, self.right.schema, self.on, self.axes)


def _joined(left: Axes, right: Axes, on: tuple[Condition, ...], declared: Axes) -> Axes:
    """Axes of a join of relations with these axes."""
    left, new = without_query(left), (*without_query(right), *declared)
    out = {axis.name: axis for axis in left}
    if on:
        bound, named = {condition.axis for condition in on}, {axis.name: axis for axis in new}
        out = {
            name: named[name] if name in bound else axis
            for name, axis in out.items()
            if name not in bound or name in named
        }
    for axis in new:
        out.setdefault(axis.name, axis)
    return tuple(out.values())


class Group(Node):
    """Group by the axes ``by`` (in that order), aggregate over all others.

    Groups are dense: a group without members has the aggregate's identity (0 for sum, -inf for max,
    inf for min); ``mean`` divides by the number of members.
    """

    input: Node
    by: tuple[str, ...]
    agg: str

    def _axes(self) -> Axes:
        return _grouped(self.input.schema, self.by)


def _grouped(axes: Axes, by: tuple[str, ...]) -> Axes:
    """Axes of a group-by."""
    found = {axis.name: axis for axis in axes}
    missing = [name for name in by if name not in found]
    if missing:
        raise PlanError(f"Group by {missing[0]}: the input has axes {names(axes)}")
    return tuple(found[name] for name in by)


class Map(Node):
    """A scalar expression of ``v`` applied to every value."""

    input: Node
    fn: Expr

    def _axes(self) -> Axes:
        return self.input.schema


class Union(Node):
    """Concatenation: a union of inputs whose keys are shifted along an axis by what precedes."""

    parts: tuple[Node, ...]
    axis: str

    def _axes(self) -> Axes:
        total = 0
        for node in self.parts:
            total += dict(node.schema)[self.axis] or 0
        first = without_query(self.parts[0].schema)
        return tuple(Axis(a.name, total if a.name == self.axis else a.extent) for a in first)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each input starts along the axis."""
        starts, total = [], 0
        for node in self.parts:
            starts.append(total)
            total += dict(node.schema)[self.axis] or 0
        return tuple(starts)


class Slice(Node):
    """The tuples of a relation whose keys lie in a region; the others are absent, not zero."""

    input: Node
    at: Region

    def _axes(self) -> Axes:
        return self.input.schema


class Rekey(Node):
    """A bijection of keys: the axes are put in ``order``, then numbered anew, row-major, as
    ``axes``."""

    input: Node
    order: tuple[str, ...]
    axes: Axes

    def _axes(self) -> Axes:
        return self.axes


class Overlay(Node):
    """The base relation with the values of ``patch`` in place of its own where the region ``at``
    holds.

    The result varies by query, since the region does. The patch may lack axes of the base: its
    value is then the same along them.
    """

    base: Node
    patch: Node
    at: Region

    @lazily
    def schema(self) -> Axes:
        """Key axes of the base, led by the query axis."""
        return with_query(self.base.schema, True)


class Saved(Node):
    """A materialized view: computed once per input, shared by all queries."""

    input: Node

    def _axes(self) -> Axes:
        return self.input.schema


class Opaque(Node):
    """Output ``index`` of a subgraph that the IR cannot express, run by torch. Last resort."""

    args: tuple[Node, ...]
    name: str
    index: int
    axes: Axes

    def _axes(self) -> Axes:
        return self.axes


class Physical(Node):
    """A physical operator: an implementation of the logical nodes that it stands for.

    ``form`` names the implementation (a template of ``codegen/``). The join-and-group that it
    implements is given by ``input``, ``weight``, ``on``, ``axes``, ``by``, ``combine`` and ``agg``,
    as in Join and Group; the epilogue ``tail`` is an expression over ``v``, the aggregate's value,
    and over ``a0``, ``a1``, ... the ``operands``, which are joined naturally. The form
    ``grouped_gemm`` numbers the features as one axis, by the name of the last one.
    """

    form: str
    input: Node
    weight: Node
    on: tuple[Condition, ...]
    axes: Axes
    by: tuple[str, ...]
    combine: str
    agg: str
    tail: Expr
    operands: tuple[Node, ...]
    tile: int

    def _axes(self) -> Axes:
        if not self.agg:
            return self.axes
        joined = _joined(self.input.schema, self.weight.schema, self.on, self.axes)
        found = _grouped(joined, self.by)
        return merge_features(found) if self.form == GROUPED else found


LOGICAL: tuple[type[Node], ...] = (
    Scan, Const, Domain, Join, Group, Map, Union, Slice, Rekey, Overlay, Saved, Opaque,
)  # fmt: skip
OPERATORS: dict[str, type[Node]] = {**{cls.__name__: cls for cls in LOGICAL}, "Physical": Physical}


def walk(*roots: Node) -> Iterator[Node]:
    """Every node below the roots once, inputs before their readers, in a fixed order."""
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if node in seen:
            continue
        if done:
            seen.add(node)
            yield node
            continue
        stack.append((node, True))
        stack.extend((i, False) for i in reversed(node.inputs) if i not in seen)


def shape_of(node: Node) -> tuple[int, ...]:
    """Extents of a node's axes, without the query axis."""
    return shape(node.schema)

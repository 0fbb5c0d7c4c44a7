"""The verifier: whether a plan is well formed. It runs after every rewrite in the tests.

What a node may be is said by its class (:mod:`kqo.ir.nodes`); here it is checked, one function per
operator. :mod:`kqo.ir.verify_region` checks regions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from kqo.errors import PlanError
from kqo.ir.equations import Condition, Ranged
from kqo.ir.nodes import (
    AGGREGATES,
    COMBINES,
    Const,
    Domain,
    Group,
    Join,
    Map,
    Node,
    Opaque,
    Overlay,
    Physical,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
    walk,
)
from kqo.ir.physical import epilogue_operands, stands_for, unnumbered
from kqo.ir.plan import Plan
from kqo.ir.scalar import Expr, variables
from kqo.ir.schema import (
    NAME,
    QUERY,
    Axes,
    extent_of,
    format_axes,
    has_query,
    names,
    shape,
    size,
    without_query,
)
from kqo.ir.text import Labels, format_definition
from kqo.ir.verify_region import region_axes, varies


def verify(plan: Plan | Iterable[Node], *, values: bool = True) -> None:
    """Check that a plan, or the nodes below some roots, are well formed.

    Args:
        plan: a plan, or root nodes. Of root nodes alone, regions over base relations that are not
            below them pass unchecked.
        values: whether the constants' values are checked as well; for plans only.

    Raises:
        PlanError: with the definition of the first node that is not well formed, and what is wrong.
    """
    if isinstance(plan, Plan):
        _verify_outputs(plan)
        roots = [node for _, node in plan.roots]
    else:
        roots = list(plan)
    nodes = list(walk(*roots))
    relations = _relations(nodes)
    checker = _Checker(relations, whole=isinstance(plan, Plan))
    for node in nodes:
        try:
            checker.check(node)
            if values and isinstance(plan, Plan) and isinstance(node, Const):
                _check_values(node, plan.constants)
        except PlanError as error:
            raise PlanError(f"{_shown(node, roots)}: {error.message}") from None


def _shown(node: Node, roots: list[Node]) -> str:
    return format_definition(node, Labels.of(roots))


def _verify_outputs(plan: Plan) -> None:
    if not plan.roots:
        raise PlanError(f"plan {plan.name} has no outputs")
    seen = set()
    for name, _ in plan.roots:
        if name in seen:
            raise PlanError(f"plan {plan.name} has two outputs named {name}")
        seen.add(name)
    if plan.dtype not in ("float32", "float64"):
        raise PlanError(f"dtype {plan.dtype}; accepted: float32, float64")


def _relations(nodes: list[Node]) -> dict[str, Node]:
    """Base relations by name; one name stands for one relation."""
    found: dict[str, Node] = {}
    for node in nodes:
        if isinstance(node, (Scan, Const)) and found.setdefault(node.name, node) is not node:
            other = found[node.name]
            raise PlanError(
                f"two base relations are named {node.name}: {other.op} {format_axes(other.schema)} "
                f"and {node.op} {format_axes(node.schema)}"
            )
    return found


def _check_values(node: Const, constants: Mapping[str, Any]) -> None:
    if node.name not in constants:
        raise PlanError("the plan has no values for it")
    value = constants[node.name]
    if value.shape != shape(node.axes):
        raise PlanError(f"its values have shape {value.shape}, its axes {shape(node.axes)}")
    if not (np.issubdtype(value.dtype, np.number) or value.dtype in (bool, object)):
        raise PlanError(f"its values have dtype {value.dtype}; accepted: numbers")


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise PlanError(message)


def _check_axes(axes: Axes, *, query: bool = False) -> None:
    seen = set()
    for axis in axes:
        _need(axis.name not in seen, f"axis {axis.name} occurs twice")
        seen.add(axis.name)
        if axis.name == QUERY:
            _need(query and axis is axes[0], "the query axis is carried along, never declared")
            continue
        _need(NAME.match(axis.name) is not None, f"{axis.name!r} is no name of an axis")
        _need(axis.extent is not None and axis.extent >= 1, f"axis {axis}: extent is not positive")


def _check_names(given: tuple[str, ...], axes: Axes, what: str) -> None:
    for name, count in ((n, given.count(n)) for n in given):
        _need(name != QUERY, f"{what} names the query axis, which is carried along")
        _need(name in names(axes), f"{what} {name}: the input has axes {format_axes(axes)}")
        _need(count == 1, f"{what} names {name} twice")


def _check_expr(fn: Expr, known: Iterable[str]) -> None:
    unknown = sorted(variables(fn) - set(known))
    _need(not unknown, f"the expression reads {', '.join(unknown)}; known: {', '.join(known)}")


def _check_within(part: Axes, whole: Axes, what: str) -> None:
    """Every axis of ``part`` is an axis of ``whole``, of the same extent."""
    for axis in without_query(part):
        _need(axis in whole, f"{what} has axis {axis}, not among {format_axes(whole)}")


def _check_join(left: Axes, right: Axes, on: tuple[Condition, ...], axes: Axes) -> None:
    """Conditions bind axes of the left side once and read output axes; shared axes agree."""
    left, right = without_query(left), without_query(right)
    _check_axes(axes)
    bound: set[str] = set()
    for condition in on:
        _need(
            condition.axis in names(left),
            f"condition {condition}: the left side has axes {format_axes(left)}",
        )
        _need(condition.axis not in bound, f"two conditions bind {condition.axis}")
        bound.add(condition.axis)
    free = {axis.name: axis for axis in left if axis.name not in bound}
    for axis in axes:
        _need(axis.name not in names(right), f"declared axis {axis.name} is one of the right side")
        _need(axis.name not in free, f"declared axis {axis.name} is a free one of the left side")
    for axis in right:
        other = free.get(axis.name, axis)
        _need(
            other == axis,
            f"axis {axis.name} has extent {other.extent} on the left, {axis.extent} on the right",
        )
    output = (*free.values(), *right, *axes)
    for condition in on:
        _check_condition(condition, output)


def _check_condition(condition: Condition, output: Axes) -> None:
    for name in condition.reads:
        _need(
            name in names(output),
            f"condition {condition} reads {name}; the output has axes {format_axes(output)}",
        )
    if isinstance(condition, Ranged):
        lo, hi = condition.lo, condition.hi
        extent = extent_of(output, condition.out)
        _need(
            len(lo) == len(hi) == extent,
            f"condition {condition}: tables of {len(lo)} and {len(hi)} keys for {extent}",
        )
        _need(
            all(a <= b for table in (lo, hi) for a, b in itertools.pairwise(table)),
            f"condition {condition}: a table decreases",
        )
    else:
        _need(condition.scale != 0, f"condition {condition}: the scale is 0")


class _Checker:
    """Checks nodes, given the base relations; remembers the axes of regions."""

    def __init__(self, relations: Mapping[str, Node], whole: bool) -> None:
        self._relations = relations
        self._whole = whole
        self._regions: dict[Any, Axes | None] = {}
        self._checks: dict[type[Node], Callable[[Any], None]] = {
            Scan: lambda node: _check_axes(node.axes),
            Const: lambda node: _check_axes(node.axes),
            Domain: lambda node: _check_axes(node.axes),
            Join: self._join,
            Group: self._group,
            Map: lambda node: _check_expr(node.fn, ("v",)),
            Union: self._union,
            Slice: self._slice,
            Rekey: self._rekey,
            Overlay: self._overlay,
            Saved: self._saved,
            Opaque: self._opaque,
            Physical: self._physical,
        }

    def check(self, node: Node) -> None:
        """Raise PlanError, without the node's definition, where it is not well formed."""
        check = self._checks.get(type(node))
        _need(check is not None, f"{node.op} is no operator of the IR")
        assert check is not None
        check(node)
        _check_axes(node.schema, query=True)

    def _join(self, node: Join) -> None:
        accepted = ", ".join(COMBINES)
        _need(node.combine in COMBINES, f"combine {node.combine!r}; accepted: {accepted}")
        _check_join(node.left.schema, node.right.schema, node.on, node.axes)

    def _group(self, node: Group) -> None:
        accepted = ", ".join(AGGREGATES)
        _need(node.agg in AGGREGATES, f"aggregate {node.agg!r}; accepted: {accepted}")
        _check_names(node.by, node.input.schema, "by")

    def _union(self, node: Union) -> None:
        _need(bool(node.parts), "a union of nothing")
        first = without_query(node.parts[0].schema)
        for i, part in enumerate(node.parts):
            axes = without_query(part.schema)
            _need(node.axis in names(axes), f"part {i} {format_axes(axes)} has no axis {node.axis}")
            rest = {axis for axis in axes if axis.name != node.axis}
            _need(
                rest == {axis for axis in first if axis.name != node.axis},
                f"part {i} {format_axes(axes)} and part 0 {format_axes(first)} differ "
                f"beside axis {node.axis}",
            )

    def _slice(self, node: Slice) -> None:
        _need(
            has_query(node.input.schema) or not varies(node.at),
            "the region varies by query, the input does not",
        )
        self._region(node.at, node.input.schema)

    def _rekey(self, node: Rekey) -> None:
        axes = without_query(node.input.schema)
        _check_names(node.order, axes, "order")
        missing = sorted(set(names(axes)) - set(node.order))
        _need(not missing, f"order leaves out {', '.join(missing)}")
        _check_axes(node.axes)
        _need(
            size(axes) == size(node.axes),
            f"{format_axes(axes)} has {size(axes)} keys, {format_axes(node.axes)} "
            f"has {size(node.axes)}",
        )

    def _overlay(self, node: Overlay) -> None:
        _need(not has_query(node.base.schema), "the base varies by query")
        _check_within(node.patch.schema, node.base.schema, "the patch")
        self._region(node.at, node.base.schema)

    def _region(self, at: Any, schema: Axes) -> None:
        axes = region_axes(at, self._relations, self._whole, self._regions)
        wanted = without_query(schema)
        _need(
            axes is None or set(axes) == set(wanted),
            f"the region is over {format_axes(axes or ())}, the relation {format_axes(wanted)}",
        )

    def _saved(self, node: Saved) -> None:
        _need(not has_query(node.input.schema), "a materialized view cannot vary by query")

    def _opaque(self, node: Opaque) -> None:
        _need(node.index >= 0, f"output number {node.index} is negative")
        _check_axes(node.axes)

    def _physical(self, node: Physical) -> None:
        """The logical nodes that it stands for are sound, and the epilogue reads what there is."""
        logical = stands_for(node)
        below = unnumbered(logical)
        if isinstance(below, Group):
            assert isinstance(below.input, Join)
            self._join(below.input)
            self._group(below)
        self._checks[type(logical)](logical)
        axes = without_query(logical.schema)
        _need(
            bool(node.agg) or set(axes) == set(node.axes),
            f"axes {format_axes(node.axes)}; it stands for a relation over {format_axes(axes)}",
        )
        operands = epilogue_operands(node)
        for name, operand in operands.items():
            _check_within(operand.schema, node.schema, f"operand {name}")
        _check_expr(node.tail, ("v", *operands))

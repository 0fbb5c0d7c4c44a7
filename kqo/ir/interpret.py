"""The reference interpreter: what a plan means. It is written to be evidently right, not fast.

Every relation is held whole: an array of values over all its keys, and a mask of the tuples that
are present. Values are float64, or exact rationals (``fractions.Fraction``; infinities and NaN stay
floats).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf, isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError, PlanError
from kqo.ir.keys import Mask, key_grid, key_shape, keys_read
from kqo.ir.magnitude import noticed
from kqo.ir.nodes import (
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
)
from kqo.ir.physical import epilogue_operands, stands_for, unnumbered
from kqo.ir.plan import Plan
from kqo.ir.region import Region, Shrink
from kqo.ir.region_mask import Box, Masked, changed_mask, region_mask, reorder
from kqo.ir.scalar import FUNCTIONS, Call, Expr, Num, Var, evaluate
from kqo.ir.schema import Axes, Axis, has_query, names, shape, with_query, without_query
from kqo.ir.verify import verify

Values = NDArray[Any]
_FLOAT: dict[str, Callable[..., Values]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
}
_IDENTITY = {"sum": 0, "max": -inf, "min": inf, "mean": nan}
_REDUCE: dict[str, np.ufunc] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def interpret(
    plan: Plan,
    scans: Mapping[str, Values],
    regions: Mapping[str, Sequence[Sequence[Box]]] | None = None,
    queries: int | None = None,
    *,
    exact: bool = False,
    opaque: Mapping[str, Callable[..., Any]] | None = None,
) -> dict[str, Values]:
    """Evaluate a plan.

    Args:
        plan: a well-formed plan; it is verified first.
        scans: values of the base relations by name, shaped as their axes.
        regions: by base relation, for each query a list of boxes; a box is one (lo, hi) per axis of
            the Scan, hi exclusive.
        queries: number of queries; by default that of ``regions``, else 1.
        exact: whether to compute with exact rationals. Functions that leave the rationals are
            computed in float, and the result taken as a rational.
        opaque: functions by name for Opaque nodes. Each is called once per query with one array per
            argument, and returns an array or, where the node's index may exceed 0, a tuple.

    Returns:
        Values by output name, shaped as the output's axes, led by the queries where it varies by
        query; float64, or objects where ``exact``. An absent tuple is NaN.

    Raises:
        PlanError: the plan is malformed, or has an Opaque node without a function.
        ArgumentError: a base relation or its boxes are missing or of the wrong shape.
    """
    verify(plan)
    regions = regions or {}
    counts = {len(boxes) for boxes in regions.values()} | ({queries} if queries else set())
    if len(counts) > 1:
        raise ArgumentError("regions", f"{sorted(counts)} queries", "the same number everywhere")
    run = _Run(plan, scans, next(iter(counts), 1), exact, opaque or {})
    for scan in plan.scans:
        if scan.name in regions:
            mask = changed_mask(scan.axes, regions[scan.name])
            run.changed[scan.name] = (scan.axes, mask)
    results: dict[Node, _Relation] = {}
    with np.errstate(all="ignore"):
        for node in plan.nodes():
            results[node] = run.evaluate(node, [results[source] for source in node.inputs])
    return {name: np.where(results[n].present, results[n].values, nan) for name, n in plan.roots}


@dataclass(frozen=True, slots=True, eq=False)
class _Relation:
    """Values over all keys of the axes, and which tuples are present."""

    axes: Axes
    values: Values
    present: Mask

    def over(self, axes: Axes) -> _Relation:
        """The relation with its axes in the order of ``axes``; extent 1 where it has none."""
        order = [names(self.axes).index(a.name) for a in axes if a in self.axes]
        missing = tuple(i for i, axis in enumerate(axes) if axis not in self.axes)
        return _Relation(
            axes,
            np.expand_dims(self.values.transpose(order), missing),
            np.expand_dims(self.present.transpose(order), missing),
        )


class _Run:
    """Evaluates nodes one by one, given the results of their inputs."""

    def __init__(
        self,
        plan: Plan,
        scans: Mapping[str, Values],
        queries: int,
        exact: bool,
        opaque: Mapping[str, Callable[..., Any]],
    ) -> None:
        self._plan = plan
        self._scans = scans
        self._queries = queries
        self._exact = exact
        self._opaque = opaque
        self.changed: dict[str, Masked] = {}
        self._masks: dict[Region, Masked] = {}
        self._measured: set[Region] = set()

    def evaluate(self, node: Node, inputs: list[_Relation]) -> _Relation:
        """The relation that a node stands for."""
        if isinstance(node, Scan):
            if node.name not in self._scans:
                raise ArgumentError("scans", sorted(self._scans), f"values for {node.name}")
            return self._base(node.axes, self._scans[node.name], node.name)
        if isinstance(node, Const):
            return self._base(node.axes, self._plan.constants[node.name], node.name)
        if isinstance(node, Domain):
            return self._base(node.axes, np.ones(shape(node.axes)), "Domain")
        if isinstance(node, Join):
            return self._join(node, *inputs)
        if isinstance(node, Group):
            return self._group(node, inputs[0])
        if isinstance(node, Map):
            values = self._apply(node.fn, {"v": inputs[0].values})
            return _Relation(inputs[0].axes, values, inputs[0].present)
        if isinstance(node, Union):
            return self._union(node, inputs)
        if isinstance(node, Slice):
            held = self._mask(node.at, node.schema)
            return _Relation(node.schema, inputs[0].values, inputs[0].present & held)
        if isinstance(node, Rekey):
            order = tuple(_axis(inputs[0].axes, name) for name in node.order)
            return self._rekey(node, inputs[0].over(with_query(order, has_query(node.schema))))
        if isinstance(node, Overlay):
            return self._overlay(node, *inputs)
        if isinstance(node, Saved):
            return inputs[0]
        if isinstance(node, Opaque):
            return self._external(node, inputs)
        if isinstance(node, Physical):
            return self._physical(node, inputs)
        raise PlanError(f"{node.op} has no meaning")

    def _base(self, axes: Axes, given: Values, name: str) -> _Relation:
        values = np.asarray(given)
        if values.shape != shape(axes):
            raise ArgumentError("scans", f"{name} of shape {values.shape}", f"{shape(axes)}")
        return _Relation(axes, self._number(values), np.ones(values.shape, dtype=bool))

    def _number(self, values: Values) -> Values:
        """The values as float64, or as exact rationals."""
        if not self._exact:
            return np.asarray(values, dtype=np.float64)
        return np.asarray(np.frompyfunc(_rational, 1, 1)(values), dtype=object)

    def _apply(self, fn: Expr, values: Mapping[str, Values]) -> Values:
        """A scalar expression over arrays that broadcast."""
        if self._exact:
            each = np.frompyfunc(
                lambda *v: _rational(evaluate(fn, dict(zip(values, v, strict=True)))),
                len(values),
                1,
            )
            return np.asarray(each(*values.values()), dtype=object)
        return np.asarray(_apply_float(fn, values), dtype=np.float64)

    def _join(self, node: Join, left: _Relation, right: _Relation) -> _Relation:
        """Read both sides at every output key; a tuple is present where both sides' are."""
        full = key_shape(node.schema, self._queries)
        grid = key_grid(node.schema, self._queries)
        left_key, exists = keys_read(left.axes, node.on, grid, self._queries)
        right_key, _ = keys_read(right.axes, (), grid, self._queries)
        a, b = left.values[left_key], right.values[right_key]
        if node.combine == "left":
            values = a
        else:
            both = Call(node.combine, (Var("a"), Var("b")))
            values = self._apply(both, {"a": a, "b": b})
        present = exists & left.present[left_key] & right.present[right_key]
        return _Relation(node.schema, np.broadcast_to(values, full), np.broadcast_to(present, full))

    def _group(self, node: Group, source: _Relation) -> _Relation:
        """Aggregate the present members of every group."""
        kept = node.schema
        rest = tuple(axis for axis in source.axes if axis not in kept)
        members = source.over((*kept, *rest))
        full = key_shape(kept, self._queries)
        values = members.values.reshape((*full, -1))
        present = members.present.reshape((*full, -1))
        count = present.sum(axis=-1)
        by = "sum" if node.agg == "mean" else node.agg
        found = _REDUCE[by].reduce(np.where(present, values, _IDENTITY[by]), axis=-1)
        if node.agg == "mean":
            found = np.where(count > 0, found / np.where(count > 0, count, 1), nan)
        return _Relation(kept, self._number(found), np.ones(full, dtype=bool))

    def _union(self, node: Union, inputs: list[_Relation]) -> _Relation:
        axis = names(node.schema).index(node.axis)
        parts = []
        for part in inputs:
            own = tuple(_axis(part.axes, a.name) if a.name == node.axis else a for a in node.schema)
            full = key_shape(own, self._queries)
            found = part.over(own)
            parts.append([np.broadcast_to(x, full) for x in (found.values, found.present)])
        values, present = zip(*parts, strict=True)
        return _Relation(node.schema, np.concatenate(values, axis), np.concatenate(present, axis))

    def _rekey(self, node: Rekey, ordered: _Relation) -> _Relation:
        full = key_shape(node.schema, self._queries)
        return _Relation(node.schema, ordered.values.reshape(full), ordered.present.reshape(full))

    def _overlay(self, node: Overlay, base: _Relation, patch: _Relation) -> _Relation:
        """The patch's tuples where the region holds, the base's elsewhere."""
        old, new = base.over(node.schema), patch.over(node.schema)
        if isinstance(node.at, Shrink) and node.at not in self._measured:
            self._measured.add(node.at)
            axes = without_query(node.schema)
            wide = self._mask(node.at.of, node.schema)
            both = np.where(new.present, new.values, old.values)
            mask = noticed(wide, old.values, both, axes, node.at.threshold)
            self._masks[node.at] = axes, mask
        held = self._mask(node.at, node.schema)
        return _Relation(
            node.schema,
            np.where(held, new.values, old.values),
            np.where(held, new.present, old.present),
        )

    def _mask(self, at: Region, schema: Axes) -> Mask:
        """A region's mask over the axes of a relation; one query's where those lack the query."""
        axes, mask = region_mask(at, self.changed, self._queries, self._masks)
        mask = reorder(mask, axes, names(without_query(schema)))
        return mask if has_query(schema) else mask[0]

    def _external(self, node: Opaque, inputs: list[_Relation]) -> _Relation:
        if node.name not in self._opaque:
            raise PlanError(f"Opaque {node.name}: the interpreter was given no function for it")
        varies = has_query(node.schema)
        found = []
        for query in range(self._queries if varies else 1):
            args = [i.values[query] if has_query(i.axes) else i.values for i in inputs]
            result = self._opaque[node.name](*args)
            found.append(np.asarray(result[node.index] if isinstance(result, tuple) else result))
        values = np.stack(found) if varies else found[0]
        if values.shape != key_shape(node.schema, self._queries):
            raise PlanError(f"Opaque {node.name} gave results of shape {found[0].shape}")
        return _Relation(node.schema, self._number(values), np.ones(values.shape, dtype=bool))

    def _physical(self, node: Physical, inputs: list[_Relation]) -> _Relation:
        """What the operator stands for, then its epilogue."""
        logical = stands_for(node)
        if isinstance(logical, Union):
            parts = len(logical.parts)
            found = self._union(logical, [inputs[0], *inputs[2 : parts + 1]])
        else:
            left, right = inputs[:2]
            below = unnumbered(logical)
            joined = below.input if isinstance(below, Group) else below
            assert isinstance(joined, Join)
            found = self._join(joined, left, right)
            if isinstance(below, Group):
                found = self._group(below, found)
            if isinstance(logical, Rekey):
                found = self._rekey(logical, found)
        found = found.over(node.schema)
        values, present = {"v": found.values}, found.present
        names = epilogue_operands(node)
        for name, operand in zip(names, inputs[len(inputs) - len(names) :], strict=True):
            aligned = operand.over(node.schema)
            values[name] = aligned.values
            present = present & aligned.present
        full = key_shape(node.schema, self._queries)
        return _Relation(
            node.schema,
            np.broadcast_to(self._apply(node.tail, values), full),
            np.broadcast_to(present, full),
        )


def _axis(axes: Axes, name: str) -> Axis:
    return next(axis for axis in axes if axis.name == name)


def _rational(value: Any) -> Any:
    """A finite number as a Fraction; infinities and NaN as they are."""
    if isinstance(value, Fraction):
        return value
    number = value if isinstance(value, int) else float(value)
    return Fraction(number) if isfinite(number) else number


def _apply_float(fn: Expr, values: Mapping[str, Values]) -> Values:
    if isinstance(fn, Var):
        return values[fn.name]
    if isinstance(fn, Num):
        return np.float64(fn.value)  # type: ignore[return-value]
    args = [_apply_float(arg, values) for arg in fn.args]
    apply = _FLOAT.get(fn.fn) or np.frompyfunc(FUNCTIONS[fn.fn].evaluate, len(args), 1)
    return np.asarray(apply(*args), dtype=np.float64)

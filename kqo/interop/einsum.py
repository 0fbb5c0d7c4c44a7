"""A plan evaluated by torch in float64: joins and groups as one einsum over indicators.

A condition of a join is a tensor of zeros and ones: which key of the left relation meets which
output key. A sum of products is then one einsum over both relations and the indicators, which has
nothing in common with how the reference interpreter, SQL or the emitted source compute it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kqo.errors import PlanError
from kqo.ir.equations import Affine, Condition
from kqo.ir.nodes import (
    Const,
    Domain,
    Group,
    Join,
    Map,
    Node,
    Overlay,
    Physical,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
)
from kqo.ir.physical import epilogue_operands, stands_for
from kqo.ir.plan import Plan
from kqo.ir.region import Region
from kqo.ir.region_mask import Box, Masked, changed_mask, region_mask, reorder
from kqo.ir.scalar import Call, Expr, Num, Var
from kqo.ir.schema import QUERY, Axes, has_query, names, shape, without_query

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.true_divide,
    "max": torch.maximum, "min": torch.minimum, "neg": torch.neg, "abs": torch.abs,
    "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil, "round": torch.round,
    "gt": lambda a, b: (a > b).double(), "ge": lambda a, b: (a >= b).double(),
    "eq": lambda a, b: (a == b).double(), "where": lambda c, a, b: torch.where(c != 0, a, b),
    "when": lambda v, m: torch.where(m != 0, v, -math.inf),
    "exp": torch.exp, "log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt, "pow": torch.pow, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "left": lambda a, b: a + 0 * b,
    "atan": torch.atan, "fmod": torch.fmod,
}  # fmt: skip
_EMPTY = {"max": -math.inf, "min": math.inf}


@dataclass(frozen=True, eq=False)
class _Relation:
    """Values over all keys, and which tuples are there; one dimension per axis name."""

    axes: tuple[str, ...]
    values: Tensor
    present: Tensor

    def over(self, axes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Values and presence with one dimension for each of the axes, of extent 1 where it has
        none."""
        order = [self.axes.index(name) for name in axes if name in self.axes]
        index = tuple(slice(None) if name in self.axes else None for name in axes)
        return self.values.permute(order)[index], self.present.permute(order)[index]


def evaluate_by_torch(
    plan: Plan,
    scans: Mapping[str, NDArray[Any]],
    regions: Mapping[str, Sequence[Sequence[Box]]] | None = None,
    queries: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Evaluate a plan with torch, in float64.

    Args:
        plan: the plan, with values for its constants.
        scans: values of the base relations by name, shaped as their axes.
        regions: boxes per query of each base relation, as the interpreter takes them.
        queries: number of queries; by default that of ``regions``, else 1.

    Returns:
        Values by output name, shaped as the interpreter's; an absent tuple is NaN.

    Raises:
        PlanError: the plan has an Opaque node.
    """
    regions = regions or {}
    run = _Run(plan, scans, queries or next(map(len, regions.values()), 1))
    for scan in plan.scans:
        if scan.name in regions:
            run.changed[scan.name] = (scan.axes, changed_mask(scan.axes, regions[scan.name]))
    found: dict[Node, _Relation] = {}
    for node in plan.nodes():
        found[node] = run.evaluate(node, found)
    return {
        name: torch.where(found[n].present, found[n].values, math.nan).numpy()
        for name, n in plan.roots
    }


class _Run:
    def __init__(self, plan: Plan, scans: Mapping[str, NDArray[Any]], queries: int) -> None:
        self._plan, self._scans, self._queries = plan, scans, queries
        self.changed: dict[str, Masked] = {}
        self._masks: dict[Region, Masked] = {}

    def evaluate(self, node: Node, found: Mapping[Node, _Relation]) -> _Relation:
        """The relation of a node, given those of its inputs."""
        inputs = [found[source] for source in node.inputs]
        if isinstance(node, Scan):
            return self._base(node.axes, self._scans[node.name])
        if isinstance(node, Const):
            return self._base(node.axes, self._plan.constants[node.name])
        if isinstance(node, Domain):
            return self._base(node.axes, np.ones(shape(node.axes)))
        if isinstance(node, Group):
            return self._group(node, inputs[0], found)
        if isinstance(node, Join):
            return self._join(node, *inputs)
        if isinstance(node, Map):
            values = _apply(node.fn, {"v": inputs[0].values}).expand_as(inputs[0].values)
            return _Relation(inputs[0].axes, values, inputs[0].present)
        if isinstance(node, Union):
            return self._union(node, inputs)
        if isinstance(node, Rekey):
            order = (*((QUERY,) if has_query(node.schema) else ()), *node.order)
            extents = self._extents(node.schema)
            values, present = inputs[0].over(order)
            return _Relation(names(node.schema), values.reshape(extents), present.reshape(extents))
        if isinstance(node, Slice):
            axes = names(node.schema)
            values, present = self._full(inputs[0], node.schema)
            return _Relation(axes, values, present & self._mask(node.at, node.schema))
        if isinstance(node, Overlay):
            held = self._mask(node.at, node.schema)
            old, new = (self._full(part, node.schema) for part in inputs)
            return _Relation(
                names(node.schema),
                torch.where(held, new[0], old[0]),
                torch.where(held, new[1], old[1]),
            )
        if isinstance(node, Saved):
            return inputs[0]
        if isinstance(node, Physical):
            return self._physical(node, found)
        raise PlanError(f"torch was given no meaning of {node.op}")

    def _extents(self, axes: Axes) -> tuple[int, ...]:
        return tuple(self._queries if axis.extent is None else axis.extent for axis in axes)

    def _base(self, axes: Axes, given: NDArray[Any]) -> _Relation:
        values = torch.from_numpy(np.array(given, dtype=np.float64))
        return _Relation(names(axes), values, torch.ones(values.shape, dtype=torch.bool))

    def _full(self, relation: _Relation, axes: Axes) -> tuple[Tensor, Tensor]:
        """Values and presence over exactly these axes."""
        values, present = relation.over(names(axes))
        extents = self._extents(axes)
        return values.expand(extents), present.expand(extents)

    def _mask(self, at: Region, schema: Axes) -> Tensor:
        axes, mask = region_mask(at, self.changed, self._queries, self._masks)
        mask = reorder(mask, axes, names(without_query(schema)))
        full = torch.from_numpy(np.ascontiguousarray(mask))
        return (full if has_query(schema) else full[0]).expand(self._extents(schema))

    def _indicator(self, condition: Condition, left: int, axes: Axes) -> Tensor:
        """Ones where a left key meets the output keys, over (left key, axes that are read)."""
        reads = list(dict.fromkeys(condition.reads))
        extents = dict(zip(names(axes), self._extents(axes), strict=True))
        grid = torch.meshgrid(
            torch.arange(left), *(torch.arange(extents[name]) for name in reads), indexing="ij"
        )
        key, out = grid[0], dict(zip(reads, grid[1:], strict=True))
        if isinstance(condition, Affine):
            total = torch.full_like(key, condition.offset)
            for coefficient, name in condition.terms:
                total = total + coefficient * out[name]
            return (condition.scale * key == total).double()
        lo, hi = (torch.tensor(table)[out[condition.out]] for table in (condition.lo, condition.hi))
        return ((key == lo + out[condition.tap]) & (key < hi)).double()

    def _terms(self, node: Join, left: _Relation) -> tuple[list[str], list[Any]]:
        """Labels of the left relation's dimensions, and the indicators with theirs, for einsum."""
        bound = {condition.axis: condition for condition in node.on}
        labels = [f"{name} of the left" if name in bound else name for name in left.axes]
        terms: list[Any] = []
        for name, extent in zip(left.axes, left.values.shape, strict=True):
            if name in bound:
                condition = bound[name]
                reads = list(dict.fromkeys(condition.reads))
                terms += [
                    self._indicator(condition, extent, node.schema),
                    [f"{name} of the left", *reads],
                ]
        return labels, terms

    def _join(self, node: Join, left: _Relation, right: _Relation) -> _Relation:
        labels, terms = self._terms(node, left)
        kept = [n for n in labels if not n.endswith(" left")]
        for reads in terms[1::2]:
            kept += [n for n in reads[1:] if n not in kept]

        def read(given: Tensor) -> Tensor:
            return _einsum([given, labels, *terms], kept)

        there = read(left.present.double()) > 0.5
        values = torch.where(left.present, left.values, 0.0)
        if terms and not bool(torch.isfinite(values).all()):
            value = read(torch.nan_to_num(values, 0.0, 0.0, 0.0))
            for special, held in (
                (math.inf, values == math.inf),
                (-math.inf, values == -math.inf),
                (math.nan, values.isnan()),
            ):
                value = torch.where(read(held.double()) > 0.5, special, value)
        else:
            value = read(values)
        a, ours = self._full(_Relation(tuple(kept), value, there), node.schema)
        b, theirs = self._full(right, node.schema)
        combined = a if node.combine == "left" else _FUNCTIONS[node.combine](a, b)
        return _Relation(names(node.schema), combined, ours & theirs)

    def _group(
        self, node: Group, joined: _Relation | None, found: Mapping[Node, _Relation]
    ) -> _Relation:
        """Aggregate; a sum of products of finite values is one einsum, the join not made."""
        by = names(node.schema)
        inner = node.input
        if isinstance(inner, Join) and node.agg == "sum" and inner.combine in ("mul", "left"):
            left, right = found[inner.left], found[inner.right]
            a, b = (torch.where(r.present, r.values, 0.0) for r in (left, right))
            if inner.combine == "left":
                b = right.present.double()
            if bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all()):
                labels, terms = self._terms(inner, left)
                # Declared axes that nothing reads still count members.
                ones = [
                    [torch.ones(self._extents((axis,)), dtype=torch.float64), [axis.name]]
                    for axis in inner.schema
                ]
                extra = [part for pair in ones for part in pair]
                values = _einsum([a, labels, b, list(right.axes), *terms, *extra], list(by))
                return _Relation(by, values, torch.ones(values.shape, dtype=torch.bool))
        if joined is None:
            assert isinstance(inner, Join)
            joined = self._join(inner, found[inner.left], found[inner.right])
        rest = [name for name in joined.axes if name not in by]
        values, present = joined.over((*by, *rest))
        extents = self._extents(node.schema)
        values, present = values.reshape((*extents, -1)), present.reshape((*extents, -1))
        if node.agg in _EMPTY:
            shown = torch.where(present, values, _EMPTY[node.agg])
            result = shown.amax(-1) if node.agg == "max" else shown.amin(-1)
        else:
            result = torch.where(present, values, 0.0).sum(-1)
            if node.agg == "mean":
                result = result / present.sum(-1)
        return _Relation(by, result, torch.ones(result.shape, dtype=torch.bool))

    def _union(self, node: Union, inputs: list[_Relation]) -> _Relation:
        at = names(node.schema).index(node.axis)
        pairs = []
        for part, given in zip(node.parts, inputs, strict=True):
            own = {axis.name: axis for axis in part.schema}
            axes = tuple(own.get(a.name, a) if a.name == node.axis else a for a in node.schema)
            pairs.append(self._full(given, axes))
        values, present = (torch.cat(list(side), at) for side in zip(*pairs, strict=True))
        return _Relation(names(node.schema), values, present)

    def _physical(self, node: Physical, found: Mapping[Node, _Relation]) -> _Relation:
        """What the operator stands for, then its epilogue."""
        logical = stands_for(node)
        if isinstance(logical, Group):
            made = self._group(logical, None, found)
        else:
            made = self.evaluate(logical, found)
        values, there = self._full(made, node.schema)
        given = {"v": values}
        for name, operand in epilogue_operands(node).items():
            given[name], theirs = self._full(found[operand], node.schema)
            there = there & theirs
        result = _apply(node.tail, given).expand(self._extents(node.schema))
        return _Relation(names(node.schema), result, there)


def _einsum(terms: list[Any], kept: list[str]) -> Tensor:
    """torch.einsum with names for labels: tensors and the names of their dimensions in turn."""
    numbers: dict[str, int] = {}
    given: list[Any] = []
    for tensor, labels in zip(terms[::2], terms[1::2], strict=True):
        given += [tensor, [numbers.setdefault(name, len(numbers)) for name in labels]]
    result: Tensor = torch.einsum(*given, [numbers[name] for name in kept])
    return result


def _apply(fn: Expr, values: Mapping[str, Tensor]) -> Tensor:
    if isinstance(fn, Var):
        return values[fn.name]
    if isinstance(fn, Num):
        return torch.tensor(fn.value, dtype=torch.float64)
    assert isinstance(fn, Call)
    return _FUNCTIONS[fn.fn](*(_apply(arg, values) for arg in fn.args))

"""Steps that many operators share: natural joins of tensors, maps, and groups over dimensions."""

from __future__ import annotations

from collections.abc import Iterable

from kqo.frontend.context import Context
from kqo.frontend.values import (
    BATCH,
    Constant,
    Dim,
    Operand,
    Value,
    drop,
    fresh,
    rename,
    usual_names,
)
from kqo.ir.nodes import Const, Group, Join, Map, Node
from kqo.ir.scalar import Expr, V, call
from kqo.ir.schema import names, size

_COMMUTING = ("add", "mul", "max", "min", "eq")


def apply(value: Value, fn: Expr) -> Value:
    """A scalar expression of ``v`` on every element."""
    return Value(Map(value.node, fn), value.dims)


def group(node: Node, away: Iterable[Dim], agg: str) -> Node:
    """Aggregate some axes away; the others keep their order."""
    gone = set(away)
    return Group(node, tuple(n for n in names(node.schema) if n not in gone), agg)


def reduce(at: Context, value: Value, dims: Iterable[int], keepdim: bool, agg: str) -> Value:
    """Aggregate dimensions away, or to extent 1 where ``keepdim`` holds."""
    gone = {at.dim(value, d) for d in dims}
    away = {value.dims[d] for d in gone} - {None}
    node = group(value.node, away, agg) if away else value.node
    kept = tuple(None if d in gone else name for d, name in enumerate(value.dims))
    if keepdim:
        return Value(node, kept)
    return Value(node, tuple(name for d, name in enumerate(value.dims) if d not in gone))


def align(at: Context, *operands: Operand) -> tuple[Value, ...]:
    """Operands under PyTorch's broadcasting: equal rank, and one axis name per dimension.

    A dimension that an operand broadcasts over has no axis in it.
    """
    rank = max(len(o.dims) if isinstance(o, Value) else o.tensor.dim() for o in operands)
    padded = [
        Value(o.node, (None,) * (rank - len(o.dims)) + o.dims) if isinstance(o, Value) else o
        for o in operands
    ]
    target = _target_names(at, rank, padded)
    return tuple(_fit(at, o, target, rank) for o in padded)


def _target_names(at: Context, rank: int, operands: list[Operand]) -> list[tuple[Dim, int]]:
    """Name and extent of each dimension of the broadcast result."""
    values = [o for o in operands if isinstance(o, Value)]
    usual = usual_names(rank)
    target: list[tuple[Dim, int]] = []
    for d in range(rank):
        if any(v.dims[d] == BATCH for v in values):
            if any(v.dims[d] != BATCH and v.extent(d) > 1 for v in values):
                at.mixes_batch()
            target.append((BATCH, at.batch))
            continue
        extents = [v.extent(d) for v in values]
        for o in operands:
            if isinstance(o, Constant) and (own := d - rank + o.tensor.dim()) >= 0:
                extents.append(o.tensor.shape[own])
        extent = next((n for n in extents if n != 1), 1)
        taken = {name for name, _ in target}
        named = [v.dims[d] for v in values if v.dims[d] is not None and v.extent(d) == extent]
        name: Dim = next((n for n in named if n not in taken), None)
        if name is None and (named or extent > 1):
            later = {n for v in values for n in v.dims[d + 1 :]}
            wanted = usual[d] if usual[d] != BATCH else "c"
            name = fresh(wanted or "c", taken | later)
        target.append((name, extent))
    return target


def _fit(at: Context, operand: Operand, target: list[tuple[Dim, int]], rank: int) -> Value:
    if isinstance(operand, Constant):
        missing = rank - operand.tensor.dim()
        value = at.constant_value(operand, [name for name, _ in target[missing:]])
        return Value(value.node, (None,) * missing + value.dims)
    stretched = [
        d
        for d, (name, extent) in enumerate(target)
        if operand.dims[d] not in (None, BATCH) and (extent > 1 or name == BATCH)
        and operand.extent(d) == 1
    ]  # fmt: skip
    operand = drop(operand, stretched)
    new: dict[str, str] = {}
    for have, (name, _) in zip(operand.dims, target, strict=True):
        if have is not None and have != BATCH and name is not None:
            new[have] = name
    return rename(operand, new)


def combine(at: Context, fn: str, a: Operand, b: Operand) -> Value:
    """A binary operator as a natural join; where it commutes the larger side is the left one."""
    left, right = align(at, a, b)
    dims = tuple(p if p is not None else q for p, q in zip(left.dims, right.dims, strict=True))
    if _weight(left.node) < _weight(right.node):
        if fn == "sub":  # a - b is exactly -b + a
            right, fn = apply(right, call("neg", V)), "add"
        if fn in _COMMUTING:
            left, right = right, left
    return Value(Join(left.node, right.node, (), (), fn), dims)


def _weight(node: Node) -> tuple[int, bool]:
    """What is the larger side of a join: more tuples, and a relation before a constant."""
    return size(node.schema), not isinstance(node, Const)

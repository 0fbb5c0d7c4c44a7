"""Builtins about nodes, constants and scalar expressions. See :mod:`kqo.lang.registry`."""

from __future__ import annotations

import numpy as np

from kqo.ir.nodes import Const, Domain, Join, Map, Node, Rekey, Saved, Scan, Slice, Union
from kqo.ir.scalar import RELU, Call, Expr, Num, Var, call, substitute
from kqo.ir.schema import Axes, Axis, has_query, names, size, without_query
from kqo.lang import constants
from kqo.lang.context import Context
from kqo.lang.registry import Names, Nodes, builtin

# ---- nodes ---------------------------------------------------------------------------------------


@builtin
def single_use(context: Context, node: Node) -> bool:
    """Whether the node has one reader, counted from the plan's roots."""
    return context.single_use(node)


@builtin
def read_once(context: Context, node: Node) -> bool:
    """Whether the node has one reader, those left out that rewriting put out of use."""
    return context.read_once(node)


@builtin
def is_const(node: Node) -> bool:
    """Whether all leaves below the node are Const or Domain."""
    return constants.is_constant(node)


@builtin
def is_base(node: Node) -> bool:
    """Whether the node is a base relation: Scan, Const or Domain."""
    return isinstance(node, (Scan, Const, Domain))


@builtin
def is_saved(node: Node) -> bool:
    """Whether the node is a materialized view."""
    return isinstance(node, Saved)


@builtin
def varies(node: Node) -> bool:
    """Whether the relation varies by query."""
    return has_query(node.schema)


@builtin
def is_windowed(node: Node) -> bool:
    """Whether the node is a Join with conditions, as below the Group of a window."""
    return isinstance(node, Join) and bool(node.on)


@builtin
def is_total(node: Node) -> bool:
    """Whether the relation has a tuple for every key: no join that misses, no slice."""
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, Slice) or (isinstance(top, Join) and top.on):
            return False
        if isinstance(top, (Map, Join, Union, Rekey)):
            stack.extend(top.inputs)
    return True


@builtin
def names_of(node: Node) -> Names:
    """Names of the node's axes, without the query axis."""
    return names(without_query(node.schema))


@builtin
def axes_of(node: Node) -> Axes:
    """The node's axes, without the query axis."""
    return without_query(node.schema)


@builtin
def same_axes(left: Node, right: Node) -> bool:
    """Whether both relations have the same axes in the same order."""
    return left.schema == right.schema


@builtin
def covers(node: Node, part: Node) -> bool:
    """Whether every axis of ``part`` is an axis of ``node``, of the same extent."""
    return set(without_query(part.schema)) <= set(without_query(node.schema))


@builtin
def contains(these: Names, those: Names) -> bool:
    """Whether all of ``those`` are among ``these``."""
    return set(those) <= set(these)


@builtin
def is_no_larger(node: Node, first: Node, second: Node) -> bool:
    """Whether ``node`` has no more keys than the larger of two others."""
    return size(node.schema) <= max(size(first.schema), size(second.schema))


@builtin
def materialize(node: Node) -> Node:
    """``Saved(node)`` where it is query-free and computed; else the node itself."""
    if has_query(node.schema) or isinstance(node, (Scan, Const, Domain, Saved)):
        return node
    return node if constants.is_constant(node) else Saved(node)


@builtin
def materialize_all(parts: Nodes) -> Nodes:
    """:func:`materialize` of every part."""
    return tuple(materialize(part) for part in parts)


@builtin
def flatten_parts(context: Context, parts: Nodes, axis: str) -> Nodes | None:
    """The parts, with those of unions along the same axis in their place.

    A union with other readers stays, since it is computed anyway. Refuses where nothing changes.
    """
    found: list[Node] = []
    for part in parts:
        if isinstance(part, Union) and part.axis == axis and context.single_use(part):
            found.extend(part.parts)
        else:
            found.append(part)
    return None if len(found) == len(parts) else tuple(found)


# ---- keys ----------------------------------------------------------------------------------------


@builtin
def fuse_rekeys(inner: Node, order: Names, axes: Axes) -> Node | None:
    """``Rekey(inner, order, axes)`` as one Rekey of what ``inner`` rekeys.

    Refuses where the inner one merges or splits axes and the outer one permutes what came out.
    """
    if not isinstance(inner, Rekey):
        return None
    if order == names(inner.axes):
        return Rekey(inner.input, inner.order, axes)
    before = dict(inner.input.schema)
    if tuple(before[name] for name in inner.order) != tuple(a.extent for a in inner.axes):
        return None
    old = dict(zip(names(inner.axes), inner.order, strict=True))
    return Rekey(inner.input, tuple(old[name] for name in order), axes)


@builtin
def split_axes(node: Node, source: Node, order: Names, axes: Axes) -> Node | None:
    """A relation over axes that ``Rekey(source, order, axes)`` makes, over those it makes them of.

    Refuses where an axis of the node is not made of whole axes of the source.
    """
    extents = dict(source.schema)
    made: dict[Axis, tuple[Axis, ...]] = {}
    waiting = [Axis(name, extents[name]) for name in order]
    for axis in axes:
        taken: list[Axis] = []
        while waiting and (not taken or size(tuple(taken)) < (axis.extent or 1)):
            taken.append(waiting.pop(0))
        if size(tuple(taken)) != axis.extent:
            return None
        made[axis] = tuple(taken)
    own = without_query(node.schema)
    if not set(own) <= set(made):
        return None
    split = tuple(part for axis in own for part in made[axis])
    return node if split == own else Rekey(node, names(own), split)


# ---- constants -----------------------------------------------------------------------------------


@builtin
def is_foldable(node: Node) -> bool:
    """Whether the node, of which everything below is constant, is computed now rather than later.

    Windows are not, nor small relations that a join spreads over a large one.
    """
    return not isinstance(node, (Const, Domain)) and constants.is_foldable(node)


@builtin
def evaluate(context: Context, node: Node) -> Node:
    """The Const that holds the values of a constant node."""
    return context.fold(node)


@builtin
def is_ones(context: Context, node: Node) -> bool:
    """Whether the values of a constant are known, and are 1 everywhere."""
    if isinstance(node, Domain):
        return True
    if not isinstance(node, Const) or size(node.schema) > constants.LARGEST_EXPANSION:
        return False
    values = context.value(node)
    return values is not None and values.flat[0] == 1 and bool((values == 1).all())


@builtin
def is_finite(context: Context, node: Node) -> bool:
    """Whether no value of a constant is known to be NaN or infinite."""
    values = context.value(node)
    return values is None or bool(np.isfinite(values).all())


@builtin
def shared(these: Names, those: Names) -> Names:
    """The names among ``these`` that are also among ``those``."""
    return tuple(name for name in these if name in those)


# ---- scalar expressions --------------------------------------------------------------------------


@builtin
def compose(outer: Expr, inner: Expr) -> Expr:
    """``outer`` with ``inner`` in place of ``v``."""
    return constants.simplify(substitute(outer, {"v": inner}))


@builtin
def is_relu(fn: Expr) -> bool:
    """Whether the expression is ``max(v, 0)``."""
    return fn == RELU


@builtin
def is_scale(fn: Expr) -> bool:
    """Whether the expression multiplies or divides ``v`` by a number, or negates it."""
    if not isinstance(fn, Call):
        return False
    if fn.fn == "neg":
        return fn.args == (Var("v"),)
    if fn.fn == "mul":
        return any(
            a == Var("v") and isinstance(b, Num) for a, b in (fn.args, tuple(reversed(fn.args)))
        )
    return fn.fn == "div" and fn.args[0] == Var("v") and isinstance(fn.args[1], Num)


@builtin
def divide_by(number: int) -> Expr:
    """The expression ``v / number``."""
    return call("div", Var("v"), float(number))


@builtin
def members(node: Node, by: Names) -> int:
    """Number of tuples in each group of a total relation grouped by ``by``."""
    return size(tuple(axis for axis in without_query(node.schema) if axis.name not in by))

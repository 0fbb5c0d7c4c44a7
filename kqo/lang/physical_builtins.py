"""Builtins of the physical rules: which implementation a join-and-group admits."""

from __future__ import annotations

from kqo.ir.equations import Condition, Ranged
from kqo.ir.nodes import Const, Domain, Node
from kqo.ir.scalar import Expr, Var, call
from kqo.ir.schema import Axes, features, merge_features, names, positions, size, without_query
from kqo.ir.window import grouping, is_contraction, is_depthwise, tiling, window_of
from kqo.ir.winograd import SIZES
from kqo.lang.registry import Conditions, Names, Nodes, builtin


@builtin
def is_matrix_product(left: Node, right: Node, on: Conditions, axes: Axes, by: Names) -> bool:
    """Whether a sum of products contracts all features of the left with a constant kernel."""
    return isinstance(right, Const) and is_contraction(window_of(left, right, on, axes, by), right)


@builtin
def is_grouped_product(left: Node, right: Node, on: Conditions, axes: Axes, by: Names) -> bool:
    """Whether a sum of products contracts features within groups with a constant kernel."""
    return isinstance(right, Const) and bool(grouping(window_of(left, right, on, axes, by), right))


@builtin
def merges_features(node: Node, order: Names, axes: Axes) -> bool:
    """Whether a Rekey numbers the features of a node as one axis, and keeps all else."""
    own = without_query(node.schema)
    return len(features(own)) > 1 and order == names(own) and axes == merge_features(own)


@builtin
def is_per_feature(left: Node, right: Node, on: Conditions, axes: Axes, by: Names) -> bool:
    """Whether features pass through a window: pooling, or one constant filter per feature."""
    return isinstance(right, (Const, Domain)) and is_depthwise(
        window_of(left, right, on, axes, by), right
    )


@builtin
def sums_or_has_no_weights(agg: str, right: Node) -> bool:
    """Whether an aggregate over products is a sum, or all that it multiplies by is 1."""
    return agg == "sum" or isinstance(right, Domain)


@builtin
def reads_everything(left: Node, right: Node, on: Conditions, axes: Axes, by: Names) -> bool:
    """Whether there is one row of groups, and its window holds every position of the left once."""
    window = window_of(left, right, on, axes, by)
    taps, source = dict(window.taps), dict(left.schema)
    if size(window.rows) != 1 or window.tap_count != size(positions(left.schema)):
        return False
    return window.tap_count > 1 and all(
        _reads_all(condition, taps, source[axis] or 0) for axis, condition in window.reads
    )


def _reads_all(condition: Condition, taps: dict[str, int | None], extent: int) -> bool:
    if isinstance(condition, Ranged):
        return condition.lo == (0,) and condition.hi == (extent,) and taps[condition.tap] == extent
    own = [(step, taps[name]) for step, name in condition.terms if name in taps]
    return own == [(1, extent)] and condition.offset == 0 and condition.scale == 1


@builtin
def has_winograd(left: Node, right: Node, on: Conditions, axes: Axes, by: Names, tile: int) -> bool:
    """Whether Winograd's method with tiles of ``tile`` outputs an axis computes the window.

    Its stride and dilation are 1, it is wider than 1 on some axis, and points are known for its
    extent on every axis.
    """
    tiles = tiling(window_of(left, right, on, axes, by), int(tile))
    return (
        bool(tiles)
        and len(tiles) <= 2
        and any(taps > 1 for _, taps in tiles)
        and all(taps == 1 or (m, taps) in SIZES for m, taps in tiles)
    )


@builtin
def aligns(node: Node, other: Node) -> bool:
    """Whether the other relation's features are those of the node in the same order, or none."""
    own = features(without_query(node.schema))
    given = features(without_query(other.schema))
    extra = set(names(positions(other.schema))) - set(names(positions(node.schema)))
    if extra:
        return False
    if isinstance(other, Const) and not positions(other.schema):
        return set(given) <= set(own)
    return given in (own, ())


@builtin
def binary(combine: str, left: Expr, right: Expr) -> Expr | None:
    """The expression that combines two others as a join combines values."""
    if combine == "left":
        return left
    return call(combine, left, right)


@builtin
def next_operand(operands: Nodes) -> Expr:
    """The variable that the next operand of a physical node is known by."""
    return Var(f"a{len(operands)}")


@builtin
def append(nodes: Nodes, node: Node) -> Nodes:
    """The nodes with one more at the end."""
    return (*nodes, node)


@builtin
def first(nodes: Nodes) -> Node:
    """The first of several nodes."""
    return nodes[0]


@builtin
def rest(nodes: Nodes) -> Nodes:
    """All nodes but the first."""
    return nodes[1:]


@builtin
def none() -> str:
    """No name: of an aggregate, where there is none."""
    return ""


@builtin
def is_concatenation(node: Node) -> bool:
    """Whether a union joins whole columns: along the only feature axis."""
    own = features(without_query(node.schema))
    return len(own) == 1 and getattr(node, "axis", "") == own[0].name

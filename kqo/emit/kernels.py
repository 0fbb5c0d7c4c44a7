"""Kernels and operand vectors in the layout that emitted steps read, as NumPy expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kqo.emit.names import quoted
from kqo.ir.nodes import Const, Domain, Node, Physical
from kqo.ir.schema import Axes, features, names, shape, without_query
from kqo.ir.window import contracted, grouping, merged_groups, roles
from kqo.planner.physical import LARGE_KERNEL

# The function of kqo.runtime.functions that puts kernels of groups together.
BLOCK_DIAGONAL = "block_diagonal"
# The function of kqo.runtime.functions that puts kernels of siblings together.
SIDE_BY_SIDE = "side_by_side"


def _product(axes: Axes) -> int:
    return math.prod(shape(axes))


def permuted(const: str, own: tuple[str, ...], order: tuple[str, ...]) -> str:
    """An expression for a constant with its axes in another order."""
    permutation = tuple(own.index(n) for n in order)
    if permutation == tuple(range(len(own))):
        return f"c[{quoted(const)}]"
    return f"c[{quoted(const)}].transpose({', '.join(map(str, permutation))})"


def keeps_layout(node: Physical, itemsize: int) -> bool:
    """Whether the kernel is too large to copy: memory order (columns, features, taps)."""
    weight = node.weight
    window = roles(node)
    if window.tap_count == 1 or _product(weight.schema) * itemsize < LARGE_KERNEL:
        return False
    order = (*names(window.columns), *contracted(window), *names(window.taps))
    return names(weight.schema) == order


def gemm_kernel(node: Physical, itemsize: int) -> str:
    """The kernel as a matrix (taps * features, columns)."""
    weight = node.weight
    assert isinstance(weight, Const)
    window = roles(node)
    inner = window.tap_count * _product(window.left_features)
    wide = _product(window.columns)
    own = names(weight.schema)
    if keeps_layout(node, itemsize) or (
        window.tap_count == 1
        and own[: len(window.columns)] == names(window.columns)
        and _product(weight.schema) * itemsize >= LARGE_KERNEL
    ):
        return f"c[{quoted(weight.name)}].reshape({wide}, {inner}).T"
    order = (*names(window.taps), *contracted(window), *names(window.columns))
    return f"np.ascontiguousarray({permuted(weight.name, own, order)}).reshape({inner}, {wide})"


def siblings_kernel(nodes: Sequence[Physical]) -> str:
    """The kernels of products over the same single rows as one matrix (features, columns)."""
    parts = []
    for node in nodes:
        window = roles(node)
        assert isinstance(node.weight, Const) and window.tap_count == 1
        order = (*names(window.taps), *contracted(window), *names(window.columns))
        taken = permuted(node.weight.name, names(node.weight.schema), order)
        if len(order) > 2:
            taken += f".reshape({_product(window.left_features)}, {_product(window.columns)})"
        parts.append(f"{' ' * 16}{taken},\n")
    return f"{SIDE_BY_SIDE}(\n{''.join(parts)}{' ' * 12})"


def grouped_kernel(node: Physical) -> str:
    """The kernel as one matrix (taps * features, columns) for each product over groups."""
    weight = node.weight
    assert isinstance(weight, Const)
    window = roles(node)
    found = grouping(window, weight)
    assert found is not None
    groups, deep, wide = (axis.extent or 1 for axis in (found.group, found.inner, found.column))
    order = (found.group.name, *names(window.taps), found.inner.name, found.column.name)
    taken = permuted(weight.name, names(weight.schema), order)
    shaped = f"{taken}.reshape({groups}, {window.tap_count}, {deep}, {wide})"
    return f"{BLOCK_DIAGONAL}({shaped}, {merged_groups(found)})"


def winograd_kernel(node: Physical, suffix: str) -> str:
    """The transformed kernel, (points, features, columns)."""
    weight = node.weight
    assert isinstance(weight, Const)
    window = roles(node)
    order = (*names(window.taps), *contracted(window), *names(window.columns))
    deep, wide = _product(window.left_features), _product(window.columns)
    taken = permuted(weight.name, names(weight.schema), order)
    return f"winograd_kernel({taken}.reshape({window.tap_count}, {deep}, {wide}), G{suffix})"


def depthwise_kernel(node: Physical) -> str | None:
    """The kernel as (taps, columns), or None where all weights are 1."""
    weight = node.weight
    if isinstance(weight, Domain):
        return None
    assert isinstance(weight, Const)
    window = roles(node)
    order = (*names(window.taps), *names(window.left_features))
    own = names(weight.schema)
    taken = permuted(weight.name, own, tuple(n for n in order if n in own))
    extents = [1 if n not in own else dict(weight.schema)[n] for n in order]
    full = list(shape((*window.taps, *window.left_features)))
    widened = taken if extents == full else f"np.broadcast_to({taken}.reshape({extents}), {full})"
    columns = _product(window.left_features)
    return f"np.ascontiguousarray({widened}).reshape({window.tap_count}, {columns})"


def vector(operand: Node, columns: Axes) -> str:
    """A constant operand without positions as a row (1, columns)."""
    if isinstance(operand, Domain):
        return "np.ones((1, 1), dtype=np.float32)"
    assert isinstance(operand, Const)
    own = names(operand.schema)
    order = tuple(n for n in names(columns) if n in own)
    taken = permuted(operand.name, own, order)
    if order == names(columns):
        return f"np.ascontiguousarray({taken}).reshape(1, {_product(columns)})"
    extents = [dict(operand.schema)[n] if n in own else 1 for n in names(columns)]
    full = list(shape(columns))
    return (
        f"np.ascontiguousarray(np.broadcast_to({taken}.reshape({extents}), {full}))"
        f".reshape(1, {_product(columns)})"
    )


def columns_of(node: Node) -> Axes:
    """Feature axes of a node: its columns."""
    return features(without_query(node.schema))

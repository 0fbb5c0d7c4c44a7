"""What a physical operator stands for, as logical nodes."""

from __future__ import annotations

from kqo.errors import PlanError
from kqo.ir.nodes import GROUPED, Group, Join, Node, Physical, Rekey, Union
from kqo.ir.scalar import variables
from kqo.ir.schema import merge_features, names, without_query

CONCAT = "concat"


def stands_for(node: Physical) -> Node:
    """The logical node whose value is ``v`` in the operator's epilogue.

    With an aggregate it is the group of the join; without one the join itself, whose keys are then
    ``axes``. The form ``concat`` is the union of its parts; ``grouped_gemm`` is a renumbering of
    the group's features as one axis.

    Raises:
        PlanError: the form is ``concat`` and the axes are no concatenation of the parts.
    """
    if node.form == CONCAT:
        return _union(node)
    bound = {condition.axis for condition in node.on}
    known = {name for name in names(node.input.schema) if name not in bound}
    known |= set(names(node.weight.schema))
    new = tuple(axis for axis in node.axes if axis.name not in known or node.agg)
    joined = Join(node.input, node.weight, node.on, new, node.combine)
    if not node.agg:
        return joined
    grouped = Group(joined, node.by, node.agg)
    if node.form != GROUPED:
        return grouped
    return Rekey(grouped, node.by, merge_features(without_query(grouped.schema)))


def unnumbered(logical: Node) -> Node:
    """The join-and-group below a renumbering of its keys; any other node as it is."""
    return logical.input if isinstance(logical, Rekey) else logical


def _union(node: Physical) -> Union:
    """The union along the axis whose extents add up, the others being equal."""
    parts = concatenated(node)
    for axis in node.axes:
        if all(axis.name in names(part.schema) for part in parts):
            union = Union(parts, axis.name)
            if without_query(union.schema) == node.axes:
                return union
    raise PlanError("the axes are no concatenation of the parts")


def concatenated(node: Physical) -> tuple[Node, ...]:
    """The parts that the form ``concat`` puts side by side: its input, and its operands up to the
    first that the epilogue names."""
    return (node.input, *node.operands[: _first_operand(node)])


def epilogue_operands(node: Physical) -> dict[str, Node]:
    """The operands of the epilogue by the names that it knows them by: a0, a1, ...

    Those of the form ``concat`` are numbered after its parts.
    """
    first = _first_operand(node) if node.form == CONCAT else 0
    return {f"a{i}": node.operands[i] for i in range(first, len(node.operands))}


def _first_operand(node: Physical) -> int:
    every = (f"a{i}" for i in range(len(node.operands)))
    named = variables(node.tail)
    return next((i for i, name in enumerate(every) if name in named), len(node.operands))

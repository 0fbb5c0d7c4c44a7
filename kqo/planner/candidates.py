"""The ways to compute a relation's rows, and what a step for each reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from kqo.ir.nodes import Const, Domain, Group, Join, Node, Physical, Saved
from kqo.ir.physical import CONCAT, concatenated
from kqo.ir.schema import positions
from kqo.ir.window import always_finds, roles
from kqo.planner.cost import PRODUCT_FORMS


@dataclass(frozen=True)
class Candidate:
    """One way to compute a relation's rows."""

    form: str
    node: Node

    @cached_property
    def sources(self) -> list[Node | None]:
        """What its step reads as rows: see :func:`row_sources`."""
        return row_sources(self.node)


def data_inputs(node: Node) -> tuple[Node, ...]:
    """The relations whose rows a step for this node reads: a join below a group is not stored."""
    if isinstance(node, Group) and isinstance(node.input, Join):
        return node.input.inputs
    return node.inputs


def bare(node: Node) -> Node:
    """A relation, materialized or not."""
    return node.input if isinstance(node, Saved) else node


def is_vector(node: Node) -> bool:
    """A constant without positions: it is a vector or a kernel, not rows."""
    return isinstance(node, (Const, Domain)) and not positions(node.schema)


def needs_rows(node: Node) -> tuple[bool, ...]:
    """For each data input of a node, whether its step reads it as rows even where it is a vector.

    Kernels and operands that are constants without positions are read as they are.
    """
    inputs = data_inputs(node)
    if isinstance(node, Physical):
        parts = len(concatenated(node)) if node.form == CONCAT else 1
        return tuple(i == 0 or 1 < i <= parts for i in range(len(inputs)))
    if isinstance(node, (Group, Join)):
        return (False,) * len(inputs)
    return (True,) * len(inputs)


def row_sources(node: Node) -> list[Node | None]:
    """The data inputs of a node that its step reads as rows; None for vectors and kernels."""
    pairs = zip(data_inputs(node), needs_rows(node), strict=True)
    return [None if is_vector(source) and not rows else source for source, rows in pairs]


def is_product(candidate: Candidate) -> bool:
    """Whether a form multiplies matrices, with a kernel in a layout of its own."""
    return candidate.form in PRODUCT_FORMS


def has_plain_form(node: Node) -> bool:
    """Whether the plain implementation computes a node's rows.

    A join whose keys may find no partner is no relation that can be stored: rows have values for
    all their keys. Below a Group, which gives such keys the aggregate's identity, it is not stored.
    """
    return roles(node).plain and not (isinstance(node, Join) and not always_finds(node))

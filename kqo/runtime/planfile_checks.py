"""What a plan read from a file may be: small enough for this machine, and made of data only."""

from __future__ import annotations

import numpy as np

from kqo.errors import PlanError
from kqo.ir.nodes import (
    Const,
    Domain,
    Group,
    Join,
    Map,
    Node,
    Rekey,
    Scan,
    Union,
)
from kqo.ir.plan import Plan
from kqo.ir.schema import shape, size
from kqo.options import physical_memory

MOST_TEXT = 8 << 20
"""Characters of a plan's text: the largest models need a tenth of it."""
MOST_NODES = 20_000
_OPERATORS = (Scan, Const, Domain, Join, Group, Map, Union, Rekey)
_FORBIDDEN = frozenset("\"'\\`")


def check_text(text: str) -> None:
    """PlanError for a text that is longer than any plan is."""
    if len(text) > MOST_TEXT:
        raise PlanError(f"a plan of {len(text)} characters; accepted: at most {MOST_TEXT}")


def check_name(name: str, what: str) -> None:
    """PlanError for a name that does not print in one line, or that could end a quotation."""
    if not name.isprintable() or _FORBIDDEN & set(name):
        accepted = "accepted: one printable line without quotes and backslashes"
        raise PlanError(f"{what} named {name!r}; {accepted}")


def printable(text: str) -> str:
    """The text without characters that do not print, such as those that steer a terminal.

    Raises:
        PlanError: it is no text.
    """
    if not isinstance(text, str):
        raise PlanError(f"{type(text).__name__} in place of text")
    return "".join(char if char.isprintable() else "_" for char in text)


def check_plan(plan: Plan) -> None:
    """Check what the verifier takes for granted of plans that kqo made itself.

    Raises:
        PlanError: a node that no normalized logical plan has, a name that is none, or a relation
            that does not fit into this machine's memory.
    """
    check_name(plan.name, "a plan")
    for name in (*plan.inputs, *(name for name, _ in plan.roots)):
        check_name(name, "an input or output")
    nodes = list(plan.nodes())
    if len(nodes) > MOST_NODES:
        raise PlanError(f"a plan of {len(nodes)} nodes; accepted: at most {MOST_NODES}")
    for node in nodes:
        if not isinstance(node, _OPERATORS):
            raise PlanError(f"{node.op} is no part of a logical plan without a workload")
        if isinstance(node, (Scan, Const)):
            check_name(node.name, "a base relation")
    roots = {root for _, root in plan.roots}
    for node in nodes:
        if node in roots or isinstance(node, (Scan, Group, Union, Rekey)):
            _check_size(node, plan.dtype)


def _check_size(node: Node, dtype: str) -> None:
    needed = size(node.schema) * np.dtype(dtype).itemsize
    available = physical_memory()
    if needed > available:
        raise PlanError(
            f"a relation of shape {shape(node.schema)} takes {needed / 2**30:.0f} GiB; this "
            f"machine has {available / 2**30:.0f} GiB"
        )

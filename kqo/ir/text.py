"""The text form of a plan: printing it, and reading it back to the same interned nodes.

A plan prints as a header, base relations by name, one definition per node (inputs before readers),
and the roots. The grammar, with an example, is ``grammar/plan.lark``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kqo.ir.equations import Condition
from kqo.ir.intern import Interned
from kqo.ir.nodes import OPERATORS, Const, Domain, Node, Overlay, Scan, Slice, walk
from kqo.ir.parse import parse_plan
from kqo.ir.plan import Plan
from kqo.ir.region import Region, walk_regions
from kqo.ir.scalar import format_expr, format_number
from kqo.ir.schema import format_axes

__all__ = [
    "Labels",
    "format_conditions",
    "format_definition",
    "format_name",
    "format_node",
    "format_node_fields",
    "format_plan",
    "format_region",
    "parse_plan",
]

_BARE = re.compile(r"[A-Za-z_][A-Za-z_0-9.]*\Z")
_RESERVED = frozenset(OPERATORS) | {"plan", "return"}


@lru_cache(maxsize=4096)
def format_name(name: str) -> str:
    """The name as it stands, or quoted where it is no identifier or a word of the grammar."""
    bare = _BARE.match(name) and name not in _RESERVED
    return name if bare else json.dumps(name, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Labels:
    """What the nodes and regions of some roots are called in text."""

    nodes: Mapping[Node, str]
    regions: Mapping[Region, str]

    @classmethod
    def of(cls, roots: Iterable[Node]) -> Labels:
        """Base relations go by their names, where unique; others are numbered, inputs first."""
        nodes: dict[Node, str] = {}
        regions: dict[Region, str] = {}
        taken: set[str] = set()
        for node in _ordered(roots):
            label = format_name(node.name) if isinstance(node, (Scan, Const)) else ""
            if not label or label in taken:
                label = f"%{len(nodes) - len(taken)}"
            else:
                taken.add(label)
            nodes[node] = label
            for region in _regions(node):
                regions.setdefault(region, f"@{len(regions)}")
        return cls(nodes, regions)


def _ordered(roots: Iterable[Node]) -> Iterator[Node]:
    """The nodes in the order in which they print."""
    nodes = list(walk(*roots))
    kinds: dict[type[Node], int] = {Scan: 0, Const: 1, Domain: 2}
    base = [node for node in nodes if type(node) in kinds]
    base.sort(key=lambda n: (kinds[type(n)], getattr(n, "name", ""), str(n.schema)))
    yield from base
    yield from (node for node in nodes if type(node) not in kinds)


def _regions(node: Node) -> Iterator[Region]:
    """The regions that a node reads, parts first."""
    if isinstance(node, (Slice, Overlay)):
        yield from walk_regions(node.at)


def format_conditions(on: tuple[Condition, ...]) -> str:
    """``[c = i, y = 2*y + ky - 3]``."""
    return f"[{', '.join(map(str, on))}]"


def _names(values: tuple[str, ...]) -> str:
    return f"({', '.join(map(format_name, values))})"


_PLAIN: dict[str, Callable[[Any], str]] = {
    "axes": format_axes,
    "into": format_axes,
    "taps": format_axes,
    "source": format_axes,
    "by": _names,
    "order": _names,
    "on": format_conditions,
    "fn": format_expr,
    "tail": format_expr,
    "tau": format_number,
    "threshold": format_number,
}


def _format_field(name: str, value: Any, refer: Callable[[Any], str]) -> str:
    if name in _PLAIN:
        return _PLAIN[name](value)
    if isinstance(value, str):
        return format_name(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(refer, value))}]"
    return refer(value) if isinstance(type(value), Interned) else str(value)


def format_region(region: Region, labels: Mapping[Region, str] | None = None) -> str:
    """A region expression; its parts are referred to by label where they have one, else nested."""
    known = labels or {}

    def refer(part: Region) -> str:
        return known[part] if part in known else format_region(part, known)

    shown = (
        f"{name}: {_format_field(name, getattr(region, name), refer)}"
        for name in type(region).field_names
    )
    return f"{type(region).__name__}({', '.join(shown)})"


def format_node_fields(node: Node, labels: Labels) -> str:
    """The fields of a node, ``input: %0, by: (c, y, x), agg: sum``, in the order of its class.

    Inputs and regions that have no label print nested.
    """

    def refer(value: Any) -> str:
        if isinstance(value, Node):
            return labels.nodes.get(value) or format_node(value, labels)
        return labels.regions.get(value) or format_region(value, labels.regions)

    return ", ".join(
        f"{name}: {_format_field(name, getattr(node, name), refer)}"
        for name in type(node).field_names
    )


def format_node(node: Node, labels: Labels) -> str:
    """``Group(input: %0, by: (c, y, x), agg: sum)``."""
    return f"{node.op}({format_node_fields(node, labels)})"


def format_definition(node: Node, labels: Labels) -> str:
    """``%1 = Group(input: %0, by: (c, y, x), agg: sum)``; a base relation's name is its label."""
    label = labels.nodes[node]
    if isinstance(node, (Scan, Const)) and label == format_name(node.name):
        return f"{label} = {node.op}(axes: {format_axes(node.axes)})"
    return f"{label} = {format_node(node, labels)}"


def format_plan(plan: Plan) -> str:
    """The plan as text: equal plans give equal text, and the text reads back as the same nodes.

    Values of constants and origins of nodes are not part of it.
    """
    roots = [node for _, node in plan.roots]
    labels = Labels.of(roots)
    lines = [f"plan {format_name(plan.name)} {format_name(plan.dtype)}"]
    defined: set[Region] = set()
    for node in _ordered(roots):
        for region in _regions(node):
            if region not in defined:
                defined.add(region)
                text = format_region(region, labels.regions)
                lines.append(f"{labels.regions[region]} = {text}")
        lines.append(format_definition(node, labels))
    lines += [f"return {format_name(name)} = {labels.nodes[node]}" for name, node in plan.roots]
    return "\n".join(lines) + "\n"

"""Rules by what their patterns have at the root.

Most nodes are joins, and most rules are about joins that combine in one way: those are found by
what the node does, once for all nodes that do it.
"""

from __future__ import annotations

from collections.abc import Iterable

from kqo.ir.nodes import Node
from kqo.lang.compile import CompiledRule
from kqo.lang.possible import KIND


class RuleIndex:
    """Rules to try at a node.

    Args:
        rules: in the order in which they are tried.
    """

    def __init__(self, rules: Iterable[CompiledRule]) -> None:
        self._rules = tuple(rules)
        self._found: dict[tuple[str, str], list[CompiledRule]] = {}

    def at(self, node: Node) -> list[CompiledRule]:
        """The rules whose patterns have the node's operator at the root, and what it does."""
        op = node.op
        field = KIND.get(op)
        key = op, getattr(node, field) if field is not None else ""
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = [rule for rule in self._rules if rule.starts_at(node)]
        return found

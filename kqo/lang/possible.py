"""Whether a pattern may match at all: what a rule asks of a node before it looks for bindings.

Most nodes that a rule is held against differ in a literal or in the operator of an input. Finding
that out needs no bindings, and takes a small part of the time that a search for them does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kqo.ir.nodes import OPERATORS, Node
from kqo.lang import ast

Expand = Callable[[Node], tuple[Node, ...]]
Possible = Callable[[Any, Expand], bool]

KIND = {"Join": "combine", "Group": "agg", "Physical": "form"}
"""The field that tells what a node of an operator does."""


def possible(
    pattern: ast.Pattern, value: Callable[[ast.Literal], Any], root: bool = False
) -> Possible | None:
    """A necessary condition for the pattern to match; None where anything may.

    Args:
        pattern: a part of a rule's pattern.
        value: what a literal stands for.
        root: whether it is held against the node itself rather than against all alternatives.
    """
    if isinstance(pattern, ast.Bind):
        return possible(pattern.pattern, value, root)
    if isinstance(pattern, ast.NodePattern):
        return _node(pattern, value, root)
    if isinstance(pattern, ast.AnyOf):
        if root and (classes := operators_alone(pattern)):
            return lambda found, expand: type(found) in classes
        options = [possible(option, value, root) for option in pattern.options]
        known = [option for option in options if option is not None]
        return _either(known) if len(known) == len(options) else None
    if isinstance(pattern, ast.Some):
        one = possible(pattern.pattern, value)
        return None if one is None else _some(one)
    if isinstance(pattern, (ast.Literal, ast.Empty)):
        wanted = () if isinstance(pattern, ast.Empty) else value(pattern)
        return lambda found, expand: bool(found == wanted)
    return None


def at_root(pattern: ast.Pattern, value: Callable[[ast.Literal], Any]) -> Possible | None:
    """What :func:`possible` asks of the node itself, of its operator and its :data:`KIND` only."""
    if isinstance(pattern, ast.Bind):
        return at_root(pattern.pattern, value)
    if isinstance(pattern, ast.AnyOf):
        options = [at_root(option, value) for option in pattern.options]
        known = [option for option in options if option is not None]
        return _either(known) if len(known) == len(options) else None
    if isinstance(pattern, ast.NodePattern):
        kind = tuple(field for field in pattern.fields if field.field == KIND.get(pattern.op))
        return _node(replace(pattern, fields=kind), value, root=True)
    return None


def operators_alone(pattern: ast.AnyOf) -> frozenset[type[Node]]:
    """The operators of a pattern that says nothing else, ``(Map() | Join())``; of others none."""
    options = [o for o in pattern.options if isinstance(o, ast.NodePattern) and not o.fields]
    alone = len(options) == len(pattern.options)
    return frozenset(OPERATORS[option.op] for option in options) if alone else frozenset()


def weight(pattern: ast.Pattern) -> int:
    """How late to look at a part: literals first, nodes last; most nodes fail on a literal."""
    if isinstance(pattern, (ast.Literal, ast.Empty)):
        return 0
    if isinstance(pattern, ast.AnyOf):
        return max(map(weight, pattern.options))
    if isinstance(pattern, (ast.Bind, ast.Some)):
        return weight(pattern.pattern)
    return 2 if isinstance(pattern, ast.NodePattern) else 1


def _either(options: list[Possible]) -> Possible:
    return lambda found, expand: any(option(found, expand) for option in options)


def _some(one: Possible) -> Possible:
    return lambda found, expand: any(one(each, expand) for each in found)


def _node(pattern: ast.NodePattern, value: Callable[[ast.Literal], Any], root: bool) -> Possible:
    cls = OPERATORS[pattern.op]
    parts: list[tuple[str, Possible]] = []
    for field in sorted(pattern.fields, key=lambda field: weight(field.pattern)):
        part = possible(field.pattern, value)
        if part is not None:
            parts.append((field.field, part))

    def itself(node: Any, expand: Expand) -> bool:
        if type(node) is not cls:
            return False
        for name, part in parts:  # noqa: SIM110 - a loop takes half the time of all()
            if not part(getattr(node, name), expand):
                return False
        return True

    def may(found: Any, expand: Expand) -> bool:
        for node in expand(found):  # noqa: SIM110 - as above
            if itself(node, expand):
                return True
        return False

    return itself if root else may

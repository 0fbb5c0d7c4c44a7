"""Checking rules before they are used: names, fields, types, arity, docs, with places and hints."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from kqo.errors import KqoError, Place, RuleError
from kqo.ir import nodes
from kqo.ir.equations import Condition
from kqo.ir.nodes import AGGREGATES, COMBINES, OPERATORS, Node
from kqo.ir.parse import parse_expression
from kqo.ir.region import Region
from kqo.ir.scalar import Expr
from kqo.ir.schema import Axes
from kqo.lang import ast
from kqo.lang.registry import FIELD_TYPES, Builtin, builtins

_PYTHON_TYPES: tuple[tuple[Any, str], ...] = (
    (Node, "node"),
    (tuple[Node, ...], "nodes"),
    (Axes, "axes"),
    (tuple[str, ...], "names"),
    (tuple[Condition, ...], "conditions"),
    (Expr, "expr"),
    (Region, "region"),
    (str, "name"),
    (int, "number"),
    (float, "number"),
)
_NAMES: Mapping[str, tuple[str, ...]] = {"agg": AGGREGATES, "combine": COMBINES}
_LISTS = {"nodes": "node", "names": "name", "regions": "region", "axes": "", "conditions": ""}

Operators = Mapping[str, Mapping[str, str]]


def fail(place: Place, message: str, given: str = "", known: Iterable[str] = ()) -> RuleError:
    """An error at a place; the hint names the closest of what is known."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return RuleError(message, place=place, hint=f"did you mean {close[0]}?" if close else "")


def check_doc(item: ast.Rule | ast.Operator) -> None:
    """A doc comment is required, and its first word is the name."""
    kind = "rule" if isinstance(item, ast.Rule) else "operator"
    if not item.doc.strip():
        raise RuleError(
            f"{kind} {item.name} has no doc comment",
            place=item.place,
            hint=f"start it with: ## {item.name} ...",
        )
    first = item.doc.split()[0]
    if first != item.name:
        raise RuleError(
            f"the doc comment of {item.name} starts with {first!r}",
            place=item.place,
            hint=f"start it with: ## {item.name} ...",
        )


def check_operators(files: Iterable[ast.File]) -> Operators:
    """Field types of every declared operator, held against the node classes.

    Raises:
        RuleError: a declaration that differs from ``kqo/ir/nodes.py``, or an operator without one.
    """
    found: dict[str, dict[str, str]] = {}
    place = Place("ops.rules", 1)
    for file in files:
        for item in file.operators:
            place = Place(file.path, 1)
            check_doc(item)
            if item.name in found:
                raise RuleError(f"operator {item.name} is declared twice", place=item.place)
            if item.name not in OPERATORS:
                raise fail(item.place, f"unknown operator {item.name}", item.name, OPERATORS)
            _check_fields(item)
            found[item.name] = dict(item.fields)
    missing = [name for name in OPERATORS if name not in found]
    if missing:
        raise RuleError(f"operator {missing[0]} is not declared", place=place)
    return found


def _check_fields(item: ast.Operator) -> None:
    cls = OPERATORS[item.name]
    hints = get_type_hints(cls, vars(nodes))
    real = {f.name: _field_type(hints[f.name]) for f in fields(cls)}
    for name, kind in item.fields:
        if kind not in FIELD_TYPES:
            raise fail(item.place, f"unknown type {kind} of field {name}", kind, FIELD_TYPES)
        if name not in real:
            raise fail(item.place, f"{item.name} has no field {name}", name, real)
        if kind != real[name]:
            raise RuleError(f"{item.name}.{name} is {real[name]}, not {kind}", place=item.place)
    if [name for name, _ in item.fields] != list(real):
        raise RuleError(f"the fields of {item.name} are {', '.join(real)}", place=item.place)


def _field_type(hint: Any) -> str:
    return next(kind for python, kind in _PYTHON_TYPES if python == hint)


def check_rule(rule: ast.Rule, operators: Operators) -> Mapping[int, str]:
    """Check one rule.

    Returns:
        The type of each literal, by the identity of its syntax tree.

    Raises:
        RuleError: what is wrong first, with its place.
    """
    check_doc(rule)
    checker = _Checker(rule, operators)
    checker.run()
    return checker.types


@dataclass(slots=True)
class _Checker:
    """Walks one rule, with the types of the variables that are bound so far."""

    rule: ast.Rule
    operators: Operators
    types: dict[int, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    lets: dict[str, ast.Variable] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def run(self) -> None:
        if self.rule.approximation is not None:
            self.variables[self.rule.approximation.parameter] = "number"
        if not self._starts_with_node(self.rule.match):
            raise RuleError(
                "a pattern starts with an operator",
                place=self.rule.match_place,
                hint="such as $n @ Map(input: $x, fn: $fn)",
            )
        self.pattern(self.rule.match, "node")
        for step in self.rule.steps:
            if isinstance(step, ast.Let):
                self.let(step)
            else:
                for condition in step.conditions:
                    self.condition(condition)
        self.template(self.rule.replace, "node")
        for name, variable in self.lets.items():
            if name not in self.used:
                raise RuleError(f"${name} is never used", place=variable.place)

    def _starts_with_node(self, pattern: ast.Pattern) -> bool:
        if isinstance(pattern, ast.Bind):
            return self._starts_with_node(pattern.pattern)
        if isinstance(pattern, ast.AnyOf):
            return all(self._starts_with_node(option) for option in pattern.options)
        return isinstance(pattern, ast.NodePattern)

    # Patterns.

    def pattern(self, pattern: ast.Pattern, kind: str, field: str = "") -> None:
        if isinstance(pattern, ast.Variable):
            self.bind(pattern, kind)
        elif isinstance(pattern, ast.Bind):
            self.bind(pattern.variable, kind)
            self.pattern(pattern.pattern, kind, field)
        elif isinstance(pattern, ast.NodePattern):
            if kind != "node":
                raise RuleError(
                    f"{pattern.op}(...) is a node; expected {kind}", place=pattern.place
                )
            self.node_pattern(pattern)
        elif isinstance(pattern, ast.AnyOf):
            self.any_of(pattern, kind, field)
        elif isinstance(pattern, ast.Some):
            self.some(pattern, kind)
        elif isinstance(pattern, ast.Empty):
            if kind not in _LISTS:
                raise RuleError(f"[] is a list; expected {kind}", place=pattern.place)
        elif isinstance(pattern, ast.Literal):
            self.literal(pattern, kind, field)

    def bind(self, variable: ast.Variable, kind: str) -> None:
        known = self.variables.setdefault(variable.name, kind)
        if known != kind:
            raise RuleError(f"${variable.name} is {known}, and here {kind}", place=variable.place)

    def node_pattern(self, pattern: ast.NodePattern) -> None:
        declared = self.operator(pattern.op, pattern.place)
        seen: set[str] = set()
        for part in pattern.fields:
            self.field(pattern.op, part.field, part.place, declared, seen)
            self.pattern(part.pattern, declared[part.field], part.field)

    def operator(self, name: str, place: Place) -> Mapping[str, str]:
        if name not in self.operators:
            raise fail(place, f"unknown operator {name}", name, self.operators)
        return self.operators[name]

    def field(
        self, op: str, name: str, place: Place, declared: Mapping[str, str], seen: set[str]
    ) -> None:
        if name not in declared:
            raise fail(place, f"{op} has no field {name}", name, declared)
        if name in seen:
            raise RuleError(f"field {name} of {op} is given twice", place=place)
        seen.add(name)

    def any_of(self, pattern: ast.AnyOf, kind: str, field: str) -> None:
        before = dict(self.variables)
        bound: dict[str, str] | None = None
        for option in pattern.options:
            self.variables = dict(before)
            self.pattern(option, kind, field)
            mine = {n: k for n, k in self.variables.items() if n not in before}
            if bound is not None and bound != mine:
                odd = sorted(set(bound.items()) ^ set(mine.items()))[0][0]
                raise RuleError(
                    f"${odd} is not bound alike by all alternatives", place=option.place
                )
            bound = mine

    def some(self, pattern: ast.Some, kind: str) -> None:
        if kind != "nodes":
            raise RuleError(f"'some' is for lists of nodes; this is {kind}", place=pattern.place)
        before = set(self.variables)
        self.pattern(pattern.pattern, "node")
        extra = sorted(set(self.variables) - before)
        if extra:
            raise RuleError(f"${extra[0]} cannot be bound under 'some'", place=pattern.place)

    # Literals.

    def literal(self, literal: ast.Literal, kind: str, field: str = "") -> None:
        value = literal.value
        if isinstance(value, float):
            if kind == "expr":
                self.types[id(literal)] = kind
                return
            given = "number"
        else:
            given = "expr" if literal.quoted else "name"
        if kind == "any":
            kind = given
        if kind == "expr" and literal.quoted:
            try:
                parse_expression(str(value))
            except KqoError as error:
                raise RuleError(
                    f"no scalar expression: {error.message}", place=literal.place
                ) from None
        elif kind == "name" and literal.quoted:
            given = "name"
        if given != kind:
            raise RuleError(f"{literal} is a {given}; expected {kind}", place=literal.place)
        accepted = _NAMES.get(field)
        if accepted and value not in accepted:
            raise fail(literal.place, f"unknown {field} {value}", str(value), accepted)
        self.types[id(literal)] = kind

    # Steps.

    def let(self, step: ast.Let) -> None:
        kind = self.template(step.value, "")
        name = step.variable.name
        if name in self.variables:
            raise RuleError(f"${name} is bound twice", place=step.variable.place)
        self.variables[name] = kind
        self.lets[name] = step.variable

    def condition(self, condition: ast.Holds | ast.Compares) -> None:
        if isinstance(condition, ast.Holds):
            self.template(condition.value, "truth")
            return
        left, right = condition.left, condition.right
        if isinstance(left, ast.Literal):
            left, right = right, left
        self.template(right, self.template(left, ""))

    # Templates.

    def template(self, template: ast.Template, kind: str, field: str = "") -> str:
        """Check a template against the type that is expected ('' for any), and give its type."""
        if isinstance(template, ast.Variable):
            return self.expect(template, self.variable(template), kind, f"${template.name}")
        if isinstance(template, ast.Literal):
            if not kind:
                kind = "number" if isinstance(template.value, float) else "name"
                kind = "expr" if template.quoted else kind
            self.literal(template, kind, field)
            return kind
        if isinstance(template, ast.Call):
            function = self.function(template)
            return self.expect(template, function.result, kind, f"{template.fn}(...)")
        if isinstance(template, ast.Listing):
            return self.listing(template, kind)
        self.node_template(template)
        return self.expect(template, "node", kind, f"{template.op}(...)")

    def expect(self, template: ast.Template, given: str, kind: str, shown: str) -> str:
        if kind not in ("", "any", given):
            raise RuleError(f"{shown} is {given}; expected {kind}", place=template.place)
        return given

    def variable(self, variable: ast.Variable) -> str:
        if variable.name not in self.variables:
            given, known = f"${variable.name}", [f"${name}" for name in self.variables]
            raise fail(variable.place, f"unknown variable {given}", given, known)
        self.used.add(variable.name)
        return self.variables[variable.name]

    def function(self, call: ast.Call) -> Builtin:
        known = builtins()
        if call.fn not in known:
            raise fail(call.place, f"unknown function {call.fn}", call.fn, known)
        function = known[call.fn]
        given, wanted = len(call.args), len(function.parameters)
        if given < wanted or (given > wanted and not function.variadic):
            raise RuleError(
                f"{call.fn} takes {wanted} arguments, got {given}",
                place=call.place,
                hint=function.signature,
            )
        kinds = [kind for _, kind in function.parameters]
        kinds += [function.variadic] * (given - wanted)
        for argument, kind in zip(call.args, kinds, strict=True):
            self.template(argument, kind)
        return function

    def listing(self, listing: ast.Listing, kind: str) -> str:
        if kind in ("", "any") and listing.items:
            kind = f"{self.template(listing.items[0], '')}s"
        if kind not in _LISTS:
            raise RuleError(
                f"a list; expected {kind or 'one of a known type'}", place=listing.place
            )
        if listing.items and not _LISTS[kind]:
            raise RuleError(f"{kind} are given by variables or builtins", place=listing.place)
        for item in listing.items:
            self.template(item, _LISTS[kind])
        return kind

    def node_template(self, template: ast.NodeTemplate) -> None:
        declared = self.operator(template.op, template.place)
        seen: set[str] = set()
        for argument in template.arguments:
            self.field(template.op, argument.field, argument.place, declared, seen)
            self.template(argument.value, declared[argument.field], argument.field)
        missing = [name for name in declared if name not in seen]
        if missing:
            raise RuleError(
                f"{template.op}(...) lacks the field {missing[0]}", place=template.place
            )

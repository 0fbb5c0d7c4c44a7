"""Turning a checked rule into functions: a matcher that finds bindings, a builder of the result.

A pattern becomes a function that gives all bindings, since under a memo one node may match in
several ways: an operator pattern tries every alternative of the node at its place. Outside a memo a
node is its own only alternative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

from kqo.errors import KqoError, RuleError
from kqo.ir.nodes import OPERATORS, Node
from kqo.ir.parse import parse_expression
from kqo.lang import ast
from kqo.lang.context import Context
from kqo.lang.possible import Expand, Possible, at_root, operators_alone, possible, weight
from kqo.lang.registry import builtins

Bindings = dict[str, Any]
Matcher = Callable[[Any, Bindings, Expand], list[Bindings]]
Evaluator = Callable[[Bindings, Context], Any]

# The binding that holds the node at the root; no variable has an empty name.
_ROOT = ""

# What the checker found: the type of each literal by the identity of its tree, since literals take
# the type of the field that they stand for.
Types = Mapping[int, str]


@lru_cache(maxsize=1024)
def itself(node: Node) -> tuple[Node, ...]:
    """The alternatives of a node outside a memo."""
    return (node,)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """A rule that can be applied.

    Attributes:
        rule: its syntax tree.
        family: the folder that it was read from.
        roots: operators that its pattern may have at the root.
        inner: operators that its pattern names below the root, with their distance from the root.
    """

    rule: ast.Rule
    family: str
    roots: frozenset[str]
    inner: frozenset[tuple[str, int]]
    _start: Possible | None
    _possible: Possible | None
    _names: tuple[str, ...]
    _match: Matcher
    _steps: tuple[Callable[[Bindings, Context], bool], ...]
    _replace: Evaluator

    @property
    def name(self) -> str:
        """Its name."""
        return self.rule.name

    @property
    def doc(self) -> str:
        """Its doc comment."""
        return self.rule.doc

    @property
    def parameter(self) -> str | None:
        """The parameter of an approximate rule; None for an exact one."""
        return self.rule.approximation.parameter if self.rule.approximation else None

    @property
    def neutral(self) -> float | None:
        """The value of the parameter at which the rule is exact."""
        return self.rule.approximation.neutral if self.rule.approximation else None

    def enabled(self, parameters: Mapping[str, float]) -> bool:
        """Whether it may run: an approximate rule needs a value that is not the neutral one."""
        if self.parameter is None:
            return True
        return parameters.get(self.parameter, self.neutral) != self.neutral

    def starts_at(self, node: Node) -> bool:
        """Whether its pattern may have at the root what the node does (:data:`KIND`)."""
        return self._start is None or self._start(node, itself)

    def apply(
        self,
        node: Node,
        context: Context,
        *,
        representative: Node | None = None,
        expand: Expand = itself,
        parameters: Mapping[str, float] | None = None,
    ) -> Iterator[Node]:
        """Every replacement of the node that the rule has, lazily.

        Args:
            node: what the pattern's root is held against.
            context: for builtins that ask about the plan.
            representative: what a variable at the root binds; the node itself where it is None.
            expand: the alternatives of a node, for operator patterns below the root.
            parameters: values of parameters of approximate rules.

        Raises:
            RuleError: the replacement is malformed, or has other key axes than the node.
        """
        if self._possible is None or self._possible(node, expand):
            return self._matches(node, context, representative, expand, parameters)
        return iter(())

    def _matches(
        self,
        node: Node,
        context: Context,
        representative: Node | None,
        expand: Expand,
        parameters: Mapping[str, float] | None,
    ) -> Iterator[Node]:
        start = representative or node
        bindings: Bindings = {_ROOT: node, **dict.fromkeys(self._names, start)}
        if self.rule.approximation is not None:
            bindings[self.rule.approximation.parameter] = (parameters or {}).get(
                self.rule.approximation.parameter, self.rule.approximation.neutral
            )
        for found in self._match(start, bindings, expand):
            made = self._finish(dict(found), context)
            if made is not None and made is not node:
                self._same_axes(start, made)
                yield made

    def _finish(self, found: Bindings, context: Context) -> Node | None:
        try:
            for step in self._steps:
                if not step(found, context):
                    return None
            made = self._replace(found, context)
            if isinstance(made, Node):
                _ = made.schema
                return made
            return None
        except RuleError:
            raise
        except (KqoError, LookupError) as error:
            message = error.message if isinstance(error, KqoError) else f"no {error}"
            raise RuleError(
                f"rule {self.name}: {message}", place=self.rule.replace_place
            ) from error

    def _same_axes(self, node: Node, made: Node) -> None:
        if made.schema != node.schema:
            raise RuleError(
                f"rule {self.name}: the replacement has axes {_shown(made)}, the matched node "
                f"{_shown(node)}",
                place=self.rule.replace_place,
                hint="a guard is missing",
            )


def _shown(node: Node) -> str:
    return "(" + ", ".join(map(str, node.schema)) + ")"


def compile_rule(rule: ast.Rule, family: str, types: Types) -> CompiledRule:
    """Compile a rule that the checker accepted; ``types`` is what the checker found out."""
    inner: set[tuple[str, int]] = set()
    roots = _operators(rule.match, 0, inner)
    steps: list[Callable[[Bindings, Context], bool]] = []
    for step in rule.steps:
        if isinstance(step, ast.Let):
            steps.append(_let(step, types))
        else:
            steps.extend(_condition(condition, types) for condition in step.conditions)
    pattern, names = rule.match, list[str]()
    while isinstance(pattern, ast.Bind):
        names.append(pattern.variable.name)
        pattern = pattern.pattern
    return CompiledRule(
        rule,
        family,
        frozenset(roots),
        frozenset(inner),
        at_root(pattern, lambda literal: _value(literal, types)),
        possible(pattern, lambda literal: _value(literal, types), root=True),
        tuple(names),
        _pattern(pattern, types, root=True),
        tuple(steps),
        _template(rule.replace, types),
    )


def _operators(pattern: ast.Pattern, depth: int, inner: set[tuple[str, int]]) -> set[str]:
    """Operators that the pattern may start with; those below go to ``inner`` with their depth."""
    if isinstance(pattern, ast.NodePattern):
        for field in pattern.fields:
            below = _operators(field.pattern, depth + 1, inner)
            inner |= {(op, depth + 1) for op in below}
        return {pattern.op}
    if isinstance(pattern, ast.AnyOf):
        return set().union(*(_operators(option, depth, inner) for option in pattern.options))
    if isinstance(pattern, (ast.Bind, ast.Some)):
        return _operators(pattern.pattern, depth, inner)
    return set()


# ---- patterns ------------------------------------------------------------------------------------


def _pattern(pattern: ast.Pattern, types: Types, root: bool = False) -> Matcher:
    if isinstance(pattern, ast.Variable):
        return _bind(pattern.name)
    if isinstance(pattern, ast.Bind):
        return _both(_bind(pattern.variable.name), _pattern(pattern.pattern, types, root))
    if isinstance(pattern, ast.NodePattern):
        return _node(pattern, types, root)
    if isinstance(pattern, ast.AnyOf):
        if root and (classes := operators_alone(pattern)):
            return lambda _, bound, expand: [bound] if type(bound[_ROOT]) in classes else []
        found = [_pattern(option, types, root) for option in pattern.options]
        may = [possible(o, lambda literal: _value(literal, types), root) for o in pattern.options]
        return _any_of(list(zip(may, found, strict=True)), root)
    if isinstance(pattern, ast.Some):
        return _some(_pattern(pattern.pattern, types))
    if isinstance(pattern, ast.Wildcard):
        return _anything
    value = () if isinstance(pattern, ast.Empty) else _value(pattern, types)
    return lambda found, bindings, expand: [bindings] if found == value else []


def _anything(found: Any, bindings: Bindings, expand: Expand) -> list[Bindings]:
    return [bindings]


def _bind(name: str) -> Matcher:
    def match(found: Any, bindings: Bindings, expand: Expand) -> list[Bindings]:
        if name not in bindings:
            return [{**bindings, name: found}]
        return [bindings] if bindings[name] == found else []

    return match


def _both(first: Matcher, second: Matcher) -> Matcher:
    def match(found: Any, bindings: Bindings, expand: Expand) -> list[Bindings]:
        bound = first(found, bindings, expand)
        return [b for one in bound for b in second(found, one, expand)]

    return match


def _any_of(options: list[tuple[Possible | None, Matcher]], root: bool) -> Matcher:
    def match(found: Any, bindings: Bindings, expand: Expand) -> list[Bindings]:
        against = bindings[_ROOT] if root else found
        bound: list[Bindings] = []
        for may, option in options:
            if may is None or may(against, expand):
                bound += option(found, bindings, expand)
        return bound

    return match


def _some(item: Matcher) -> Matcher:
    def match(found: Any, bindings: Bindings, expand: Expand) -> list[Bindings]:
        return [bindings] if any(item(value, bindings, expand) for value in found) else []

    return match


def _node(pattern: ast.NodePattern, types: Types, root: bool) -> Matcher:
    cls = OPERATORS[pattern.op]
    # Literals first, nodes last: most candidates fail on a literal.
    ordered = sorted(pattern.fields, key=lambda f: weight(f.pattern))
    literals: list[tuple[str, Any]] = []
    variables: list[tuple[str, str]] = []
    parts: list[tuple[str, Matcher]] = []
    for field in ordered:
        if isinstance(field.pattern, ast.Literal):
            literals.append((field.field, _value(field.pattern, types)))
        elif isinstance(field.pattern, ast.Empty):
            literals.append((field.field, ()))
        elif isinstance(field.pattern, ast.Variable):
            variables.append((field.field, field.pattern.name))
        elif not isinstance(field.pattern, ast.Wildcard):
            parts.append((field.field, _pattern(field.pattern, types)))

    def match(found: Any, bindings: Bindings, expand: Expand) -> list[Bindings]:
        nodes = (bindings[_ROOT],) if root else expand(found)
        if len(nodes) == 1:
            return of_one(nodes[0], bindings, expand)
        return [b for node in nodes for b in of_one(node, bindings, expand)]

    def of_one(node: Any, bindings: Bindings, expand: Expand) -> list[Bindings]:
        if type(node) is not cls:
            return []
        for name, value in literals:
            if getattr(node, name) != value:
                return []
        first = dict(bindings)
        for name, variable in variables:
            found = getattr(node, name)
            if first.setdefault(variable, found) != found:
                return []
        bound = [first]
        for name, matcher in parts:
            found = getattr(node, name)
            if len(bound) == 1:
                bound = matcher(found, bound[0], expand)
            else:
                bound = [b for one in bound for b in matcher(found, one, expand)]
        return bound

    return match


# ---- steps and templates -------------------------------------------------------------------------


def _let(step: ast.Let, types: Types) -> Callable[[Bindings, Context], bool]:
    name, value = step.variable.name, _template(step.value, types)

    def run(bindings: Bindings, context: Context) -> bool:
        bindings[name] = found = value(bindings, context)
        return found is not None

    return run


def _condition(
    condition: ast.Holds | ast.Compares, types: Types
) -> Callable[[Bindings, Context], bool]:
    wanted = not condition.negated
    if isinstance(condition, ast.Holds):
        value = _template(condition.value, types)
        return lambda bindings, context: bool(value(bindings, context)) is wanted
    left, right = _template(condition.left, types), _template(condition.right, types)
    return lambda bindings, context: (left(bindings, context) == right(bindings, context)) is wanted


def _value(literal: ast.Literal, types: Types) -> Any:
    kind = types[id(literal)]
    if kind == "expr":
        return parse_expression(str(literal.value))
    if isinstance(literal.value, float) and literal.value.is_integer():
        return int(literal.value)
    return literal.value


def _template(template: ast.Template, types: Types) -> Evaluator:
    if isinstance(template, ast.Variable):
        name = template.name
        return lambda bindings, context: bindings[name]
    if isinstance(template, ast.Literal):
        value = _value(template, types)
        return lambda bindings, context: value
    if isinstance(template, ast.Listing):
        items = [_template(item, types) for item in template.items]
        return lambda bindings, context: _all(items, bindings, context)
    if isinstance(template, ast.Call):
        return _call(template, types)
    cls = OPERATORS[template.op]
    given = {a.field: _template(a.value, types) for a in template.arguments}
    values = [given[name] for name in cls.field_names]

    def build(bindings: Bindings, context: Context) -> Node | None:
        made = _all(values, bindings, context)
        return None if made is None else cls(*made)

    return build


def _call(template: ast.Call, types: Types) -> Evaluator:
    function = builtins()[template.fn]
    args = [_template(arg, types) for arg in template.args]

    call = function.call
    variables = [arg.name for arg in template.args if isinstance(arg, ast.Variable)]
    if len(args) > 1 and len(variables) == len(args):  # most are, and have a value
        bound = itemgetter(*variables)
        if function.contextual:
            return lambda bindings, context: call(context, *bound(bindings))
        return lambda bindings, context: call(*bound(bindings))

    def of_one(bindings: Bindings, context: Context) -> Any:
        value = args[0](bindings, context)
        return None if value is None else call(value)

    def of_several(bindings: Bindings, context: Context) -> Any:
        values = _all(args, bindings, context)
        if values is None:
            return None
        return call(context, *values) if function.contextual else call(*values)

    if len(args) == 1 and len(variables) == 1 and not function.contextual:
        name = variables[0]
        return lambda bindings, context: call(bindings[name])
    return of_one if len(args) == 1 and not function.contextual else of_several


def _all(items: list[Evaluator], bindings: Bindings, context: Context) -> tuple[Any, ...] | None:
    """The values of all items; None where one of them has none, which refuses the match."""
    values: list[Any] = []
    for item in items:
        value = item(bindings, context)
        if value is None:
            return None
        values.append(value)
    return tuple(values)

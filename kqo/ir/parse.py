"""Reading the text form of a plan, by the grammar ``grammar/plan.lark``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken, VisitError

from kqo.data import data_path
from kqo.errors import Place, PlanError
from kqo.ir import nodes, region, scalar
from kqo.ir.equations import Affine, Condition, Ranged
from kqo.ir.plan import Array, Plan
from kqo.ir.schema import Axes, Axis

Conditions = tuple[Condition, ...]
_TERMINALS = {
    "IDENTIFIER": "a name",
    "STRING": "a quoted string",
    "REF": "a label such as %1",
    "REGION": "a region label such as @1",
    "NUMBER": "a number",
    "INT": "an integer",
    "$END": "the end of the text",
}


def parse_plan(
    text: str, constants: Mapping[str, Array] | None = None, file: str = "<text>"
) -> Plan:
    """Read a plan from its text form.

    Args:
        text: what :func:`kqo.ir.text.format_plan` prints, or written by hand: definitions may also
            nest, and labels may be any names.
        constants: values of the Const nodes by name; the text does not hold them.
        file: the name that errors give as the place.

    Returns:
        The plan. Its nodes are the interned ones: reading back a printed plan gives the same roots.

    Raises:
        PlanError: the text does not parse, names a label that is not defined above, or defines one
            twice; with file, line and column.
    """
    result: Plan = _read(_parser(), text, _Builder(constants or {}, file), file)
    return result


def parse_expression(text: str) -> scalar.Expr:
    """Read a scalar expression, such as ``max(v * 2, 0)``, by ``grammar/scalar.lark``.

    Raises:
        PlanError: the text does not parse; with file, line and column.
    """
    result: scalar.Expr = _read(_expression_parser(), text, _Builder({}, "<text>"), "<text>")
    return result


def _read(parser: Lark, text: str, builder: _Builder, file: str) -> Any:
    try:
        tree = parser.parse(text)
    except UnexpectedEOF as error:
        line = text.count("\n") + 1
        found = f"the text ends too early; expected {_expected(parser, error.expected)}"
        raise PlanError(found, place=Place(file, line, 1)) from None
    except (UnexpectedToken, UnexpectedCharacters) as error:
        place = Place(file, max(error.line, 1), max(error.column, 1))
        raise PlanError(_unexpected(parser, error, text), place=place) from None
    try:
        return builder.transform(tree)
    except VisitError as error:
        if isinstance(error.orig_exc, PlanError):
            raise error.orig_exc from None
        raise


@cache
def _parser() -> Lark:
    return _load("plan.lark", "start")


@cache
def _expression_parser() -> Lark:
    # Of its own, since the tables of the whole grammar take ten times as long to make, and reading
    # the rules needs no more than this.
    return _load("scalar.lark", "expression")


def _load(name: str, start: str) -> Lark:
    path = str(data_path("grammar", name))
    return Lark.open(path, parser="lalr", maybe_placeholders=False, start=start)


def _expected(parser: Lark, terminals: Any) -> str:
    """The terminals that would have been accepted, in the reader's words."""
    shown = set()
    for name in terminals:
        if name in _TERMINALS:
            shown.add(_TERMINALS[name])
        else:
            pattern = parser.get_terminal(name).pattern.value
            shown.add(repr(pattern.replace("\\", "")))
    return " or ".join(sorted(shown))


def _unexpected(parser: Lark, error: UnexpectedToken | UnexpectedCharacters, text: str) -> str:
    if isinstance(error, UnexpectedToken):
        if error.token.type == "$END":
            wanted = _expected(parser, error.accepts or error.expected)
            return f"the text ends too early; expected {wanted}"
        found, expected = str(error.token), error.accepts or error.expected
    else:
        found, expected = text[error.pos_in_stream or 0], error.allowed or set()
    return f"unexpected {found!r}; expected {_expected(parser, expected)}"


@v_args(inline=True)
class _Builder(Transformer[Token, Plan]):
    """Builds nodes bottom up; labels are resolved in the order of the text."""

    def __init__(self, constants: Mapping[str, Array], file: str) -> None:
        super().__init__()
        self._constants = constants
        self._file = file
        self._nodes: dict[str, nodes.Node] = {}
        self._regions: dict[str, region.Region] = {}
        self._roots: list[tuple[str, nodes.Node]] = []

    def _fail(self, token: Token, message: str) -> NoReturn:
        raise PlanError(message, place=Place(self._file, token.line or 1, token.column or 1))

    # Names and numbers. A name keeps its token, for the place of errors, until a node takes it.

    def name(self, token: Token) -> Token:
        if token.type != "STRING":
            return token
        try:
            return token.update(value=json.loads(token))
        except ValueError as error:
            self._fail(token, f"{token} is no quoted string: {error}")

    def integer(self, *tokens: Token) -> int:
        return int("".join(tokens))

    def number(self, *tokens: Token) -> float:
        text = "".join(tokens)
        try:
            return float(text)
        except ValueError:
            self._fail(tokens[0], f"{text} is no number")

    # Definitions.

    def label(self, token: Token) -> Token:
        return token

    def define(self, label: Token, node: nodes.Node) -> None:
        if label in self._nodes:
            self._fail(label, f"{label} is defined twice")
        self._nodes[str(label)] = node

    def define_base(self, label: Token, kind: Token, axes: Axes) -> None:
        if label.type == "REF":
            self._fail(label, f"{label} = {kind}: give its name, as in {kind}(name: a, axes: ...)")
        made = nodes.Scan if kind == "Scan" else nodes.Const
        self.define(label, made(str(label), axes))

    def use(self, label: Token) -> nodes.Node:
        if label not in self._nodes:
            self._fail(label, f"{label} is not defined above")
        return self._nodes[str(label)]

    def define_region(self, label: Token, value: region.Region) -> None:
        if label in self._regions:
            self._fail(label, f"{label} is defined twice")
        self._regions[str(label)] = value

    def use_region(self, label: Token) -> region.Region:
        if label not in self._regions:
            self._fail(label, f"{label} is not defined above")
        return self._regions[str(label)]

    def root(self, name: Token, node: nodes.Node) -> None:
        self._roots.append((str(name), node))

    def header(self, name: Token, dtype: Token) -> tuple[str, str]:
        if dtype not in ("float32", "float64"):
            self._fail(dtype, f"dtype {dtype}; accepted: float32, float64")
        return str(name), str(dtype)

    def start(self, header: tuple[str, str], *statements: None) -> Plan:
        return Plan(header[0], tuple(self._roots), self._constants, {}, header[1])

    # Nodes.

    def scan(self, name: Token, axes: Axes) -> nodes.Node:
        return nodes.Scan(str(name), axes)

    def const(self, name: Token, axes: Axes) -> nodes.Node:
        return nodes.Const(str(name), axes)

    def domain(self, axes: Axes) -> nodes.Node:
        return nodes.Domain(axes)

    def join(
        self, left: nodes.Node, right: nodes.Node, on: Conditions, axes: Axes, combine: Token
    ) -> nodes.Node:
        return nodes.Join(left, right, on, axes, str(combine))

    def group(self, source: nodes.Node, by: tuple[str, ...], agg: Token) -> nodes.Node:
        return nodes.Group(source, by, str(agg))

    def map(self, source: nodes.Node, fn: scalar.Expr) -> nodes.Node:
        return nodes.Map(source, fn)

    def union(self, parts: tuple[nodes.Node, ...], axis: Token) -> nodes.Node:
        return nodes.Union(parts, str(axis))

    def slice(self, source: nodes.Node, at: region.Region) -> nodes.Node:
        return nodes.Slice(source, at)

    def rekey(self, source: nodes.Node, order: tuple[str, ...], axes: Axes) -> nodes.Node:
        return nodes.Rekey(source, order, axes)

    def overlay(self, base: nodes.Node, patch: nodes.Node, at: region.Region) -> nodes.Node:
        return nodes.Overlay(base, patch, at)

    def saved(self, source: nodes.Node) -> nodes.Node:
        return nodes.Saved(source)

    def opaque(
        self, args: tuple[nodes.Node, ...], name: Token, index: int, axes: Axes
    ) -> nodes.Node:
        return nodes.Opaque(args, str(name), index, axes)

    def physical(self, form: Token, *values: Any) -> nodes.Node:
        source, weight, on, axes, by, combine, agg, tail, operands, tile = values
        return nodes.Physical(
            str(form), source, weight, on, axes, by, str(combine), str(agg), tail, operands, tile
        )

    def inputs(self, *found: nodes.Node) -> tuple[nodes.Node, ...]:
        return found

    # Keys and conditions.

    def axis(self, name: Token, extent: Token) -> Axis:
        return Axis(str(name), int(extent))

    def query_axis(self, name: Token) -> Axis:
        return Axis(str(name), None)

    def axes(self, *found: Axis) -> Axes:
        return found

    def names(self, *found: Token) -> tuple[str, ...]:
        return tuple(map(str, found))

    def conditions(self, *found: Condition) -> Conditions:
        return found

    def left(self, *found: Any) -> tuple[Token, int]:
        return (found[-1], found[0] if len(found) == 2 else 1)

    def term(self, *found: Token) -> tuple[int, str]:
        if len(found) == 2:
            return int(found[0]), str(found[1])
        return (int(found[0]), "") if found[0].type == "INT" else (1, str(found[0]))

    def linear(self, *found: Any) -> tuple[tuple[int, str], ...]:
        terms, sign = [], 1
        for item in found:
            if isinstance(item, Token):
                sign = -1 if item == "-" else 1
            else:
                terms.append((sign * item[0], item[1]))
        return tuple(terms)

    def affine(self, left: tuple[Token, int], right: tuple[tuple[int, str], ...]) -> Affine:
        named = tuple(term for term in right if term[1])
        return Affine(str(left[0]), named, sum(c for c, name in right if not name), left[1])

    def table(self, name: Token, *values: int) -> tuple[Token, tuple[int, ...]]:
        return name, values

    def ranged(self, left: tuple[Token, int], *found: Any) -> Ranged:
        start, out, tap, lo, hi = found
        axis, scale = left
        if scale != 1:
            self._fail(axis, f"{scale}*{axis}: a condition over tables has no scale")
        for word, wanted in ((start, "lo"), (lo[0], "lo"), (hi[0], "hi")):
            if word != wanted:
                self._fail(word, f"unexpected {str(word)!r}; expected {wanted!r}")
        return Ranged(str(axis), str(out), str(tap), lo[1], hi[1])

    # Regions.

    def changed(self, relation: Token) -> region.Region:
        return region.Changed(str(relation))

    def everything(self, into: Axes) -> region.Region:
        return region.Everything(into)

    def image(self, of: region.Region, on: Conditions, taps: Axes, into: Axes) -> region.Region:
        return region.Image(of, on, taps, into)

    def either(self, of: tuple[region.Region, ...]) -> region.Region:
        return region.Either(of)

    def regions(self, *found: region.Region) -> tuple[region.Region, ...]:
        return found

    def shift(self, of: region.Region, axis: Token, offset: int, into: Axes) -> region.Region:
        return region.Shift(of, str(axis), offset, into)

    def regroup(
        self, of: region.Region, source: Axes, order: tuple[str, ...], into: Axes
    ) -> region.Region:
        return region.Regroup(of, source, order, into)

    def clip(self, of: region.Region, tau: float, into: Axes) -> region.Region:
        return region.Clip(of, tau, into)

    def shrink(
        self, of: region.Region, threshold: float, layer: Token, into: Axes
    ) -> region.Region:
        return region.Shrink(of, threshold, str(layer), into)

    # Scalar expressions.

    def expression(self, expr: scalar.Expr) -> scalar.Expr:
        return expr

    def add(self, a: scalar.Expr, b: scalar.Expr) -> scalar.Expr:
        return scalar.call("add", a, b)

    def sub(self, a: scalar.Expr, b: scalar.Expr) -> scalar.Expr:
        return scalar.call("sub", a, b)

    def mul(self, a: scalar.Expr, b: scalar.Expr) -> scalar.Expr:
        return scalar.call("mul", a, b)

    def div(self, a: scalar.Expr, b: scalar.Expr) -> scalar.Expr:
        return scalar.call("div", a, b)

    def variable(self, name: Token) -> scalar.Expr:
        known = {"inf": math.inf, "nan": math.nan}
        return scalar.Num(known[name]) if name in known else scalar.Var(str(name))

    def literal(self, *tokens: Token) -> scalar.Expr:
        if tokens[-1].type == "IDENTIFIER" and tokens[-1] != "inf":
            self._fail(tokens[-1], f"-{tokens[-1]}: write neg({tokens[-1]})")
        return scalar.Num(float("".join(tokens)))

    def call(self, fn: Token, *args: scalar.Expr) -> scalar.Expr:
        try:
            return scalar.call(str(fn), *args)
        except PlanError as error:
            self._fail(fn, error.message)

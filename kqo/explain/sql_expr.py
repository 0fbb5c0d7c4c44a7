"""Identifiers, numbers and scalar expressions in the SQL that DuckDB and PostgreSQL share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

from kqo.errors import PlanError
from kqo.ir.scalar import Expr, Num, Var

_BARE = re.compile(r"[a-z]\d*\Z|k[a-z]\d*\Z")
INFINITY = "CAST('Infinity' AS DOUBLE PRECISION)"
NAN = "CAST('NaN' AS DOUBLE PRECISION)"


def identifier(name: str) -> str:
    """A table or column name, quoted unless it is plain."""
    return name if _BARE.match(name) else '"' + name.replace('"', '""') + '"'


def column(table: str, name: str) -> str:
    """``l.y``."""
    return f"{table}.{identifier(name)}"


def number(value: float) -> str:
    """A DOUBLE PRECISION literal; the exponent keeps it from being read as a decimal."""
    if math.isnan(value):
        return NAN
    if math.isinf(value):
        return INFINITY if value > 0 else f"-{INFINITY}"
    text = repr(float(value)).removesuffix(".0")
    text = text if "e" in text else f"{text}e0"
    return f"({text})" if text.startswith("-") else text


def rows(values: Iterable[Iterable[int]]) -> str:
    """``(VALUES (0, 1), (1, 2))``."""
    return "(VALUES " + ", ".join(f"({', '.join(map(str, row))})" for row in values) + ")"


def domain(extent: int, alias: str, name: str) -> str:
    """A table of the keys of one axis."""
    return f"generate_series(0, {extent - 1}) AS {alias}({identifier(name)})"


def _truth(operator: str) -> Callable[[str, str], str]:
    return lambda a, b: f"CASE WHEN {a} {operator} {b} THEN 1e0 ELSE 0e0 END"


def _infix(operator: str) -> Callable[[str, str], str]:
    return lambda a, b: f"({a} {operator} {b})"


def _even(a: str) -> str:
    """Rounding half to even: ROUND rounds half away from zero."""
    half = f"ABS({a} - FLOOR({a})) = 0.5e0"
    return f"CASE WHEN {half} THEN 2 * ROUND({a} / 2) ELSE ROUND({a}) END"


FUNCTIONS: dict[str, Callable[..., str]] = {
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _infix("/"),
    "left": lambda a, _: a,
    "max": lambda a, b: f"GREATEST({a}, {b})",
    "min": lambda a, b: f"LEAST({a}, {b})",
    "gt": _truth(">"),
    "ge": _truth(">="),
    "eq": _truth("="),
    "pow": lambda a, b: f"POWER({a}, {b})",
    "neg": lambda a: f"(-{a})",
    "abs": lambda a: f"ABS({a})",
    "sign": lambda a: f"SIGN({a})",
    "floor": lambda a: f"FLOOR({a})",
    "ceil": lambda a: f"CEIL({a})",
    "round": _even,
    "when": lambda v, m: f"CASE WHEN {m} <> 0 THEN {v} ELSE -{INFINITY} END",
    "where": lambda c, a, b: f"CASE WHEN {c} <> 0 THEN {a} ELSE {b} END",
    "exp": lambda a: f"EXP({a})",
    "log": lambda a: f"CASE WHEN {a} > 0 THEN LN({a}) WHEN {a} = 0 THEN -{INFINITY} ELSE {NAN} END",
    "sqrt": lambda a: f"CASE WHEN {a} >= 0 THEN SQRT({a}) ELSE {NAN} END",
    "rsqrt": lambda a: (
        f"CASE WHEN {a} > 0 THEN 1 / SQRT({a}) WHEN {a} = 0 THEN {INFINITY} ELSE {NAN} END"
    ),
    "tanh": lambda a: f"TANH({a})",
    "sigmoid": lambda a: f"(1 / (1 + EXP(-{a})))",
    "sin": lambda a: f"SIN({a})",
    "cos": lambda a: f"COS({a})",
    "atan": lambda a: f"ATAN({a})",
    "fmod": lambda a, b: f"({a} - {b} * TRUNC({a} / {b}))",
}


def apply(fn: str, *args: str) -> str:
    """A function of :data:`kqo.ir.scalar.FUNCTIONS`, or a join's combine, over SQL expressions.

    Raises:
        PlanError: SQL has no such function.
    """
    if fn not in FUNCTIONS:
        raise PlanError(f"SQL cannot say {fn}: DuckDB has no such function")
    return FUNCTIONS[fn](*args)


def expression(expr: Expr, values: Mapping[str, str]) -> str:
    """A scalar expression, given SQL for its variables.

    Raises:
        PlanError: it calls a function that SQL has not.
    """
    if isinstance(expr, Var):
        return values[expr.name]
    if isinstance(expr, Num):
        return number(expr.value)
    return apply(expr.fn, *(expression(arg, values) for arg in expr.args))

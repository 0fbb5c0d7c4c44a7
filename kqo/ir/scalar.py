"""Scalar expressions: what a Map applies to every value, and what an epilogue computes.

An expression is a tree of :class:`Var`, :class:`Num` and :class:`Call`. Its text form is infix, as
in ``max(v + 3, 0) / 6``; ``v`` is the value at hand, other names stand for operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kqo.errors import PlanError


@dataclass(frozen=True, slots=True)
class Var:
    """A value by name; ``v`` is the value of the relation that is mapped."""

    name: str = "v"


@dataclass(frozen=True, slots=True)
class Num:
    """A number. Held as a float: every float is also an exact rational."""

    value: float

    def __post_init__(self) -> None:
        if math.isnan(self.value):  # one NaN, so that equal expressions are equal
            object.__setattr__(self, "value", math.nan)


@dataclass(frozen=True, slots=True)
class Call:
    """A function of :data:`FUNCTIONS` applied to arguments."""

    fn: str
    args: tuple[Expr, ...]


Expr = Var | Num | Call
V = Var("v")


@dataclass(frozen=True, slots=True)
class Function:
    """A scalar function: its arity, and its meaning on one number.

    ``exact`` means that it maps rationals to rationals, so that the reference interpreter applies
    it to fractions as it stands; others are computed in float and converted back.
    """

    arity: int
    evaluate: Callable[..., Any]
    exact: bool
    infix: str = ""


def _sign(v: Any) -> Any:
    return (v > 0) - (v < 0) if v == v else v


def _divide(a: Any, b: Any) -> Any:
    """Division with IEEE 754's answers at zero; the quotient of two integers is a fraction."""
    if b == 0:
        return a * math.copysign(math.inf, b) if a else math.nan
    return Fraction(a) / b if isinstance(a, int) and isinstance(b, int) else a / b


def _maximum(a: Any, b: Any) -> Any:
    return a if a != a or a >= b else b


def _minimum(a: Any, b: Any) -> Any:
    return a if a != a or a <= b else b


def _exp(v: float) -> float:
    return math.inf if v >= 709.7 else math.exp(v)


def _log1p(v: float) -> float:
    if v <= -1:
        return -math.inf if v == -1 else math.nan
    return math.log1p(v)


def _rsqrt(v: float) -> float:
    return math.inf if v == 0 else 1 / math.sqrt(v) if v >= 0 else math.nan


def _pow(a: float, b: float) -> float:
    odd = a < 0 and b % 2 == 1
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if odd else math.inf
    except ValueError:
        return math.inf if a == 0 else math.nan


def _fmod(a: Any, b: Any) -> Any:
    """What is left of a after as many b as go into it, with the sign of a."""
    if isinstance(a, float) or isinstance(b, float):
        usual = math.isfinite(a) and b == b and b != 0
        return math.fmod(a, b) if usual else math.nan
    left = abs(a) % abs(b) if b else math.nan
    return left if a >= 0 else -left


def _sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v)) if v >= 0 else (e := math.exp(v)) / (1 + e)


FUNCTIONS: dict[str, Function] = {
    "add": Function(2, lambda a, b: a + b, True, "+"),
    "sub": Function(2, lambda a, b: a - b, True, "-"),
    "mul": Function(2, lambda a, b: a * b, True, "*"),
    "div": Function(2, _divide, True, "/"),
    "max": Function(2, _maximum, True),
    "min": Function(2, _minimum, True),
    "neg": Function(1, lambda a: -a, True),
    "abs": Function(1, abs, True),
    "sign": Function(1, _sign, True),
    "floor": Function(
        1, lambda a: a if a in (math.inf, -math.inf) or a != a else math.floor(a), True
    ),
    "ceil": Function(
        1, lambda a: a if a in (math.inf, -math.inf) or a != a else math.ceil(a), True
    ),
    "round": Function(1, lambda a: a if a in (math.inf, -math.inf) or a != a else round(a), True),
    "gt": Function(2, lambda a, b: type(a)(a > b), True),
    "ge": Function(2, lambda a, b: type(a)(a >= b), True),
    "eq": Function(2, lambda a, b: type(a)(a == b), True),
    "when": Function(2, lambda v, m: v if m else -math.inf, True),
    "where": Function(3, lambda c, a, b: a if c else b, True),
    "exp": Function(1, _exp, False),
    "log": Function(
        1, lambda a: math.log(a) if a > 0 else (-math.inf if a == 0 else math.nan), False
    ),
    "log1p": Function(1, _log1p, False),
    "sqrt": Function(1, lambda a: math.sqrt(a) if a >= 0 else math.nan, False),
    "rsqrt": Function(1, _rsqrt, False),
    "pow": Function(2, _pow, False),
    "tanh": Function(1, math.tanh, False),
    "sigmoid": Function(1, _sigmoid, False),
    "erf": Function(1, math.erf, False),
    "sin": Function(1, lambda a: math.nan if math.isinf(a) else math.sin(a), False),
    "cos": Function(1, lambda a: math.nan if math.isinf(a) else math.cos(a), False),
    "atan": Function(1, math.atan, False),
    "fmod": Function(2, _fmod, True),
}


def call(fn: str, *args: Expr | float) -> Expr:
    """A call, checked for a known function and its arity; plain numbers are wrapped."""
    if fn not in FUNCTIONS:
        raise PlanError(f"unknown scalar function {fn!r}; known: {', '.join(sorted(FUNCTIONS))}")
    if len(args) != FUNCTIONS[fn].arity:
        raise PlanError(f"{fn} takes {FUNCTIONS[fn].arity} arguments, got {len(args)}")
    return Call(fn, tuple(Num(float(a)) if isinstance(a, (int, float)) else a for a in args))


RELU = call("max", V, 0.0)


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """The expression with variables replaced by expressions."""
    if isinstance(expr, Var):
        return values.get(expr.name, expr)
    if isinstance(expr, Call):
        return Call(expr.fn, tuple(substitute(a, values) for a in expr.args))
    return expr


def variables(expr: Expr) -> frozenset[str]:
    """Names of the variables that occur."""
    if isinstance(expr, Var):
        return frozenset((expr.name,))
    if isinstance(expr, Call):
        return frozenset().union(*(variables(a) for a in expr.args))
    return frozenset()


def is_exact(expr: Expr) -> bool:
    """Whether the expression maps rationals to rationals."""
    if isinstance(expr, Call):
        return FUNCTIONS[expr.fn].exact and all(is_exact(a) for a in expr.args)
    return True


def evaluate(expr: Expr, values: Mapping[str, Any]) -> Any:
    """The value for the given variables: floats, or fractions (then exactly, where the function is
    exact).

    A function that leaves the rationals is computed in float, and its result taken as a fraction,
    so that equal arguments give equal results.
    """
    if isinstance(expr, Var):
        return values[expr.name]
    rational = any(isinstance(v, Fraction) for v in values.values())
    if isinstance(expr, Num):
        return Fraction(expr.value) if rational and math.isfinite(expr.value) else expr.value
    args = [evaluate(a, values) for a in expr.args]
    function = FUNCTIONS[expr.fn]
    if function.exact:
        return function.evaluate(*args)
    result = function.evaluate(*(float(a) for a in args))
    return Fraction(result) if rational and math.isfinite(result) else result


_PRECEDENCE = {"add": 1, "sub": 1, "mul": 2, "div": 2}


def format_number(value: float) -> str:
    """Shortest text that reads back as the same float."""
    if math.isnan(value):
        return "nan"
    if value == 0 and math.copysign(1, value) < 0:
        return "-0.0"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def format_expr(expr: Expr, outer: int = 0) -> str:
    """Infix text, with parentheses only where they are needed."""
    if isinstance(expr, Var):
        return expr.name
    if isinstance(expr, Num):
        return format_number(expr.value)
    level = _PRECEDENCE.get(expr.fn)
    if level is None:
        return f"{expr.fn}({', '.join(format_expr(a) for a in expr.args)})"
    left, right = expr.args
    text = f"{format_expr(left, level)} {FUNCTIONS[expr.fn].infix} {format_expr(right, level + 1)}"
    return f"({text})" if level < outer else text

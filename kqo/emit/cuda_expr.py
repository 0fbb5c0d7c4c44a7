"""Scalar expressions as C: the epilogues of CUDA kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from kqo.ir.scalar import Call, Expr, Num, Var

_CALLS: dict[str, Callable[..., str]] = {
    "add": lambda a, b: f"({a} + {b})",
    "sub": lambda a, b: f"({a} - {b})",
    "mul": lambda a, b: f"({a} * {b})",
    "div": lambda a, b: f"({a} / {b})",
    "neg": lambda a: f"(-{a})",
    "gt": lambda a, b: f"({a} > {b} ? 1.f : 0.f)",
    "ge": lambda a, b: f"({a} >= {b} ? 1.f : 0.f)",
    "eq": lambda a, b: f"({a} == {b} ? 1.f : 0.f)",
    "when": lambda v, m: f"({m} != 0.f ? {v} : -KQO_INF)",
    "where": lambda c, a, b: f"({c} != 0.f ? {a} : {b})",
    "rsqrt": lambda a: f"(1.f / sqrtf({a}))",
    "sigmoid": lambda a: f"(1.f / (1.f + expf(-{a})))",
    "max": lambda a, b: f"maximum({a}, {b})",
    "min": lambda a, b: f"minimum({a}, {b})",
    "sign": lambda a: f"sign({a})",
    "left": lambda a, b: a,
}
_MATH = {
    "abs": "fabsf",
    "floor": "floorf",
    "ceil": "ceilf",
    "round": "rintf",
    "exp": "expf",
    "log": "logf",
    "log1p": "log1pf",
    "sqrt": "sqrtf",
    "pow": "powf",
    "tanh": "tanhf",
    "erf": "erff",
    "sin": "sinf",
    "cos": "cosf",
    "atan": "atanf",
    "fmod": "fmodf",
}


def c_number(value: float) -> str:
    """A float32 literal; infinities and NaN by the names that device.cu.j2 gives them."""
    if math.isnan(value):
        return "KQO_NAN"
    if math.isinf(value):
        return "KQO_INF" if value > 0 else "(-KQO_INF)"
    text = f"{value:.9g}"
    text = text if any(mark in text for mark in ".en") else text + ".0"
    return f"({text}f)" if text.startswith("-") else f"{text}f"


def c_call(fn: str, *args: str) -> str:
    """A function of scalar expressions, or a way to combine values, applied to C expressions."""
    return _CALLS[fn](*args) if fn in _CALLS else f"{_MATH[fn]}({', '.join(args)})"


def c_expr(expr: Expr, names: Mapping[str, str]) -> str:
    """An expression in C.

    Args:
        expr: the expression.
        names: C expressions of its variables.
    """
    if isinstance(expr, Var):
        return names[expr.name]
    if isinstance(expr, Num):
        return c_number(expr.value)
    assert isinstance(expr, Call)
    return c_call(expr.fn, *(c_expr(a, names) for a in expr.args))

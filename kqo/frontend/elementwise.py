"""Arithmetic on elements: unary functions as Map, binary operators as natural joins."""

from __future__ import annotations

import math
from typing import Any

from kqo.frontend.activations import clamp, times
from kqo.frontend.algebra import apply, combine
from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.values import Number, Operand, Value
from kqo.ir.scalar import Expr, Num, V, call, format_expr

_UNARY = (
    "abs", "neg", "floor", "ceil", "round", "exp", "log", "log1p", "sqrt", "rsqrt", "erf",
    "sin", "cos", "atan",
)  # fmt: skip
_HALF_TANH = call("tanh", times(V, 0.5))
_EXPRESSIONS: dict[str, Expr] = {
    **{name: call(name, V) for name in _UNARY},
    "sign": call("sub", call("gt", V, 0.0), call("gt", 0.0, V)),  # of NaN it is 0
    "reciprocal": call("div", 1.0, V),
    "square": times(V, V),
    "expm1": call("sub", call("exp", V), 1.0),
    "logical_not": call("eq", V, 0.0),
    "isnan": call("eq", call("eq", V, V), 0.0),
    "trunc": call("where", call("gt", V, 0.0), call("floor", V), call("ceil", V)),
    "exp2": call("exp", times(V, math.log(2))),
    "log2": times(call("log", V), 1 / math.log(2)),
    "log10": times(call("log", V), 1 / math.log(10)),
    "tan": call("div", call("sin", V), call("cos", V)),
    "asin": call(
        "atan", call("div", V, call("sqrt", times(call("sub", 1.0, V), call("add", 1.0, V))))
    ),
    "acos": times(
        call("atan", call("sqrt", call("div", call("sub", 1.0, V), call("add", 1.0, V)))), 2.0
    ),
    "cosh": call("add", times(call("exp", V), 0.5), times(call("exp", call("neg", V)), 0.5)),
    # Of small values the two exponentials would cancel.
    "sinh": call(
        "where",
        call("gt", 1.0, call("abs", V)),
        call("div", times(_HALF_TANH, 2.0), call("sub", 1.0, times(_HALF_TANH, _HALF_TANH))),
        call("sub", times(call("exp", V), 0.5), times(call("exp", call("neg", V)), 0.5)),
    ),
}


def _register_unary(name: str, fn: Expr) -> None:
    @lowers(f"aten.{name}.default", does=f"``{format_expr(fn)}``.")
    def run(at: Context, x: Value) -> Value:
        return apply(x, fn)


for _name, _fn in _EXPRESSIONS.items():
    _register_unary(_name, _fn)


@lowers(
    "aten.clone.default", "aten.alias.default", "aten.contiguous.default", "aten.detach.default",
    "aten.detach_.default", "aten.lift_fresh_copy.default", "aten.dropout.default",
    "aten.feature_dropout.default", "aten.alpha_dropout.default", "aten.positive.default",
    "aten.feature_alpha_dropout.default",
    kind="identity",
)  # fmt: skip
def identity(at: Context, x: Value, p: float = 0.0, train: bool = False, **_: Any) -> Value:
    """Operators that change no value at inference."""
    if train and p:
        at.unsupported("dropout in training mode")
    return x


@lowers(
    "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.to.other",
    "aten.type_as.default", "aten._to_copy.default",
    kind="cast",
)  # fmt: skip
def cast(at: Context, x: Value, *_: Any, **__: Any) -> Value:
    """A cast between floating types changes nothing: the plan has one type for all values."""
    if at.result_is("int"):
        at.unsupported("a cast to integers")
    return apply(x, call("eq", call("eq", V, 0.0), 0.0)) if at.result_is("bool") else x


def binary(at: Context, fn: str, a: Operand | Number, b: Operand | Number) -> Value:
    """A binary operator of which one side may be a number, which makes it a Map."""
    if isinstance(a, (int, float)):
        assert isinstance(b, Value)
        return apply(b, call(fn, a, V))
    if isinstance(b, (int, float)):
        assert isinstance(a, Value)
        return apply(a, call(fn, V, b))
    return combine(at, fn, a, b)


def _scaled(at: Context, x: Operand | Number, alpha: Number) -> Operand | Number:
    if alpha == 1:
        return x
    return x * alpha if isinstance(x, (int, float)) else apply(at.as_value(x), times(V, alpha))


@lowers("aten.add.Tensor", "aten.add.Scalar")
def add(at: Context, a: Operand, b: Operand | Number, alpha: Number = 1) -> Value:
    """``a + alpha * b``."""
    return binary(at, "add", a, _scaled(at, b, alpha))


@lowers("aten.sub.Tensor", "aten.sub.Scalar")
def sub(at: Context, a: Operand, b: Operand | Number, alpha: Number = 1) -> Value:
    """``a - alpha * b``."""
    return binary(at, "sub", a, _scaled(at, b, alpha))


@lowers("aten.rsub.Scalar", "aten.rsub.Tensor", kind="sub")
def rsub(at: Context, a: Operand, b: Operand | Number, alpha: Number = 1) -> Value:
    """``b - alpha * a``."""
    return binary(at, "sub", b, _scaled(at, a, alpha))


@lowers("aten.mul.Tensor", "aten.mul.Scalar")
def mul(at: Context, a: Operand, b: Operand | Number) -> Value:
    """``a * b``."""
    return binary(at, "mul", a, b)


@lowers("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def div(at: Context, a: Operand, b: Operand | Number) -> Value:
    """``a / b``."""
    return binary(at, "div", a, b)


@lowers("aten.div.Tensor_mode", kind="div")
def div_mode(
    at: Context, a: Operand, b: Operand | Number, rounding_mode: str | None = None
) -> Value:
    """``a / b``, rounded down where asked for."""
    quotient = binary(at, "div", a, b)
    if rounding_mode is None:
        return quotient
    if rounding_mode != "floor":
        at.unsupported(f"rounding mode {rounding_mode}")
    return apply(quotient, call("floor", V))


@lowers("aten.fmod.Scalar")
def fmod(at: Context, x: Value, divisor: Number) -> Value:
    """What is left after division by a number, with the sign of x."""
    return apply(x, call("fmod", V, float(divisor)))


@lowers("aten.remainder.Scalar")
def remainder(at: Context, x: Value, divisor: Number) -> Value:
    """What is left after division by a number, with the sign of that number."""
    left = call("fmod", V, float(divisor))
    other = call("gt", 0.0, times(left, float(divisor)))
    return apply(x, call("where", other, call("add", left, float(divisor)), left))


@lowers("aten.maximum.default", "aten.max.other", kind="max")
def maximum(at: Context, a: Operand, b: Operand) -> Value:
    """The larger of two elements."""
    return combine(at, "max", a, b)


@lowers("aten.minimum.default", "aten.min.other", kind="min")
def minimum(at: Context, a: Operand, b: Operand) -> Value:
    """The smaller of two elements."""
    return combine(at, "min", a, b)


@lowers("aten.pow.Tensor_Scalar", kind="pow")
def power(at: Context, x: Value, exponent: Number) -> Value:
    """``x ** exponent``; small powers by products and roots, as PyTorch computes them."""
    special: dict[float, Expr] = {
        0.5: call("sqrt", V),
        -0.5: call("rsqrt", V),
        1.0: V,
        2.0: times(V, V),
        3.0: times(V, V, V),
        -1.0: call("div", 1.0, V),
        -2.0: call("div", 1.0, times(V, V)),
    }
    fn = special.get(float(exponent), call("pow", V, float(exponent)))
    return x if fn is V else apply(x, fn)


@lowers("aten.pow.Tensor_Tensor", kind="pow")
def power_of(at: Context, x: Operand, exponent: Operand) -> Value:
    """``x ** exponent`` of two tensors."""
    return combine(at, "pow", x, exponent)


@lowers("aten.pow.Scalar", kind="pow")
def power_by(at: Context, base: Number, exponent: Value) -> Value:
    """``base ** exponent`` of a number and a tensor."""
    return apply(exponent, call("pow", base, V))


@lowers("aten.clamp.default", "aten.clip.default", kind="clamp")
def clamp_numbers(
    at: Context, x: Value, min: Number | None = None, max: Number | None = None
) -> Value:
    """Values held between two numbers."""
    return apply(x, clamp(V, min, max))


@lowers("aten.clamp.Tensor", "aten.clip.Tensor", kind="clamp")
def clamp_tensors(
    at: Context, x: Operand, min: Operand | None = None, max: Operand | None = None
) -> Value:
    """Values held between two tensors."""
    low = at.as_value(x) if min is None else combine(at, "max", x, min)
    return low if max is None else combine(at, "min", low, max)


@lowers("aten.clamp_min.default", kind="clamp")
def clamp_min(at: Context, x: Value, min: Number) -> Value:
    """Values held above a number."""
    return apply(x, clamp(V, min, None))


@lowers("aten.clamp_max.default", kind="clamp")
def clamp_max(at: Context, x: Value, max: Number) -> Value:
    """Values held below a number."""
    return apply(x, clamp(V, None, max))


def _register_comparison(name: str) -> None:
    @lowers(f"aten.{name}.Scalar", f"aten.{name}.Tensor", kind="compare")
    def run(at: Context, a: Operand, b: Operand | Number) -> Value:
        """A comparison: 1 where it holds, else 0."""
        if name in ("lt", "le"):
            return binary(at, {"lt": "gt", "le": "ge"}[name], b, a)
        if name == "ne":
            return apply(binary(at, "eq", a, b), call("eq", V, 0.0))
        return binary(at, name, a, b)


for _name in ("gt", "ge", "lt", "le", "eq", "ne"):
    _register_comparison(_name)


@lowers("aten.bitwise_not.default", kind="logical_not")
def bitwise_not(at: Context, x: Value) -> Value:
    """The opposite of a condition."""
    if at.result_is("int"):
        at.unsupported("bits of integers")
    return apply(x, call("eq", V, 0.0))


@lowers("aten.logical_and.default", "aten.bitwise_and.Tensor", "aten.__and__.Tensor", kind="and")
def logical_and(at: Context, a: Operand, b: Operand) -> Value:
    """Both of two conditions; conditions are 0 or 1."""
    return combine(at, "mul", a, b)


@lowers("aten.logical_or.default", "aten.bitwise_or.Tensor", "aten.__or__.Tensor", kind="or")
def logical_or(at: Context, a: Operand, b: Operand) -> Value:
    """Either of two conditions."""
    return combine(at, "max", a, b)


@lowers(
    "aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar",
    kind="where",
)  # fmt: skip
def where(at: Context, condition: Operand, a: Operand | Number, b: Operand | Number) -> Value:
    """``a`` where the condition holds, else ``b``: the larger of each branch where it is taken.

    Where it is not taken a branch is minus infinity, whatever it was: NaN does no harm there.
    """
    yes = _bounded(at, a, condition, when=True)
    no = _bounded(at, b, condition, when=False)
    return combine(at, "max", yes, no)


def _bounded(at: Context, x: Operand | Number, condition: Operand, when: bool) -> Value:
    """``x`` where the condition is ``when``, -inf elsewhere."""
    mask = at.as_value(condition)
    if isinstance(x, (int, float)):
        chosen = (Num(float(x)), Num(-math.inf))
        return apply(mask, call("where", V, *(chosen if when else chosen[::-1])))
    taken = mask if when else apply(mask, call("eq", V, 0.0))
    return combine(at, "when", x, taken)


@lowers("aten.masked_fill.Scalar", kind="where")
def masked_fill(at: Context, x: Operand, mask: Operand, value: Number) -> Value:
    """``value`` where the mask holds."""
    return where(at, mask, float(value), x)

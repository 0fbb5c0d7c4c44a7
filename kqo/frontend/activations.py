"""Activations: scalar expressions of ``v``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

from kqo.frontend.algebra import apply, combine
from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.slices import narrow
from kqo.frontend.values import Constant, Number, Operand, Value
from kqo.ir.scalar import RELU, Expr, Num, V, call, format_expr

POSITIVE = call("gt", V, 0.0)


def clamp(v: Expr, low: Number | None, high: Number | None) -> Expr:
    """``v`` held between two numbers, either of which may be absent; NaN stays NaN."""
    if low is not None:
        v = call("max", v, low)
    return v if high is None else call("min", v, high)


def times(*factors: Expr | Number) -> Expr:
    """A product."""
    out: Expr | Number = factors[0]
    for factor in factors[1:]:
        out = call("mul", out, factor)
    assert not isinstance(out, (int, float))
    return out


def _positive(then: Expr, otherwise: Expr) -> Expr:
    return call("where", POSITIVE, then, otherwise)


def _expm1(v: Expr) -> Expr:
    """``exp(v) - 1`` for the branch where v is not positive; does not overflow in the other one."""
    return call("sub", call("exp", call("min", v, 0.0)), 1.0)


def _softplus(beta: Number = 1, threshold: Number = 20) -> Expr:
    scaled = times(V, beta) if beta != 1 else V
    soft = call("log1p", call("exp", call("min", scaled, threshold)))
    soft = call("div", soft, beta) if beta != 1 else soft
    return call("where", call("gt", scaled, threshold), V, soft)


def _elu(alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Expr:
    inner = _expm1(times(V, input_scale) if input_scale != 1 else V)
    down = times(inner, alpha * scale) if alpha * scale != 1 else inner
    return _positive(times(V, scale) if scale != 1 else V, down)


def _gelu(*, approximate: str = "none") -> Expr:
    if approximate == "tanh":
        cubic = call("add", V, times(V, V, V, 0.044715))
        bell = call("tanh", times(cubic, math.sqrt(2 / math.pi)))
    else:
        bell = call("erf", times(V, math.sqrt(0.5)))
    return times(V, 0.5, call("add", bell, 1.0))


def _hardsigmoid() -> Expr:
    return call("div", clamp(call("add", V, 3.0), 0.0, 6.0), 6.0)


def _hardswish() -> Expr:
    return call("div", times(V, clamp(call("add", V, 3.0), 0.0, 6.0)), 6.0)


def _leaky_relu(negative_slope: Number = 0.01) -> Expr:
    return _positive(V, times(V, negative_slope))


def _log_sigmoid() -> Expr:
    tail = call("log1p", call("exp", call("neg", call("abs", V))))
    return call("sub", call("min", V, 0.0), tail)


def _hardshrink(lambd: Number = 0.5) -> Expr:
    inside = call("ge", lambd, call("abs", V))
    return call("where", inside, times(V, 0.0), V)


def _softshrink(lambd: Number = 0.5) -> Expr:
    low = call("where", call("gt", -lambd, V), call("add", V, lambd), times(V, 0.0))
    return call("where", call("gt", V, lambd), call("sub", V, lambd), low)


def _threshold(threshold: Number, value: Number) -> Expr:
    return call("where", call("ge", threshold, V), Num(float(value)), V)


_ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "relu": lambda: RELU,
    "relu6": lambda: clamp(V, 0.0, 6.0),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: clamp(V, min_val, max_val),
    "sigmoid": lambda: call("sigmoid", V),
    "tanh": lambda: call("tanh", V),
    "silu": lambda: times(V, call("sigmoid", V)),
    "mish": lambda: times(V, call("tanh", _softplus())),
    "softplus": _softplus,
    "elu": _elu,
    "selu": lambda: _elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946),
    "celu": lambda alpha=1.0: _elu(alpha, 1, 1 / alpha),
    "gelu": _gelu,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "leaky_relu": _leaky_relu,
    "log_sigmoid": _log_sigmoid,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "threshold": _threshold,
}


def _register(name: str, make: Callable[..., Expr]) -> None:
    shown = format_expr(make(0.0, 1.0) if name == "threshold" else make())
    said = f"``{shown}``"
    if name == "threshold":
        said += ", for threshold 0 and value 1"
    elif inspect.signature(make).parameters:
        said += ", for the default arguments"

    @lowers(f"aten.{name}.default", does=f"{said}.")
    def run(at: Context, x: Value, *args: Number, **kwargs: Number) -> Value:
        return apply(x, make(*args, **kwargs))


for _name, _make in _ACTIVATIONS.items():
    _register(_name, _make)


@lowers("aten.prelu.default", "aten._prelu_kernel.default", kind="prelu")
def prelu(at: Context, x: Value, weight: Operand) -> Value:
    """``max(x, 0) + weight * min(x, 0)``, one weight per channel (dimension 1)."""
    w = at.constant(weight, "the slope")
    if w.tensor.dim() == 1 and len(x.dims) > 1:
        w = Constant(w.name, w.tensor.reshape([-1] + [1] * (len(x.dims) - 2)))
    if not w.tensor.isfinite().all():  # 0 times such a weight is NaN
        rest = combine(at, "when", combine(at, "mul", x, w), apply(x, call("eq", POSITIVE, 0.0)))
        return combine(at, "max", apply(x, call("where", POSITIVE, V, -math.inf)), rest)
    below = combine(at, "mul", apply(x, call("min", V, 0.0)), w)
    return combine(at, "add", apply(x, RELU), below)


@lowers("aten.glu.default")
def glu(at: Context, x: Value, dim: int = -1) -> Value:
    """The first half of a dimension, gated by the sigmoid of the second."""
    d = at.dim(x, dim)
    half = x.extent(d) // 2
    gate = apply(narrow(at, x, d, half, half), call("sigmoid", V))
    return combine(at, "mul", narrow(at, x, d, 0, half), gate)

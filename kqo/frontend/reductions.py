"""Reductions over dimensions of one image, and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kqo.frontend.algebra import apply, group, reduce
from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.values import Number, Value
from kqo.ir.nodes import Join, Map
from kqo.ir.scalar import V, call

Dims = int | Sequence[int] | None


def _dims(at: Context, x: Value, dim: Dims) -> tuple[int, ...]:
    """The dimensions meant; none given means all, the batch included, which is an error."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        dim = range(len(x.dims))
    given = (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(at.dim(x, d) for d in given)


def _register(operators: tuple[str, ...], agg: str) -> None:
    @lowers(*operators, kind=agg, does=f"``Group`` with the aggregate {agg} over dimensions.")
    def run(at: Context, x: Value, dim: Dims = None, keepdim: bool = False, **_: Any) -> Value:
        return reduce(at, x, _dims(at, x, dim), keepdim, agg)


_register(("aten.mean.dim", "aten.mean.default"), "mean")
_register(("aten.sum.dim_IntList", "aten.sum.default"), "sum")
_register(("aten.amax.default",), "max")
_register(("aten.amin.default",), "min")


@lowers("aten.max.dim")
def max_dim(at: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, None]:
    """The largest element along a dimension; where it is cannot be expressed."""
    return reduce(at, x, (dim,), keepdim, "max"), None


@lowers("aten.min.dim")
def min_dim(at: Context, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, None]:
    """The smallest element along a dimension; where it is cannot be expressed."""
    return reduce(at, x, (dim,), keepdim, "min"), None


def _variance(
    at: Context, x: Value, dim: Dims, correction: Number | None, keepdim: bool
) -> tuple[Value, Value]:
    """Variance and mean: the mean of squared differences, times ``n / (n - correction)``."""
    dims = _dims(at, x, dim)
    mean = reduce(at, x, dims, True, "mean")
    centred = Value(Join(x.node, mean.node, (), (), "sub"), x.dims)
    squares = reduce(at, apply(centred, call("mul", V, V)), dims, keepdim, "sum")
    count = math.prod(x.extent(d) for d in dims)
    rest = count - (1 if correction is None else correction)
    if rest <= 0:
        at.unsupported("a variance of no degrees of freedom")
    return apply(squares, call("div", V, rest)), reduce(at, x, dims, keepdim, "mean")


@lowers("aten.var.correction", "aten.var.dim")
def variance(
    at: Context,
    x: Value,
    dim: Dims = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> Value:
    """Variance over dimensions."""
    correction = int(unbiased) if correction is None else correction
    return _variance(at, x, dim, correction, keepdim)[0]


@lowers("aten.std.correction", "aten.std.dim")
def deviation(
    at: Context,
    x: Value,
    dim: Dims = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> Value:
    """Standard deviation over dimensions."""
    correction = int(unbiased) if correction is None else correction
    return apply(_variance(at, x, dim, correction, keepdim)[0], call("sqrt", V))


@lowers("aten.var_mean.correction", "aten.var_mean.dim")
def variance_and_mean(
    at: Context,
    x: Value,
    dim: Dims = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> tuple[Value, Value]:
    """Variance and mean over dimensions."""
    correction = int(unbiased) if correction is None else correction
    return _variance(at, x, dim, correction, keepdim)


@lowers("aten.std_mean.correction", "aten.std_mean.dim")
def deviation_and_mean(at: Context, x: Value, *args: Any, **kwargs: Any) -> tuple[Value, Value]:
    """Standard deviation and mean over dimensions."""
    spread, mean = variance_and_mean(at, x, *args, **kwargs)
    return apply(spread, call("sqrt", V)), mean


@lowers("aten.linalg_vector_norm.default", "aten.norm.ScalarOpt_dim", kind="norm")
def vector_norm(
    at: Context,
    x: Value,
    ord: Number | None = 2,
    dim: Dims = None,
    keepdim: bool = False,
    **_: Any,
) -> Value:
    """The 1-, 2- or maximum norm over dimensions."""
    dims = _dims(at, x, dim)
    power = 2 if ord is None else ord
    size = apply(x, call("abs", V))
    if power == 1:
        return reduce(at, size, dims, keepdim, "sum")
    if power in (math.inf, -math.inf):
        return reduce(at, size, dims, keepdim, "max" if power > 0 else "min")
    if power != 2:
        at.unsupported(f"a norm of order {power}")
    squares = reduce(at, apply(x, call("mul", V, V)), dims, keepdim, "sum")
    return apply(squares, call("sqrt", V))


def _shifted(at: Context, x: Value, dim: int) -> tuple[Value, str | None]:
    """``x`` minus its maximum along a dimension, and the axis of that dimension."""
    axis = x.dims[at.dim(x, dim)]
    top = group(x.node, (axis,), "max") if axis is not None else x.node
    return Value(Join(x.node, top, (), (), "sub"), x.dims), axis


@lowers("aten.softmax.int", "aten._softmax.default", kind="softmax")
def softmax(at: Context, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    """``exp(x - max) / sum(exp(x - max))``."""
    shifted, axis = _shifted(at, x, dim)
    powers = Map(shifted.node, call("exp", V))
    total = group(powers, (axis,), "sum") if axis is not None else powers
    return Value(Join(powers, total, (), (), "div"), x.dims)


@lowers("aten.log_softmax.int", "aten._log_softmax.default", kind="log_softmax")
def log_softmax(at: Context, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    """``x - max - log(sum(exp(x - max)))``."""
    shifted, axis = _shifted(at, x, dim)
    powers = Map(shifted.node, call("exp", V))
    total = group(powers, (axis,), "sum") if axis is not None else powers
    return Value(Join(shifted.node, Map(total, call("log", V)), (), (), "sub"), x.dims)


@lowers("aten.logsumexp.default")
def logsumexp(at: Context, x: Value, dim: Dims, keepdim: bool = False) -> Value:
    """``log(sum(exp(x - max))) + max``."""
    dims = _dims(at, x, dim)
    top = reduce(at, x, dims, keepdim, "max")
    shifted = Value(Join(x.node, top.node, (), (), "sub"), x.dims)
    total = reduce(at, apply(shifted, call("exp", V)), dims, keepdim, "sum")
    return Value(Join(apply(total, call("log", V)).node, top.node, (), (), "add"), total.dims)

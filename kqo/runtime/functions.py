"""What emitted sources call beside NumPy: scalar functions with `out`, the layout of a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]


def rsqrt(v: Values, out: Values) -> None:
    """One over the square root; infinity at 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        np.sqrt(v, out=out)
        np.divide(1, out, out=out)


def sigmoid(v: Values, out: Values) -> None:
    """``1 / (1 + exp(-v))``; where the exponential is infinite it is 0."""
    with np.errstate(over="ignore"):
        np.negative(v, out=out)
        np.exp(out, out=out)
        np.add(out, 1, out=out)
        np.divide(1, out, out=out)


# erf(v) = v P(v^2) / Q(v^2) for |v| <= 4, beyond which it is 1 in float32; highest power first.
# The coefficients are those of Eigen's generic_fast_erf_float; the largest error is 5e-7.
_P = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_Q = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
    -1.42647390514189e-02,
)  # fmt: skip


def erf(v: Values, out: Values) -> None:
    """The error function; in float32 a rational function, ten times as fast as SciPy's."""
    if out.dtype != np.float32:
        from scipy.special import erf as special

        special(v, out=out)
        return
    x = np.minimum(v, np.float32(4))
    np.maximum(x, np.float32(-4), out=x)
    square = np.multiply(x, x)
    np.multiply(x, _polynomial(_P, square), out=x)
    np.divide(x, _polynomial(_Q, square), out=out)


def _polynomial(coefficients: tuple[float, ...], x: Values) -> Values:
    found = np.multiply(x, np.float32(coefficients[0]))
    for number, coefficient in enumerate(coefficients[1:], 2):
        np.add(found, np.float32(coefficient), out=found)
        if number < len(coefficients):
            np.multiply(found, x, out=found)
    return found


def where(condition: Values, a: Values, b: Values, out: Values) -> None:
    """``a`` where the condition is not zero, else ``b``."""
    np.copyto(out, np.where(np.asarray(condition) != 0, a, b))


def when(v: Values, condition: Values, out: Values) -> None:
    """``v`` where the condition is not zero, else minus infinity."""
    np.copyto(out, np.where(np.asarray(condition) != 0, v, -np.inf))


def block_diagonal(kernels: Values, many: int) -> Values:
    """Kernels of groups of features, several neighbours put together with zeros between them.

    Args:
        kernels: shape (groups, taps, features, columns).
        many: groups in one; divides their number.

    Returns:
        shape (groups / many, taps * many * features, many * columns).
    """
    groups, taps, deep, wide = kernels.shape
    found = np.zeros((groups // many, taps, many, deep, many, wide), dtype=kernels.dtype)
    for j in range(many):
        found[:, :, j, :, j] = kernels[j::many]
    return found.reshape(groups // many, taps * many * deep, many * wide)


def side_by_side(*kernels: Values) -> Values:
    """Kernels of equal height as one, shape (features, columns of all)."""
    wide = sum(kernel.shape[1] for kernel in kernels)
    found = np.empty((len(kernels[0]), wide), dtype=kernels[0].dtype)
    return np.concatenate(kernels, axis=1, out=found)

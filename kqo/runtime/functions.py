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
    """``1 / (1 + exp(-v))``, without overflow."""
    from scipy.special import expit

    expit(v, out=out)


def erf(v: Values, out: Values) -> None:
    """The error function."""
    from scipy.special import erf as special

    special(v, out=out)


def where(condition: Values, a: Values, b: Values, out: Values) -> None:
    """``a`` where the condition is not zero, else ``b``."""
    np.copyto(out, np.where(np.asarray(condition) != 0, a, b))


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

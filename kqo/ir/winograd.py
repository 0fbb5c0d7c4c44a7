"""Winograd's minimal filtering: the transform matrices of F(m x m, r x r).

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; built by the
Cook-Toom construction over rational points, exactly, and rounded once.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

Matrix = list[list[Fraction]]
# Points whose products stay near 1: for F(4, 3) the largest error is a quarter of that of 0, 1, -1,
# 2, -2. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
# Deep Neural Networks", ACM TOMS 2020, study the choice.
POINTS = {
    3: ("0", "1", "-1"),
    5: ("0", "3/4", "-3/4", "3/2", "-3/2"),
    7: ("0", "3/5", "-3/5", "1", "-1", "7/4", "-7/4"),
    9: ("0", "2/5", "-2/5", "4/5", "-4/5", "5/4", "-5/4", "2", "-2"),
}
SIZES = frozenset((m, r) for m in (2, 4) for r in (3, 5, 7))
"""Sizes (outputs, taps) along one axis for which points are given."""


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients, lowest degree first, of the product of (x - root)."""
    product = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *product]
        product = [a - root * b for a, b in zip(shifted, [*product, Fraction(0)], strict=True)]
    return product


def cook_toom(m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """Exact matrices (A, G, B) with ``y = A ((G g) * (B d))`` for m outputs of an r-tap filter.

    A is (m, n), G is (n, r), B is (n, n), with n = m + r - 1.
    """
    n = m + r - 1
    points = [Fraction(p) for p in POINTS[n - 1]]
    a = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    g: Matrix = []
    b: Matrix = []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        g.append([point**i / scale for i in range(r)])
        b.append([*_polynomial(others), Fraction(0)])
    g.append([Fraction(int(i == r - 1)) for i in range(r)])
    b.append(_polynomial(points))
    return a, g, b


@cache
def matrices(
    m: int, r: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The same matrices in float64; all are [[1]] for F(1, 1)."""
    if m == r == 1:
        one = np.ones((1, 1))
        return one, one, one
    a, g, b = cook_toom(m, r)
    return tuple(np.array([[float(v) for v in row] for row in x]) for x in (a, g, b))  # type: ignore[return-value]

"""Winograd's minimal filtering: the transform matrices of F(m x m, r x r).

A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; built by the
Cook-Toom construction over rational points, exactly, and rounded once.

Beside tiles of m outputs an axis there are tiles of m - 1 on the same points but one, so that both
read the same transformed kernel: 13 outputs are one tile of 4 and three of 3 (21 points) in place
of four tiles of 4 (24 points).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

Matrix = list[list[Fraction]]
Sizes = tuple[tuple[int, int], ...]
"""For each row axis the outputs of a tile and the taps of the window; 1 and 1 where it has none."""
# Points whose products stay near 1: for F(4, 3) the largest error is a quarter of that of 0, 1, -1,
# 2, -2. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for
# Deep Neural Networks", ACM TOMS 2020, study the choice.
POINTS = {
    3: ("0", "1", "-1"),
    5: ("0", "3/4", "-3/4", "3/2", "-3/2"),
    7: ("0", "3/5", "-3/5", "1", "-1", "7/4", "-7/4"),
    9: ("0", "2/5", "-2/5", "4/5", "-4/5", "5/4", "-5/4", "2", "-2"),
}
SIZES = frozenset((m, r) for m in (2, 4, 6) for r in (3, 5, 7) if m + r < 12)
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


def _floats(*exact: Matrix) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.array([[float(v) for v in row] for row in x]) for x in exact)


@cache
def matrices(m: int, r: int) -> tuple[NDArray[np.float64], ...]:
    """A, G and B of :func:`cook_toom` in float64; all are [[1]] for F(1, 1).

    The point that smaller tiles lack, the last finite one, comes last.
    """
    if m == r == 1:
        one = np.ones((1, 1))
        return one, one, one
    a, g, b = cook_toom(m, r)
    last = m + r - 2
    order = [*range(last - 1), last, last - 1]
    return _floats(
        [[row[j] for j in order] for row in a], [g[j] for j in order], [b[j] for j in order]
    )


@cache
def smaller(m: int, r: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A and B of tiles of m - 1 outputs that read the kernel of tiles of m, without its last point.

    Without a point p, the rows of G for the points q that are left would be larger by q - p; the
    rows of B are, instead.
    """
    points = [Fraction(p) for p in POINTS[m + r - 2]]
    lacking, kept = points[-1], points[:-1]
    a = [[p**i for p in kept] + [Fraction(int(i == m - 2))] for i in range(m - 1)]
    b: Matrix = []
    for j, point in enumerate(kept):
        row = _polynomial(kept[:j] + kept[j + 1 :])
        b.append([*(value * (point - lacking) for value in row), Fraction(0)])
    b.append(_polynomial(kept))
    first, second = _floats(a, b)
    return first, second


def points_of(sizes: Sizes) -> int:
    """Points of a large tile, which are the inputs that it reads."""
    return math.prod(m + r - 1 for m, r in sizes)


@cache
def amplification(m: int, r: int) -> float:
    """How much larger than an output are the products that are summed for it, root mean square, for
    independent values and taps: what cancels there is left as rounding error.

    After Barabasz et al., ACM TOMS 2020, whose bound has norms where this has their expectation.
    """
    a, g, b = matrices(m, r)
    sizes = (g**2).sum(1) * (b**2).sum(1)
    return float(np.sqrt((a**2 @ sizes).mean() / r))


@cache
def cover(m: int, r: int, extent: int) -> tuple[tuple[int, int], ...]:
    """For runs of 0 to ``extent`` outputs the tiles of m and of m - 1 outputs that cover them with
    the fewest points, and of those the fewest tiles."""
    return tuple(covered(m, r, run) for run in range(extent + 1))


def covered(m: int, r: int, run: int) -> tuple[int, int]:
    """The tiles of m and of m - 1 outputs that :func:`cover` finds for one run."""
    if m == r == 1:
        return run, 0
    options = []
    for small in range(m + 1):
        big = max(0, -(-(run - small * (m - 1)) // m))
        options.append((big * (m + r - 1) + small * (m + r - 2), big + small, big, small))
    return min(options)[2:]


@dataclass(frozen=True, slots=True)
class Kind:
    """Tiles that are small along the same axes.

    Attributes:
        small: for each row axis whether the tiles have one output fewer along it.
        first: of the points, in the order of :func:`point_order`, the first that they have.
        end: one behind the last.
    """

    small: tuple[bool, ...]
    first: int
    end: int


def kinds(sizes: Sizes) -> tuple[Kind, ...]:
    """Kinds of tiles, in an order in which those that share a point are neighbours."""
    axes = [axis for axis, (m, _) in enumerate(sizes) if m > 1]

    def kind(small: tuple[bool, ...], first: int, end: int) -> Kind:
        given = dict(zip(axes, small, strict=True))
        return Kind(tuple(given.get(axis, False) for axis in range(len(sizes))), first, end)

    n = [m + r - 1 for m, r in sizes if m > 1]
    if len(n) == 1:
        return kind((False,), 0, n[0]), kind((True,), 0, n[0] - 1)
    inner = n[1] + (n[0] - 1) * (n[1] - 1)
    return (
        kind((False, True), 1, inner),
        kind((False, False), 0, n[0] * n[1]),
        kind((True, False), n[1], n[0] * n[1]),
        kind((True, True), n[1], inner),
    )


def products(sizes: Sizes) -> tuple[tuple[int, int, int, int], ...]:
    """Matrix products: points ``first`` to ``end`` of the tiles of kinds ``low`` to ``high``."""
    n = [m + r - 1 for m, r in sizes if m > 1]
    if len(n) == 1:
        return (0, n[0] - 1, 0, 2), (n[0] - 1, n[0], 0, 1)
    inner = n[1] + (n[0] - 1) * (n[1] - 1)
    return (0, 1, 1, 2), (1, n[1], 0, 2), (n[1], inner, 0, 4), (inner, n[0] * n[1], 1, 3)


def point_order(n: tuple[int, ...], small: tuple[bool, ...]) -> list[int]:
    """Numbers of a kind's points, row-major over the axes that have a window, as they are stored:
    those that only tiles have that are large along the first axis, then those of all tiles, then
    those of tiles that are large along the second.

    Args:
        n: points of a large tile along each axis with a window.
        small: whether the kind is small along each.
    """
    if len(n) == 1:
        return list(range(n[0] - small[0]))
    rows, columns = (list(range(e - s)) for e, s in zip(n, small, strict=True))
    last = [n[0] - 1] if not small[0] else []
    wide = len(columns)
    found = [i * wide + j for i in last for j in columns[n[1] - 1 :]]
    found += [i * wide + j for i in last for j in columns[: n[1] - 1]]
    found += [i * wide + j for i in rows[: n[0] - 1] for j in columns[: n[1] - 1]]
    found += [i * wide + j for i in rows[: n[0] - 1] for j in columns[n[1] - 1 :]]
    return found

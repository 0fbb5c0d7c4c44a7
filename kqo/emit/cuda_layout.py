"""Constants in the layouts that CUDA kernels read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.nodes import Const, Domain, Node, Physical
from kqo.ir.plan import Array
from kqo.ir.schema import Axes, names, shape
from kqo.ir.window import contracted, roles, tiling
from kqo.ir.winograd import matrices

Floats = NDArray[np.float32]


def _ordered(value: NDArray[Any], own: tuple[str, ...], order: tuple[str, ...]) -> NDArray[Any]:
    return value.transpose([own.index(n) for n in order])


def gemm_kernel(node: Physical, constants: Mapping[str, Array], slab: int, columns: int) -> Floats:
    """The kernel as a matrix, padded with zeros to whole tiles.

    Args:
        node: a contraction.
        constants: values of constants.
        slab: the inner dimension is padded to a multiple of this.
        columns: and the columns to a multiple of this.

    Returns:
        the matrix. Where features make whole slabs, its inner dimension is ordered by slabs of
        features, then taps, then features of the slab; otherwise it is taps, then features.
    """
    assert isinstance(node.weight, Const)
    window = roles(node)
    deep, wide = math.prod(shape(window.left_features)), math.prod(shape(window.columns))
    order = (*names(window.taps), *contracted(window), *names(window.columns))
    taps = window.tap_count
    value = _ordered(np.asarray(constants[node.weight.name]), names(node.weight.schema), order)
    return arranged(value.reshape(taps, deep, wide), slab, columns)


def arranged(value: NDArray[Any], slab: int, columns: int) -> Floats:
    """A kernel (taps, features, columns) as :func:`gemm_kernel` returns it."""
    taps, deep, wide = value.shape
    if deep % slab == 0 and taps > 1:
        value = value.reshape(taps, deep // slab, slab, wide).transpose(1, 0, 2, 3)
    return padded(value.reshape(taps * deep, wide), slab, columns)


def block_diagonal(parts: NDArray[Any]) -> NDArray[Any]:
    """Kernels of several groups (groups, taps, features, columns) as one (taps, groups * features,
    groups * columns), zero where features and columns are of different groups."""
    groups, taps, deep, wide = parts.shape
    found = np.zeros((taps, groups, deep, groups, wide), dtype=parts.dtype)
    for number, part in enumerate(parts):
        found[:, number, :, number] = part
    return found.reshape(taps, groups * deep, groups * wide)


def sliced(matrix: Floats, slab: int) -> NDArray[np.float16]:
    """A padded kernel in float16 as (slices, columns, slab), each column's values side by side."""
    inner, wide = matrix.shape
    by_slice = matrix.reshape(inner // slab, slab, wide).transpose(0, 2, 1)
    with np.errstate(over="ignore"):  # beyond float16's range is infinite, as docs/gpu.md says
        return np.ascontiguousarray(by_slice, dtype=np.float16)


def padded(matrix: NDArray[Any], slab: int, columns: int) -> Floats:
    """A matrix (or a stack of them) with zeros up to multiples of ``slab`` rows and ``columns``."""
    inner, wide = matrix.shape[-2:]
    full = (*matrix.shape[:-2], -(-inner // slab) * slab, -(-wide // columns) * columns)
    if matrix.shape == full:
        return np.ascontiguousarray(matrix, dtype=np.float32)
    out = np.zeros(full, dtype=np.float32)
    out[..., :inner, :wide] = matrix
    return out


def winograd_kernel(node: Physical, constants: Mapping[str, Array]) -> NDArray[np.float64]:
    """The transformed kernel G g G^T, (points, features, columns), of a window over y and x."""
    assert isinstance(node.weight, Const)
    window = roles(node)
    order = (*names(window.taps), *contracted(window), *names(window.columns))
    deep, wide = math.prod(shape(window.left_features)), math.prod(shape(window.columns))
    (my, ry), (mx, rx) = tiling(window, node.tile)
    gy, gx = matrices(my, ry)[1], matrices(mx, rx)[1]
    value = _ordered(np.asarray(constants[node.weight.name]), names(node.weight.schema), order)
    value = value.reshape(ry, rx, deep, wide).astype(np.float64)
    found: NDArray[np.float64] = np.einsum("ai,bj,ijkl->abkl", gy, gx, value, optimize=True)
    return found.reshape(-1, deep, wide)


def filter_kernel(node: Physical, constants: Mapping[str, Array]) -> Floats | None:
    """One filter per feature as (taps, columns), or None where all weights are 1."""
    if isinstance(node.weight, Domain):
        return None
    assert isinstance(node.weight, Const)
    window = roles(node)
    full = (*window.taps, *window.left_features)
    spread = _spread(np.asarray(constants[node.weight.name]), node.weight, full)
    return spread.reshape(window.tap_count, -1)


def vector(operand: Node, columns: Axes, constants: Mapping[str, Array]) -> Floats:
    """A constant without positions, one value per column."""
    if isinstance(operand, Domain):
        return np.ones(math.prod(shape(columns)), dtype=np.float32)
    assert isinstance(operand, Const)
    return _spread(np.asarray(constants[operand.name]), operand, columns).reshape(-1)


def _spread(value: NDArray[Any], node: Node, full: Axes) -> Floats:
    """A constant's values over all of ``full``: the same along axes that it lacks."""
    own = names(node.schema)
    order = tuple(n for n in names(full) if n in own)
    extents = [a.extent if a.name in own else 1 for a in full]
    shaped = _ordered(value, own, order).reshape([e or 1 for e in extents])
    return np.ascontiguousarray(np.broadcast_to(shaped, shape(full)), dtype=np.float32)


def transform_lines(matrix: NDArray[np.float64], value: str) -> list[str]:
    """A constant matrix times a vector as C expressions, without the zeros."""
    from kqo.emit.cuda_expr import c_number

    lines = []
    for row in matrix:
        terms = [
            f"{value}[{j}]" if x == 1 else f"{c_number(float(x))} * {value}[{j}]"
            for j, x in enumerate(row)
            if x
        ]
        lines.append(" + ".join(terms) or "0.f")
    return lines

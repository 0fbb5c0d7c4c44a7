"""Keys in bulk: which left key every output key of a join reads, as numpy index arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kqo.ir.equations import Affine, Condition
from kqo.ir.schema import QUERY, Axes

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def key_shape(axes: Axes, queries: int) -> tuple[int, ...]:
    """Extents of the axes; the query axis counts ``queries``."""
    return tuple(queries if axis.extent is None else axis.extent for axis in axes)


def key_grid(axes: Axes, queries: int) -> dict[str, Index]:
    """For every axis the value that it has at each key, shaped to broadcast over all axes."""
    extents = key_shape(axes, queries)
    return {
        axis.name: np.arange(extent).reshape([-1 if i == j else 1 for j in range(len(axes))])
        for i, (axis, extent) in enumerate(zip(axes, extents, strict=True))
    }


def keys_read(
    axes: Axes, on: tuple[Condition, ...], grid: Mapping[str, Index], queries: int
) -> tuple[tuple[Index, ...], Mask]:
    """The key of a join's left side that each output key reads.

    Args:
        axes: axes of the left side, the query axis included where it has one.
        on: the join's conditions; axes that none binds are equal to the output axis of their name.
        grid: the output keys, by :func:`key_grid`.
        queries: number of queries.

    Returns:
        One index array per axis of the left side, and where the key exists at all; elsewhere the
        indices are 0. All broadcast over the output keys.
    """
    bound = {condition.axis: condition for condition in on}
    index: list[Index] = []
    exists = np.ones([1] * len(grid), dtype=bool)
    for axis, extent in zip(axes, key_shape(axes, queries), strict=True):
        if axis.name in bound and axis.name != QUERY:
            position, holds = _solve(bound[axis.name], grid)
            holds = holds & (position >= 0) & (position < extent)
            index.append(np.where(holds, position, 0))
            exists = exists & holds
        else:
            index.append(grid[axis.name])
    return tuple(index), exists


def _solve(condition: Condition, grid: Mapping[str, Index]) -> tuple[Index, Mask]:
    """The left axis' position that satisfies the condition, and where there is one."""
    if isinstance(condition, Affine):
        total = np.asarray(condition.offset)
        for coefficient, name in condition.terms:
            total = total + coefficient * grid[name]
        return total // condition.scale, np.asarray(total % condition.scale == 0)
    start = np.array(condition.lo)[grid[condition.out]]
    position = start + grid[condition.tap]
    return position, np.asarray(position < np.array(condition.hi)[grid[condition.out]])

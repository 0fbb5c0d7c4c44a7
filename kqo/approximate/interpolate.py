"""Values of a grid's cells from those that are known, wherever these lie.

Ordinary kriging (Matheron, *Principles of Geostatistics*, Economic Geology 58, 1963) with the
variogram |h| from the nearest known cells: the weighted sum of them whose expected squared error is
least, where two cells differ by a variance in proportion to their distance. Between the corners of
a regular grid that is close to linear interpolation; cells that are known beside it count as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Ints = NDArray[np.int64]

NEIGHBOURS = 8
"""Known cells that a value is interpolated from: more change the similarity by less than 0.002."""


@dataclass(frozen=True, eq=False)
class Weights:
    """How values of some cells follow from known ones.

    Attributes:
        neighbours: numbers within the known cells, (cells, neighbours).
        weights: theirs, which sum to 1, (cells, neighbours).
        variance: expected squared error, (cells,), where cells at distance h differ by 2h.
    """

    neighbours: Ints
    weights: Values
    variance: Values

    def apply(self, values: NDArray[np.floating]) -> Values:
        """Values of the cells (cells, ...) from those of the known ones (known, ...)."""
        from scipy.sparse import csr_matrix  # 35 MB with what it imports, which few plans need

        rows, count = self.weights.shape
        starts = np.arange(rows + 1) * count
        given = values.reshape(len(values), -1).astype(np.float64, copy=False)
        shape = (rows, len(given))
        matrix = csr_matrix((self.weights.ravel(), self.neighbours.ravel(), starts), shape=shape)
        return np.asarray((matrix @ given).reshape(rows, *values.shape[1:]), dtype=np.float64)


def weights(grid: tuple[int, ...], known: Ints, cells: Ints) -> Weights:
    """How values of cells follow from known ones.

    Args:
        grid: the grid's shape.
        known: row-major numbers of the known cells, at least one.
        cells: row-major numbers of the cells to interpolate, none of them known.
    """
    at = _points(grid, known)
    wanted = _points(grid, cells)
    count = min(NEIGHBOURS, len(known))
    return _solved(at, *_nearest(at, wanted, range(1, count + 1)))


def leave_one_out(grid: tuple[int, ...], known: Ints) -> Weights:
    """How the value of each known cell would follow from the other ones, of which there is one."""
    at = _points(grid, known)
    count = min(NEIGHBOURS, len(known) - 1)
    # The nearest of all is the cell itself.
    return _solved(at, *_nearest(at, at, range(2, count + 2)))


def _nearest(at: Values, wanted: Values, ranks: range) -> tuple[Values, Ints]:
    """Distances and numbers of the points that are nearest to each of others."""
    from scipy.spatial import cKDTree

    distance, neighbours = cKDTree(at).query(wanted, k=list(ranks))
    return distance, neighbours


def _points(grid: tuple[int, ...], cells: Ints) -> Values:
    return np.stack(np.unravel_index(cells, grid), axis=1).astype(np.float64)


def _solved(at: Values, distance: Values, neighbours: Ints) -> Weights:
    rows, count = distance.shape
    near = at[neighbours]
    squared = np.zeros((rows, count, count))
    for axis in range(at.shape[1]):
        squared += (near[:, :, None, axis] - near[:, None, :, axis]) ** 2
    system = np.ones((rows, count + 1, count + 1))
    system[:, :count, :count] = -np.sqrt(squared)
    system[:, count, count] = 0  # the last unknown is the multiplier that has weights sum to 1
    right = np.ones((rows, count + 1))
    right[:, :count] = -distance
    solved = np.linalg.solve(system, right[..., None])[..., 0]
    variance = np.maximum(-(solved * right).sum(axis=1), 0)
    return Weights(np.asarray(neighbours, dtype=np.int64), solved[:, :count], variance)


def distances(grid: tuple[int, ...], known: Ints) -> Values:
    """By cell, how far the nearest one lies when it is its turn, if the farthest cells come first.

    Cells are added to the known ones, always those that are farthest from all, and at once as many
    as are no nearer to each other. From every fourth cell these are the middles of the squares,
    then those of their edges, and so on; known cells have 0.

    Args:
        grid: the grid's shape.
        known: row-major numbers of the known cells, at least one.
    """
    from scipy.ndimage import distance_transform_edt

    held = np.zeros(grid, dtype=np.bool_)
    held.ravel()[known] = True
    found = np.zeros(grid)
    while not held.all():
        away = distance_transform_edt(~held)
        farthest = float(away.max())
        reach = math.floor(farthest)
        taken = np.zeros(grid, dtype=np.bool_)
        for cell in np.argwhere(away >= farthest - 1e-9):
            low = np.maximum(cell - reach, 0)
            around = taken[tuple(map(slice, low, cell + reach + 1))]
            others = np.argwhere(around) + low
            if len(others) and ((others - cell) ** 2).sum(axis=1).min() < farthest**2 - 1e-9:
                continue
            taken[tuple(cell)] = True
        found[taken] = farthest
        held |= taken
    return np.asarray(found.ravel(), dtype=np.float64)

"""Row numbers of what the windows of a step read, batch by batch, before anything is bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set

import numpy as np

from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Domain, Physical
from kqo.ir.schema import shape
from kqo.ir.window import Window, roles, steps_of, tiling
from kqo.ir.winograd import points_of
from kqo.planner.cost import BLOCK_BYTES
from kqo.planner.physical import PhysicalPlan, Step
from kqo.runtime.hulls import FEWEST, hull_sizes
from kqo.runtime.rows import Ints

Most = Callable[[Ints, Ints], int]


class Reads:
    """How many row numbers the windows of a plan's steps take.

    Args:
        plan: the physical plan.
        boxes: regions of the tables with delta rows.
        moving: tables whose rows are bound anew for each batch.
    """

    def __init__(self, plan: PhysicalPlan, boxes: Mapping[int, Boxes], moving: Set[int]) -> None:
        self._plan, self._boxes, self._moving = plan, boxes, moving
        self._known: dict[int, Most | None] = {}

    def of_view(self, step: Step) -> int | None:
        """Those of a step that computes a view; None where they are one per row and tap."""
        if not isinstance(step.node, Physical) or step.form != "winograd":
            return None
        sizes = tiling(roles(step.node), step.node.tile)
        extents = zip(shape(self._plan.tables[step.table].positions), sizes, strict=True)
        tiles = math.prod(-(-extent // m) for extent, (m, _) in extents)
        return tiles * points_of(sizes)

    def of_batches(self, number: int, order: Ints, begins: Ints) -> int | None:
        """Those of a step that computes delta rows, in the batch that takes most; None where they
        are one per row and tap, or not known.

        Args:
            number: of the step.
            order: queries, batch after batch.
            begins: where each batch begins among these.
        """
        if number not in self._known:
            self._known[number] = self._most(self._plan.steps[number])
        most = self._known[number]
        return None if most is None else most(order, begins)

    def _most(self, step: Step) -> Most | None:
        node = step.node
        if not isinstance(node, Physical) or step.shared or step.table in self._moving:
            return None
        boxes, window = self._boxes[step.table], roles(node)
        if step.form == "winograd":
            return _tiles(boxes, tiling(window, node.tile))
        if step.form == "taps" and not isinstance(node.weight, Domain):
            columns = self._plan.tables[step.table].columns
            return _windows(boxes, window, columns, np.dtype(self._plan.dtype).itemsize)
        return None


def _tiles(boxes: Boxes, sizes: tuple[tuple[int, int], ...]) -> Most:
    """Inputs of the tiles that cover boxes."""
    extent = np.maximum(boxes.hi - boxes.lo, 0)
    tiles = (-(-extent // [m for m, _ in sizes])).prod(axis=2).sum(axis=1)
    points = points_of(sizes)

    def most(order: Ints, begins: Ints) -> int:
        return points * int(np.add.reduceat(tiles[order], begins).max())

    return most


def _windows(boxes: Boxes, window: Window, columns: int, itemsize: int) -> Most | None:
    """What windows with one filter per feature read: hulls where :func:`read_hulls` takes them."""
    steps, taps = steps_of(window), window.tap_count
    if steps is None:
        return None
    sizes = hull_sizes(steps, np.maximum(boxes.hi - boxes.lo, 0), columns * itemsize)
    counts = (
        boxes.volume(),
        np.count_nonzero(boxes.filled, axis=1),
        sizes.rows.sum(axis=1),
        sizes.banded.sum(axis=1),
    )
    largest = sizes.largest.max(axis=1) * columns * itemsize

    def most(order: Ints, begins: Ints) -> int:
        rows, filled, read, banded = (np.add.reduceat(n[order], begins) for n in counts)
        hulls = (rows * columns >= FEWEST * filled) & (2 * banded <= rows * taps)
        hulls &= np.maximum.reduceat(largest[order], begins) <= BLOCK_BYTES
        return int(np.where(hulls, read, rows * taps).max())

    return most

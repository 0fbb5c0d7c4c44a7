"""What a GPU's additive linear layers save: products over all positions of a feature map, of which
queries change a few.

A block of queries multiplies only the positions at which one of its queries has changed, and adds
what the others have in the untouched result, which is computed once per image
(``kqo/emit/cuda_additive.py``).
"""

from __future__ import annotations

import numpy as np

from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Node
from kqo.ir.schema import Axes, features, positions, shape, size
from kqo.ir.window import roles
from kqo.planner.cost import WORD, Work, columns_in
from kqo.planner.rates import Rates

SLICE = 32
"""Features at a position are multiplied in slices; elsewhere all positions are."""


def left_out(
    counted: Work,
    form: str,
    node: Node,
    rows: int,
    changed: Boxes | None,
    axes: Axes,
    rates: Rates,
) -> Work:
    """The work of a product without the positions that no query of a block changes.

    Args:
        counted: the work over all positions.
        form: the physical form.
        node: in that form.
        rows: that are computed.
        changed: rows of its first input that each query changes; None where there is no region.
        axes: positions of that input.
        rates: of the device.
    """
    if not rates.linear_block or form != "gather_gemm" or changed is None:
        return counted
    taps = roles(node).tap_count
    if positions(node.schema) or taps == 1 or columns_in(roles(node)) % SLICE:
        return counted
    share = union_share(changed, axes, rates.linear_block)
    if share == 1:
        return counted
    added = rows * size(features(node.schema)) * taps * (1 - share) / rates.linear_block
    return counted._replace(
        flops=int(counted.flops * share),
        panels=int(counted.panels * share),
        pairs=counted.pairs + int(added),
    )


def shares(before: Work, after: Work) -> Work:
    """The work, once per image, of what the untouched result is made of: the kernel is read once.

    Args:
        before: the work over all positions.
        after: what :func:`left_out` made of it.
    """
    if after is before:
        return Work()
    return Work(panels=before.inner * before.wide * WORD)


def union_share(boxes: Boxes, axes: Axes, block: int) -> float:
    """The share of all positions at which one of ``block`` queries in a row has changed, on
    average.

    Args:
        boxes: of each query, over these axes in any order.
        axes: positions.
        block: queries.
    """
    order = [boxes.axes.index(axis.name) for axis in axes]
    extents = shape(axes)
    starts, ends = boxes.lo[:, :, order], boxes.hi[:, :, order]
    found = 0
    for first in range(0, boxes.queries, block):
        mask = np.zeros(extents, dtype=np.bool_)
        some = slice(first, first + block)
        corners = np.concatenate([starts[some], ends[some]], axis=2).reshape(-1, 2 * len(axes))
        for corner in np.unique(corners, axis=0):
            low, high = corner[: len(axes)], corner[len(axes) :]
            mask[tuple(map(slice, np.maximum(low, 0), high))] = True
        found += int(mask.sum()) * len(boxes.lo[some])
    return found / (boxes.queries * mask.size)

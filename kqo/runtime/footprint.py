"""Working memory that a step needs beside its rows: scratch of a block, and row numbers."""

from __future__ import annotations

import math

from kqo.ir.nodes import GROUPED, Physical
from kqo.ir.schema import size
from kqo.ir.window import group_products, roles, tiling
from kqo.planner.cost import BLOCK_BYTES, FEWEST_ROWS, FEWEST_TILES
from kqo.planner.physical import Step

NUMBER = 8
"""Bytes of a row number."""


def scratch_bytes(step: Step, itemsize: int) -> int:
    """Bytes of scratch for one block of a step, an upper estimate."""
    node = step.node
    if not isinstance(node, Physical) or step.form not in ("gather_gemm", GROUPED, "winograd"):
        return BLOCK_BYTES
    window = roles(node)
    deep, wide = size(window.left_features), size(window.columns)
    if step.form == GROUPED:
        deep //= group_products(window, node.weight)
    if step.form in ("gather_gemm", GROUPED):
        return max(FEWEST_ROWS * window.tap_count * deep * itemsize, BLOCK_BYTES)
    sizes = tiling(window, node.tile)
    points = math.prod(m + r - 1 for m, r in sizes)
    outputs = math.prod(m for m, _ in sizes)
    tiles = max(FEWEST_TILES, BLOCK_BYTES // (points * deep * itemsize))
    return tiles * (points * max(deep, wide) + max(points * deep, outputs * wide)) * itemsize


def number_bytes(step: Step, rows: int, in_place: bool) -> int:
    """Bytes of the row numbers of a step that computes so many rows, an estimate."""
    node = step.node
    if not isinstance(node, Physical) or in_place:
        return 0
    if step.form == "winograd":
        sizes = tiling(roles(node), node.tile)
        points = math.prod(m + r - 1 for m, r in sizes)
        outputs = math.prod(m for m, _ in sizes)
        return NUMBER * (rows + 2 * rows * points // outputs)
    taps = roles(node).tap_count if node.agg else 1
    return NUMBER * rows * taps

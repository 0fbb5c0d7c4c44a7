"""How exact a plan's fast forms are expected to be, and giving up speed where they are not enough.

Winograd's method adds products that are larger than their sum, the more so the larger its tiles: a
3x3 window in tiles of 2, 4 and 6 outputs loses one, three and six bits. What a plan may lose in all
is its tolerance. The errors of layers are independent, so that their squares add up.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from kqo.ir.nodes import Node, Physical
from kqo.ir.window import roles, tiling
from kqo.ir.winograd import amplification
from kqo.planner.physical import PhysicalPlan

ROUNDINGS = 1.8
"""Unit roundoffs that transforms, products and sums add up to, before they are amplified: 1.5 to
2.2 were measured, for windows of 3 to 7 taps in tiles of 2 to 6 outputs along one axis and two."""

LARGEST = 3.0
"""The largest error of an output with positions over the expected one, which is in the mean of all:
up to 2.8 was measured, for thousands of values, relative to the largest of them. Where positions
are averaged before the outputs, errors are, too, and stay below what is expected."""

Key = TypeVar("Key")
Offers = tuple[float, Sequence[tuple[float, float]]]
"""The rounding of what is taken, and cost and rounding of all that may be taken."""


def rounding(node: Node, dtype: str) -> float:
    """Expected difference, root mean square and relative to the values, between the rows that an
    operator computes and those of a direct sum of products: 0 but for Winograd's."""
    if not isinstance(node, Physical) or node.form != "winograd":
        return 0.0
    found = ROUNDINGS * float(np.finfo(dtype).eps) / 2
    for m, r in tiling(roles(node), node.tile):
        found *= amplification(m, r)
    return found


def total(roundings: Iterable[float]) -> float:
    """What independent errors of several layers add up to."""
    return math.sqrt(math.fsum(each**2 for each in roundings))


def rounding_of(plan: PhysicalPlan) -> float:
    """What is expected of a plan's outputs, relative to them."""
    found: dict[int, float] = {}
    for step in plan.steps:  # outputs hold rows of views, and rows that delta steps compute
        found[step.table] = max(rounding(step.node, plan.dtype), found.get(step.table, 0.0))
    return total(found.values())


def levels(ways: Sequence[Offers]) -> list[tuple[float, float]]:
    """What it costs to let several computations lose so much at most, from what they take on.

    Args:
        ways: for each the rounding of what it takes, and what it may take.

    Returns:
        Costs and roundings, falling from what is taken.
    """
    most = max(taken for taken, _ in ways)
    found = []
    for limit in sorted({each for _, own in ways for _, each in own if each <= most}, reverse=True):
        costs = [min((c for c, each in own if each <= limit), default=math.inf) for _, own in ways]
        if math.isfinite(cost := sum(costs)):
            found.append((cost, limit))
    return found


def within(tolerance: float, ways: Mapping[Key, Sequence[tuple[float, float]]]) -> dict[Key, float]:
    """The largest rounding that some relations can keep, for all together to keep the tolerance.

    Forms are given up one after the other: next is what costs least for the square of what it
    brings.

    Args:
        tolerance: that the total may reach.
        ways: for each relation costs and roundings that it may choose among, the roundings falling
            from that of what is chosen.

    Returns:
        The relations that must give up what they chose, and the rounding left to each.
    """
    at = dict.fromkeys(ways, 0)

    def next_swap(key: Key) -> tuple[float, int] | None:
        """What the best later way costs for each square that it brings, and which it is."""
        own, here = ways[key], at[key]
        cost, each = own[here]
        swaps = [
            ((own[n][0] - cost) / (each**2 - own[n][1] ** 2), n) for n in range(here + 1, len(own))
        ]
        return min(swaps, default=None)

    keys = list(ways)
    waiting = [(*swap, n) for n, key in enumerate(keys) if (swap := next_swap(key))]
    heapq.heapify(waiting)
    while waiting and total(ways[key][n][1] for key, n in at.items()) > tolerance:
        _, to, number = heapq.heappop(waiting)
        key = keys[number]
        at[key] = to
        if (swap := next_swap(key)) is not None:
            heapq.heappush(waiting, (*swap, number))
    return {key: ways[key][n][1] for key, n in at.items() if n}

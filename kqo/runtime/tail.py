"""The steps behind the last window, which are run for several batches at once.

A linear layer has one row per query, and a kernel that may be hundreds of megabytes: over a batch
it takes less time to multiply than to read. So the rows that such layers start from are kept for
several batches, and the layers then computed for all of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Physical
from kqo.ir.schema import size
from kqo.planner.physical import PhysicalPlan, Step

LEAST_KERNEL_BYTES = 16 << 20
"""Of the tail's kernels, for it to be worth it: smaller ones stay in the cache."""
QUERIES = 128
"""Rows of a matrix product from which on reading the kernel takes little of its time."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The steps behind the last window.

    Attributes:
        first: number of the first of them; all later steps with delta rows belong to it.
        kept: tables with delta rows that earlier steps write and these read.
        own: tables that these write.
    """

    first: int
    kept: frozenset[int]
    own: frozenset[int]

    @property
    def tables(self) -> frozenset[int]:
        """Tables that hold rows of several batches."""
        return self.kept | self.own


def tail_of(plan: PhysicalPlan, boxes: Mapping[int, Boxes]) -> Tail | None:
    """The plan's tail; None where it has none that is worth it.

    Args:
        plan: the physical plan.
        boxes: regions of the tables with delta rows.
    """
    if any(not step.delta and not step.once for step in plan.steps):
        return None  # such views are computed again for each batch
    itemsize = np.dtype(plan.dtype).itemsize
    first, kernels = len(plan.steps), 0
    for number in reversed(range(len(plan.steps))):
        step = plan.steps[number]
        if not step.delta:
            continue
        if step.form in ("patch", "opaque") or boxes[step.table].volume().max() > 1:
            break
        first = number
        kernels += _kernel_bytes(step, itemsize)
    steps = [step for step in plan.steps[first:] if step.delta]
    own = frozenset(step.table for step in steps)
    read = {t for step in steps for t in step.sources if t in boxes and t is not None}
    if kernels < LEAST_KERNEL_BYTES or any(t in boxes and t not in own for _, t, _ in plan.roots):
        return None
    return Tail(first, frozenset(read) - own, own)


def _kernel_bytes(step: Step, itemsize: int) -> int:
    if step.form != "gather_gemm" or not isinstance(step.node, Physical):
        return 0
    return size(step.node.weight.schema) * itemsize

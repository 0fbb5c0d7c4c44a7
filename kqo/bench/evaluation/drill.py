"""Drill-down by two plans: a coarse grid, then the wanted one where the coarse drops are largest.

Nakandala, Kumar and Papakonstantinou, *Incremental and Approximate Inference for Faster
Occlusion-based Deep CNN Explanations*, SIGMOD 2019, section 4.2. A plan has its positions when it
is made, so the second plan is made for each image; ``seconds`` are those of the two runs, without
the making.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import kqo
from kqo.errors import ArgumentError
from kqo.options import Options
from kqo.workloads import Occlusion

Drops = NDArray[np.float64]


@dataclass(frozen=True)
class Drilled:
    """One image's heatmap.

    Attributes:
        drop: (gy, gx), original minus occluded score of the predicted class; interpolated where it
            was not refined.
        predicted: number of that class.
        seconds: of both runs.
        queries: of both runs.
    """

    drop: Drops
    predicted: int
    seconds: float
    queries: int


class DrillDown:
    """Two plans for one model.

    Args:
        model: in eval mode.
        shape: of its input, (C, H, W).
        window: side of the windows in pixels.
        stride: the wanted step, in pixels.
        coarse: the first step, a multiple of the wanted one.
        share: of the coarse positions around which the wanted grid is asked, 0 to 1.
        options: of both plans.

    Raises:
        ArgumentError: a coarse stride that is no multiple, or a share outside of [0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, ...],
        window: int,
        stride: int,
        coarse: int,
        share: float,
        options: Options,
    ) -> None:
        if coarse % stride:
            raise ArgumentError("coarse", coarse, f"a multiple of the stride, {stride}")
        if not 0 <= share <= 1:
            raise ArgumentError("share", share, "0 to 1")
        self.model, self.example, self.options = model, (torch.zeros((1, *shape)),), options
        self.window, self.stride, self.share = window, stride, share
        # Cells of the wanted grid at which the coarse one asks: the last always, so that nothing is
        # extrapolated.
        counts = [-(-(extent - window) // stride) + 1 for extent in shape[1:]]
        step = coarse // stride
        self.cells = [np.unique([*range(0, n, step), n - 1]) for n in counts]
        # Weights (n, coarse) of linear interpolation, and the coarse cell that is nearest to each.
        ends = [(np.arange(n), cells) for n, cells in zip(counts, self.cells, strict=True)]
        self.weights = [
            np.stack([np.interp(at, c, u) for u in np.eye(len(c))], 1) for at, c in ends
        ]
        self.nearest = [np.abs(at[:, None] - c[None, :]).argmin(1) for at, c in ends]
        grid = np.stack(np.meshgrid(*self.cells, indexing="ij"), -1).reshape(-1, 2)
        self.plan = self._plan(grid)

    def _plan(self, cells: NDArray[np.int64]) -> kqo.api.CompiledPlan:
        asked = Occlusion(self.window, self.stride, positions=cells * self.stride)
        return kqo.compile(self.model, self.example, asked, self.options)

    def run(self, image: NDArray[np.float32]) -> Drilled:
        """The heatmap of one image (C, H, W)."""
        began = time.perf_counter()
        coarse = self.plan.run(image)
        seconds = time.perf_counter() - began
        target = int(coarse.predicted())
        drops = coarse.drops(target).reshape([len(cells) for cells in self.cells])
        drop = self.weights[0] @ drops @ self.weights[1].T
        top = np.argsort(-drops, axis=None, kind="stable")[: math.ceil(self.share * drops.size)]
        refined = np.zeros(drops.shape, dtype=np.bool_)
        refined.flat[top] = True
        wanted = refined[np.ix_(*self.nearest)]
        known = np.zeros(drop.shape, dtype=np.bool_)
        known[np.ix_(*self.cells)] = True
        asked = np.argwhere(wanted & ~known)
        if len(asked):
            plan = self._plan(asked)
            _ = plan.engine
            began = time.perf_counter()
            drop[tuple(asked.T)] = plan.run(image).drops(target)
            seconds += time.perf_counter() - began
        return Drilled(drop, target, seconds, drops.size + len(asked))

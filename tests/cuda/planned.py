"""Plans of small models, and engines for them on NumPy and on the host device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import kqo
from kqo.emit.cuda import emit_cuda
from kqo.emit.cuda_program import Program
from kqo.ir.boxes import with_untouched
from kqo.ir.schema import shape
from kqo.lang.ruleset import rules_for
from kqo.planner.choose import Chooser
from kqo.planner.cuda_rates import cuda_rates
from kqo.planner.physical import PhysicalPlan
from kqo.rewrite.memo import explore
from kqo.runtime.cuda.engine import CudaEngine
from kqo.runtime.cuda.regions import bind_regions
from tests import models
from tests.models import SMALL_ZOO
from tests.unit.lowering import noise


class Everything(nn.Module):
    """A small network whose plan has every form: windows, poolings, a residual, branches."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 12, 7, 2, 3)
            self.pool = nn.MaxPool2d(3, 2, 1)
            self.first = nn.Conv2d(12, 16, 3, 1, 1)
            self.second = nn.Conv2d(16, 16, 3, 1, 1)
            self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
            self.pointwise = nn.Conv2d(16, 20, 1)
            self.head = nn.Linear(36, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        y = torch.relu(self.first(x))
        x = torch.relu(self.second(y) + y)
        x = torch.relu(self.depthwise(x))
        x = torch.relu(torch.cat([self.pointwise(x), x], 1))
        return self.head(nn.functional.avg_pool2d(x, 2).mean((2, 3)))


class Flattened(nn.Module):
    """A linear layer over all positions of a feature map, of which a window changes a few."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32 * 49, wide)

    def forward(self, x):
        return torch.sigmoid(self.head(torch.relu(self.stem(x)).flatten(1)))


class Case:
    """A model compiled for occlusion, with its inputs."""

    def __init__(
        self,
        model: nn.Module,
        shapes: tuple[tuple[int, ...], ...],
        window: int,
        stride: int | None = None,
    ) -> None:
        self.inputs = [noise(1, *shape, seed=k)[0] for k, shape in enumerate(shapes)]
        step = stride or max(2, shapes[0][-1] // 4)
        workload = kqo.Occlusion(window=window, stride=step)
        self.compiled = kqo.compile(model, tuple(t[None] for t in self.inputs), workload)

    def planned(self, precision: str = "float32") -> PhysicalPlan:
        """The physical plan by a GPU's rates."""
        plan = self.compiled
        overlaid = plan.workload.apply(plan.logical)
        memo = explore(overlaid, rules_for(plan.options), {})
        rates = cuda_rates(precision)
        return Chooser(overlaid, memo, self.changed, rates).choose()

    @property
    def changed(self):
        return {self.compiled.scan.name: self.compiled.placed.boxes(self.compiled.scan.axes)}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        scans = self.compiled.logical.scans
        names = self.compiled.logical.inputs or tuple(s.name for s in scans)
        given = dict(zip(names, self.inputs, strict=True))
        return {s.name: given[s.name].numpy().reshape(shape(s.axes)) for s in scans}

    def expected(self) -> dict[str, np.ndarray]:
        """The NumPy engine's answers."""
        return self.compiled.engine.run(self.arrays)

    def program(self, precision: str = "float32") -> Program:
        plan = self.planned(precision)
        regions = bind_regions(plan, with_untouched(self.changed))
        return emit_cuda(plan, regions.shapes, precision)

    def engine(self, device, precision: str = "float32", **options) -> CudaEngine:
        return CudaEngine(
            self.planned(precision), self.changed, device=device, precision=precision, **options
        )

    def error(self, engine: CudaEngine) -> float:
        """Largest difference from the NumPy engine, over the largest output."""
        got, want = engine.run(self.arrays), self.expected()
        assert got.keys() == want.keys()
        worst = 0.0
        for name, value in want.items():
            assert got[name].shape == value.shape
            assert np.array_equal(np.isfinite(got[name]), np.isfinite(value))
            worst = max(worst, float(np.abs(got[name] - value).max() / np.abs(value).max()))
        return worst


def everything() -> Case:
    return Case(Everything().eval(), ((3, 32, 32),), 6, 5)


def small(name: str) -> Case:
    """A model of the zoo at small width, or one of tests.models."""
    if name in SMALL_ZOO:
        width, size = SMALL_ZOO[name]
        model = kqo.zoo.build(name, width=width, num_classes=7)
        return Case(model, ((3, size, size),), max(3, size // 8))
    _, shapes = models.MODELS[name]
    return Case(models.build(name), shapes, 3)

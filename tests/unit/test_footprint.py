"""What a run takes is what was counted before it, and within the budget."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.emit.tail import tail_arrays, tail_lines
from kqo.ir.nodes import Domain, Physical
from kqo.ir.scalar import V, call
from kqo.runtime.engine import Engine
from kqo.runtime.heap import LARGE

OBJECTS = 1 << 20
"""Bytes of Python's own objects, which are not counted."""


class Attention(nn.Module):
    """Tokens of patches that attend to each other, of which every one changes."""

    def __init__(self, wide: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, wide, 4, 4)
        self.queries, self.keys, self.values = (nn.Linear(wide, wide) for _ in range(3))
        self.norm, self.classes = nn.LayerNorm(wide), nn.Linear(wide, 10)

    def forward(self, x: Tensor) -> Tensor:
        t = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        seen = torch.softmax(self.queries(t) @ self.keys(t).transpose(1, 2) / 6, -1)
        return self.classes((t + seen @ self.values(t)).mean(1))


def clamps(count: int) -> list[nn.Module]:
    return [nn.Hardtanh(-1 - i / 2, 2 + i / 3) for i in range(count)]


def head(wide: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * wide, 5)]


MODELS = {
    "attention": Attention,
    # As many arrays of one value each as there are bounds.
    "clamps": lambda: nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), *clamps(4), nn.Conv2d(64, 128, 3, padding=1), *head(128)
    ),
    "wide": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 512, 1),
        nn.Hardtanh(-1, 2),
        nn.Conv2d(512, 8, 1),
        nn.GELU(),
        *head(8),
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1),
        nn.SiLU(),
        nn.Conv2d(64, 64, 3, 1, 1, groups=8),
        nn.GELU(),
        nn.Conv2d(64, 64, 5, 1, 2, groups=64),
        nn.ReLU6(),
        nn.ConvTranspose2d(64, 16, 2, 2),
        nn.MaxPool2d(3, 2),
        *head(16),
    ),
    "normalized": lambda: nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.Softmax(1),
        nn.Conv2d(32, 32, 3, 2, 1),
        nn.InstanceNorm2d(32),
        nn.ELU(),
        *head(32),
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 256, 1),
        nn.ReLU6(),
        nn.Conv2d(256, 256, 3, 1, 1, groups=256),
        nn.ReLU6(),
        nn.Conv2d(256, 64, 1),
        nn.Conv2d(64, 64, 7, 1, 3, groups=64),
        *head(64),
    ),
}


def engine_of(name: str, memory: int | None, threads: int = 2) -> tuple[kqo.CompiledPlan, Engine]:
    torch.manual_seed(0)
    options = kqo.Options(memory=memory, threads=threads, reinference="never")
    example, asked = (torch.zeros(1, 3, 64, 64),), kqo.Occlusion(8, 6)
    plan = kqo.compile(MODELS[name]().eval(), example, asked, options)
    assert isinstance(plan.engine, Engine)
    return plan, plan.engine


def taken(plan: kqo.CompiledPlan, engine: Engine) -> int:
    """The most bytes that a run takes at a time, its results left out."""
    engine._allocate()
    before = engine.nbytes
    gc.collect()
    tracemalloc.start()
    result = plan.run(np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32))
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    spaces = engine.storage.workspaces
    held = [array for space in spaces for array in space.arrays]
    untraced = sum(array.nbytes for array in held if array.nbytes >= LARGE)
    return before + untraced + traced - 3 * result.scores.nbytes


@pytest.mark.parametrize("name", MODELS)
def test_a_run_takes_what_was_counted_and_keeps_its_budget(name: str) -> None:
    _, free = engine_of(name, None)
    least = free.least_bytes
    for memory in (least, (least + free.planned_bytes) // 2):
        plan, engine = engine_of(name, memory)
        peak = taken(plan, engine)
        assert engine.nbytes <= engine.planned_bytes <= memory
        assert peak <= engine.planned_bytes + OBJECTS


def test_views_of_hulls_are_counted_as_they_are_bound() -> None:
    _, engine = engine_of("depthwise", None, threads=1)
    engine.run({"image": np.zeros((3, 64, 64), dtype=np.float32)})
    batches = engine.batches
    order = np.concatenate(batches)
    begins = np.cumsum([0, *map(len, batches[:-1])])
    bounds = {n: bound for held in engine._held[0] for n, bound in held.bounds.items()}
    found = 0
    for number, step in enumerate(engine.plan.steps):
        node = step.node
        if step.form != "taps" or not isinstance(node, Physical) or not step.delta:
            continue
        if isinstance(node.weight, Domain):
            continue
        counted = engine._footprint._reads.of_batches(number, order, begins)
        source = bounds[number].inputs[0]
        assert counted is not None and source is not None
        if source.hulls is not None:
            found += 1
            last = engine._footprint._reads.of_batches(number, batches[-1], np.array([0]))
            assert len(source.hulls.index) == last <= counted
    assert found


def test_an_epilogue_says_which_arrays_it_takes() -> None:
    bounded = call("min", call("max", V, -1.0), 6.0)
    assert tail_arrays(bounded) == (0, frozenset({-1.0, 6.0}), 0)
    silu = call("mul", V, call("sigmoid", V))
    assert tail_arrays(silu).temps == sum("w.temp(" in line for line in tail_lines(silu)) == 1
    assert tail_arrays(call("erf", V)).made == 4

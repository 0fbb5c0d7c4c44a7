"""The memory budget: kept, and used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kqo
from kqo import zoo


def held(name: str, memory: int | None) -> tuple[int, int]:
    model = zoo.build(name, width=0.25, num_classes=10)
    extent = 64
    workload = kqo.Occlusion(8, 4)
    options = kqo.Options(memory=memory, threads=2)
    plan = kqo.compile(model, (torch.zeros(1, 3, extent, extent),), workload, options)
    plan.run(np.random.default_rng(0).normal(size=(3, extent, extent)).astype(np.float32))
    return plan.engine.nbytes, plan.engine.batch


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "densenet121"])
def test_a_budget_is_kept_and_used(name: str) -> None:
    batches = []
    for memory in (14 << 20, 20 << 20, 60 << 20):
        used, batch = held(name, memory)
        assert used <= memory
        batches.append(batch)
    assert batches == sorted(batches) and batches[0] < batches[-1]


def test_a_budget_that_is_too_small_gives_batches_of_one() -> None:
    assert held("mobilenet_v2", 1 << 20)[1] == 1


def test_without_a_budget_there_is_one() -> None:
    used, batch = held("densenet121", None)
    assert used < 300 << 20 and batch > 1

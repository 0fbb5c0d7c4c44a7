"""The memory budget: kept, and used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kqo
from kqo import zoo
from kqo.errors import ArgumentError
from kqo.runtime.budget import check_budget

IMAGE = np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)


def compiled(name: str, memory: int | None, threads: int = 2) -> kqo.CompiledPlan:
    model = zoo.build(name, width=0.25, num_classes=10)
    options = kqo.Options(memory=memory, threads=threads)
    return kqo.compile(model, (torch.zeros(1, 3, 64, 64),), kqo.Occlusion(8, 4), options)


def held(name: str, memory: int | None) -> tuple[int, int]:
    plan = compiled(name, memory)
    plan.run(IMAGE)
    return plan.engine.nbytes, plan.engine.batch


def test_a_batch_that_the_budget_does_not_hold_is_an_error() -> None:
    model = zoo.build("resnet18", width=0.25, num_classes=10)
    example, asked = (torch.zeros(1, 3, 64, 64),), kqo.Occlusion(8, 4)
    free = kqo.compile(model, example, asked, kqo.Options(batch=96, threads=1))
    memory = free.engine.planned_bytes // 2
    small = kqo.compile(model, example, asked, kqo.Options(memory=memory, batch=2, threads=1))
    assert small.engine.batch == 2
    large = kqo.compile(model, example, asked, kqo.Options(memory=memory, batch=96, threads=1))
    with pytest.raises(ArgumentError, match=f"memory: got {memory} bytes; .* batches of 96 take"):
        large.run(IMAGE)


class Unasked:
    """An engine that must not be asked, since that takes long for many queries."""

    @property
    def least_bytes(self) -> int:
        raise AssertionError

    planned_bytes = least_bytes


def test_without_a_budget_nothing_is_worked_out() -> None:
    check_budget(None, Unasked())
    check_budget(None, Unasked(), 8)
    with pytest.raises(AssertionError):
        check_budget(1, Unasked())


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "densenet121"])
def test_a_budget_is_kept_and_used(name: str) -> None:
    batches = []
    for memory in (14 << 20, 20 << 20, 60 << 20):
        used, batch = held(name, memory)
        assert used <= memory
        batches.append(batch)
    assert batches == sorted(batches) and batches[0] < batches[-1]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_least_budget_is_kept_by_one_thread_with_one_query_at_a_time(name: str) -> None:
    free = compiled(name, None)
    least = free.engine.least_bytes
    plan = compiled(name, least)
    result = plan.run(IMAGE)
    assert (plan.engine.batch, plan.engine.workers) == (1, 1) < (free.engine.batch, 2)
    assert plan.engine.nbytes <= plan.engine.planned_bytes == least < free.engine.planned_bytes
    np.testing.assert_allclose(result.scores, free.run(IMAGE).scores, rtol=1e-4, atol=1e-5)


def test_a_budget_that_some_threads_keep_cuts_threads() -> None:
    least = compiled("resnet18", None).engine.least_bytes
    engine = compiled("resnet18", 2 * least, threads=8).engine
    assert 2 <= engine.workers < 8
    assert engine.planned_bytes <= 2 * least


@pytest.mark.parametrize("memory", [1, "1kB", -1])
def test_a_budget_that_no_run_keeps_is_an_error_that_says_the_least(memory: object) -> None:
    least = compiled("mobilenet_v2", None).engine.least_bytes
    given = least - 1 if memory == -1 else memory
    with pytest.raises(ArgumentError) as error:
        compiled("mobilenet_v2", given).run(IMAGE)
    size = kqo.Options(memory=given).memory_bytes
    assert str(error.value).startswith(
        f"memory: got {size} bytes; accepted: at least {least} bytes"
    )


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_500_mb_are_kept_at_full_size(name: str) -> None:
    model = zoo.build(name)
    workload, options = kqo.Occlusion(16, 4), kqo.Options(memory="500MB", threads=4)
    plan = kqo.compile(model, (torch.zeros(1, *zoo.input_shape(name)),), workload, options)
    assert 250e6 < plan.engine.planned_bytes <= 500e6
    assert plan.engine.batch > 1


def test_without_a_budget_there_is_one() -> None:
    used, batch = held("densenet121", None)
    assert used < 300 << 20 and batch > 1

"""Workloads through compile and run, against the model asked again for every query."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.errors import ArgumentError
from kqo.workloads.changed import changed_inputs

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
SIZES = {1: (24,), 2: (12, 10), 3: (8, 6, 7)}


def network(rank: int, classes: int = 4) -> nn.Module:
    torch.manual_seed(rank)
    flat = 4 * math.prod(n // 2 for n in SIZES[rank])
    return nn.Sequential(
        CONVOLUTION[rank](2, 3, 3, padding=1),
        nn.ReLU(),
        POOL[rank](2),
        CONVOLUTION[rank](3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, classes),
    ).eval()


def image(rank: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, *SIZES[rank])).astype(np.float32)


def asked_again(model: nn.Module, workload: Any, x: np.ndarray) -> np.ndarray:
    queries = np.arange(len(workload.resolve(x.shape)))
    with torch.no_grad():
        return model(torch.from_numpy(changed_inputs(workload, x, queries))).numpy()


def check(rank: int, workload: Any, model: nn.Module | None = None, **options: Any) -> kqo.Result:
    model = network(rank) if model is None else model
    x = image(rank)
    with torch.no_grad():
        original = model(torch.from_numpy(x)[None]).numpy()[0]
    plan = kqo.compile(model, (torch.from_numpy(x)[None],), workload, kqo.Options(**options))
    result = plan.run(x, verify=2)
    scale = np.abs(original).max()
    np.testing.assert_allclose(result.original, original, rtol=0, atol=1e-5 * scale)
    wanted = asked_again(model, workload, x)
    assert result.scores.shape == wanted.shape
    np.testing.assert_allclose(result.scores, wanted, rtol=0, atol=1e-5 * scale)
    return result


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("fill", [0.0, -1.5, (0.5, 2.0), "mean", "blur"], ids=str)
def test_fills(rank, fill):
    check(rank, kqo.Occlusion(window=4, stride=3, fill=fill))


@pytest.mark.parametrize("fill", [0.3, (0.1, 0.7), np.full((2, 12, 10), 0.9)], ids=["", "c", "a"])
def test_fills_of_a_float64_model_are_not_rounded(fill, tmp_path):
    model = network(2).double()
    x = torch.from_numpy(image(2)).double()[None]
    plan = kqo.compile(model, (x,), kqo.Occlusion(window=4, stride=4, fill=fill))
    changed = x.clone()
    values = torch.from_numpy(np.array(fill, dtype=np.float64))
    values = values.reshape(-1, 1, 1) if values.dim() == 1 else values
    changed[0, :, :4, :4] = values.expand(2, 12, 10)[:, :4, :4]
    with torch.no_grad():
        wanted = model(changed)[0].numpy()
    plan.save(tmp_path / "plan.kqo")
    for each in (plan, kqo.load(tmp_path / "plan.kqo")):
        np.testing.assert_allclose(each.run(x).scores[0], wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fill_arrays(rank):
    for shape in (SIZES[rank], (2, *SIZES[rank]), (1, *SIZES[rank]), (2, *(1,) * rank)):
        fill = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        if len(shape) > 1:
            check(rank, kqo.Occlusion(window=4, stride=3, fill=fill))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("fill", [0.5, "mean", (1.0, -1.0)], ids=str)
def test_windows_over_channels_too(rank, fill):
    result = check(rank, kqo.Occlusion((1, *(4,) * rank), (1, *(3,) * rank), fill=fill))
    assert result.heatmap().shape[0] == 2


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_several_sizes_in_one_workload(rank):
    shape = (2, *SIZES[rank])
    workload = kqo.Occlusion(2, 2).regions(shape) + kqo.Occlusion(5, 3).regions(shape)
    check(rank, workload)


def boxes_of(rank: int, count: int, generator: np.random.Generator, channels: bool) -> list:
    """Random boxes, which may overlap."""
    extents = ((2,) if channels else ()) + SIZES[rank]
    found = []
    for _ in range(count):
        lo = [int(generator.integers(0, n)) for n in extents]
        hi = [int(generator.integers(a + 1, n + 1)) for a, n in zip(lo, extents, strict=True)]
        found.append(list(zip(lo, hi, strict=True)))
    return found


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("fill", [0.0, "blur", (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_several_regions_in_one_query(rank, fill, channels):
    generator = np.random.default_rng(rank)
    queries = [boxes_of(rank, int(generator.integers(1, 5)), generator, channels) for _ in range(9)]
    check(rank, kqo.Regions(queries, fill=fill))


def test_many_regions_in_one_query():
    corners = [(y, x) for y in (0, 4, 8) for x in (0, 3, 6, 9)]
    scattered = [[(y, y + 1), (x, x + 1)] for y, x in corners]
    check(2, kqo.Regions([scattered, scattered[:1], scattered[3:9]]))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_chosen_positions_and_a_region_of_interest(rank):
    starts = np.random.default_rng(2).integers(0, 5, size=(7, rank))
    check(rank, kqo.Occlusion(3, 1, positions=starts))
    check(rank, kqo.Occlusion(3, 2, roi=((1, 6),) * rank))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_window_over_everything_and_over_one_element(rank):
    check(rank, kqo.Occlusion(SIZES[rank], SIZES[rank]))
    check(rank, kqo.Occlusion((2, *SIZES[rank]), (2, *SIZES[rank]), fill=1.0))
    check(rank, kqo.Occlusion(1, 4))


@pytest.mark.parametrize(
    "options", [{"batch": 1}, {"batch": 7}, {"threads": 3}, {"memory": 850_000}]
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_batches_and_threads_change_nothing(rank, options):
    check(rank, kqo.Occlusion(4, 2, fill="mean"), **options)


@pytest.mark.parametrize("without", ["delta", "batch", "physical", "normalize", "prune"])
def test_rules_that_are_switched_off_change_nothing(without):
    shape = (2, *SIZES[2])
    workload = kqo.Occlusion(2, 2, fill="blur").regions(shape)
    check(2, workload, without=(without,))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dense_outputs(rank):
    torch.manual_seed(0)
    model = nn.Sequential(
        CONVOLUTION[rank](2, 3, 3, padding=1), nn.ReLU(), CONVOLUTION[rank](3, 2, 3)
    ).eval()
    result = check(rank, kqo.Occlusion(3, 2), model)
    place = (1, *(2,) * rank)
    drops = result.drops(target=place)
    at = (slice(None), *place)
    np.testing.assert_allclose(drops, result.original[place] - result.scores[at], atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_many_targets_from_one_pass(rank):
    workload = kqo.Occlusion(4, 3, fill="mean")
    result = check(rank, workload)
    model, x = network(rank), image(rank)
    wanted = asked_again(model, workload, x)
    for target in range(4):
        cells = result.heatmap(target=target)
        np.testing.assert_allclose(cells.ravel(), wanted[:, target], atol=1e-5)
        drop = result.original[target] - wanted[:, target]
        total, weight = np.zeros(x.shape), np.zeros(x.shape)
        for query, value in enumerate(drop):
            mask = workload.resolve(x.shape).mask(query)
            total += mask * value
            weight += mask
        np.testing.assert_allclose(result.attribution(target=target), total / weight, atol=1e-5)


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        found = torch.relu(self.stem(x))
        return {"classes": self.head(found.mean((2, 3))), "map": found.sum(1)}


def test_several_outputs_from_one_pass():
    torch.manual_seed(0)
    model, x, workload = TwoOutputs().eval(), image(2), kqo.Occlusion(4, 3)
    result = kqo.compile(model, (torch.from_numpy(x)[None],), workload).run(x)
    inputs = changed_inputs(workload, x, np.arange(len(result.workload)))
    with torch.no_grad():
        wanted = model(torch.from_numpy(inputs))
    for name in ("classes", "map"):
        np.testing.assert_allclose(result.outputs[name], wanted[name].numpy(), atol=1e-5)


class TwoInputs(nn.Module):
    """Reads its inputs in another order than it takes them, and one not at all."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3)
        self.right = nn.Conv2d(2, 4, 3)

    def forward(self, a, unused, b):
        return (torch.relu(self.right(b) - self.left(a))).mean((2, 3))


@pytest.mark.parametrize("occluded", [0, 2, "a", "b"])
def test_inputs_keep_the_models_order(occluded, tmp_path):
    torch.manual_seed(0)
    model = TwoInputs().eval()
    inputs = (torch.randn(1, 3, 9, 9), torch.randn(1, 5), torch.randn(1, 2, 9, 9))
    number = {"a": 0, "b": 2}.get(occluded, occluded)
    plan = kqo.compile(model, inputs, kqo.Occlusion(3, 2, fill=0.5, input=occluded))
    plan.save(tmp_path / "two.kqo")
    for each in (plan, kqo.load(tmp_path / "two.kqo")):
        result = each.run(*inputs)
        for query in range(len(result.workload)):
            given = list(inputs)
            mask = torch.from_numpy(result.workload.mask(query))
            given[number] = torch.where(mask, torch.tensor(0.5), given[number])
            with torch.no_grad():
                wanted = model(*given)[0].numpy()
            np.testing.assert_allclose(result.scores[query], wanted, atol=1e-5)


def test_an_input_without_influence_is_refused():
    model, inputs = TwoInputs().eval(), (torch.zeros(1, 3, 9, 9), torch.zeros(1, 5))
    with pytest.raises(ArgumentError, match="an input that an output depends on"):
        kqo.compile(model, (*inputs, torch.zeros(1, 2, 9, 9)), kqo.Occlusion(1, 1, input=1))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fills_given_with_each_image(rank, tmp_path):
    model = network(rank)
    x = np.stack([image(rank, 1), image(rank, 2)])
    fills = np.stack([image(rank, 3), image(rank, 4)])
    plan = kqo.compile(model, (torch.from_numpy(x),), kqo.Occlusion(4, 3, fill="given"))
    plan.save(tmp_path / "given.kqo")
    for each in (plan, kqo.load(tmp_path / "given.kqo")):
        result = each.run(x, fill=fills, verify=2)
        for number in range(2):
            workload = kqo.Occlusion(4, 3, fill=fills[number])
            wanted = asked_again(model, workload, x[number])
            np.testing.assert_allclose(result.scores[number], wanted, atol=1e-5)
    wanted = asked_again(model, kqo.Occlusion(4, 3, fill=2.0), x[0])
    np.testing.assert_allclose(plan.run(x[0], fill=2.0).scores, wanted, atol=1e-5)
    with pytest.raises(ArgumentError, match="fill: got None"):
        plan.run(x)
    with pytest.raises(ArgumentError, match="fill: got an array of shape"):
        plan.run(x, fill=np.zeros((7, 1, 1), dtype=np.float32))
    with pytest.raises(ArgumentError, match="the workload has a fill already"):
        kqo.compile(model, (torch.from_numpy(x),), kqo.Occlusion(4, 3)).run(x, fill=1.0)


def test_the_values_of_a_given_fill_are_not_part_of_the_workload():
    with pytest.raises(ArgumentError, match="does not depend on the run"):
        changed_inputs(kqo.Occlusion(4, 3, fill="given"), image(2), [0])

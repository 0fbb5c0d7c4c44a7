"""NaN and infinity go where they go in PyTorch, also where a fast form would spread them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.lang.ruleset import rules_for
from kqo.runtime.finite import PADDING_WITH_ZEROS, is_finite, largest_error, spreads
from tests.asking import assert_answers
from tests.unit.lowering import noise, randomized


def network(classes: int = 3) -> nn.Module:
    """Winograd, pooling, an additive delta at the end, and ReLU."""
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip
    return randomized(layers)


def dense() -> nn.Module:
    return randomized(nn.Sequential(*list(network())[:-3]))


OCCLUSION = kqo.Occlusion(window=6, stride=6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", [network, dense])
def test_a_pixel_in_and_outside_the_window(make, value) -> None:
    x = noise(1, 3, 18, 18)
    x[0, 1, 8, 8] = value
    plan = assert_answers(make(), (x,), OCCLUSION, count=16)
    facts = plan.run(x, verify=2).facts
    assert facts["not_finite"] == 1 and facts["error"] < 1e-9
    assert plan.run(noise(1, 3, 18, 18)).facts["not_finite"] == 0


def test_only_images_that_need_it_are_computed_again() -> None:
    x = noise(3, 3, 18, 18)
    x[1, 0, 0, 0] = math.nan
    plan = kqo.compile(network(), (x,), OCCLUSION)
    result = plan.run(x)
    assert result.facts["not_finite"] == 1
    np.testing.assert_array_equal(result.outputs["output"][2], plan.run(x[2]).outputs["output"])


@pytest.mark.parametrize("fill", [math.inf, -math.inf])
def test_an_infinite_fill(fill) -> None:
    x = noise(1, 3, 18, 18)
    workload = kqo.Occlusion(window=6, stride=6, fill="given")
    plan = kqo.compile(dense(), (x,), workload, kqo.Options(threads=1))
    result = plan.run(x, fill=np.full((3, 1, 1), fill))
    boxes = plan.placed.boxes(plan.scan.axes)
    for query in (0, 4, 8):
        changed = x.clone()
        pairs = zip(boxes.lo[query, 0], boxes.hi[query, 0], strict=True)
        changed[(0, *(slice(int(a), int(z)) for a, z in pairs))] = fill
        with torch.no_grad():
            wanted = dense()(changed)[0]
        np.testing.assert_allclose(result.outputs["output"][query], wanted, rtol=0, atol=1e-9)


def test_infinite_weights() -> None:
    """Without padding: what padding gives then depends on which of its algorithms PyTorch takes."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
    model = randomized(nn.Sequential(*layers, nn.Linear(4 * 14 * 14, 3)))
    with torch.no_grad():
        model[0].weight[0, 1, 1, 1] = math.inf
        model[4].weight[1, 7] = math.nan
    assert_answers(model, (noise(1, 3, 18, 18),), OCCLUSION)


def test_padding_meets_no_weight() -> None:
    """A key beyond the edge has no partner: an infinite weight gives infinity, not NaN."""
    model = randomized(nn.Conv2d(2, 2, 3, padding=1))
    with torch.no_grad():
        model.weight.abs_()
        model.weight[0, 0, 0, 0] = math.inf
    x = noise(1, 2, 9, 9).abs()
    found = kqo.compile(model, (x,), kqo.Occlusion(window=3, stride=3, fill=1.0)).run(x)
    assert not np.isnan(found.original).any()
    assert np.isinf(found.original[0, 1:, 1:]).all()
    assert np.isfinite(found.original[0, 0]).all() and np.isfinite(found.original[1]).all()


class Overflow(nn.Module):
    """Infinity from finite inputs, hidden again by a comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.exp(400 * x))
        return torch.where(y > 0, torch.ones_like(y), torch.zeros_like(y))


def test_infinity_in_views_that_results_do_not_show() -> None:
    model = randomized(Overflow())
    x = noise(1, 2, 12, 12).abs()
    assert_answers(model, (x,), kqo.Occlusion(window=3, stride=3))


def test_every_rule_that_spreads_is_known_by_its_name() -> None:
    names = rules_for(kqo.Options()).names()
    assert set(PADDING_WITH_ZEROS) <= set(names)
    assert sum(spreads(name, True) for name in names) >= 6
    assert not spreads(None, True) and not spreads("GatherProduct", True)


def test_largest_error_wants_nan_and_infinity_in_the_same_places() -> None:
    a = np.array([1.0, math.nan, math.inf])
    assert largest_error(a, a) == 0
    assert largest_error(np.array([1.5, math.nan, math.inf]), a) == 0.5
    assert largest_error(np.array([1.0, math.nan, -math.inf]), a) == math.inf
    assert largest_error(np.array([math.nan, math.nan, math.inf]), a) == math.inf
    assert not is_finite(a[1:2]) and not is_finite(a[2:]) and is_finite(a[:1]) and is_finite(a[:0])


def test_arrays_of_a_gpu_are_looked_through_without_a_product() -> None:
    """CuPy's product needs cuBLAS, which need not be there."""

    class OnGpu:
        def __init__(self, *values: float) -> None:
            self.values, self.size = np.array(values), len(values)

        def min(self) -> np.float64:
            return self.values.min()

        def max(self) -> np.float64:
            return self.values.max()

    assert is_finite(OnGpu(1.0, -2.0)) and is_finite(OnGpu())
    assert not any(is_finite(OnGpu(1.0, value)) for value in (math.nan, math.inf, -math.inf))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("aligned", [False, True])
def test_resizing_reads_neighbours_of_weight_zero(mode, aligned) -> None:
    """As PyTorch does: the first output weighs the second element with 0, and NaN stays NaN."""
    up = nn.Upsample(scale_factor=2, mode=mode, align_corners=aligned)
    model = randomized(nn.Sequential(nn.Conv2d(2, 3, 1), up))
    x = noise(1, 2, 6, 6)
    x[0, 0, 1, 1] = math.nan
    x[0, 1, 4, 4] = math.inf
    assert_answers(model, (x,), kqo.Occlusion(window=2, stride=2), count=9)


def test_groups_that_share_a_product() -> None:
    """Narrow groups are multiplied together, with zeros between them: infinity stays in its own."""
    model = randomized(nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU()))
    x = noise(1, 8, 9, 9)
    x[0, 2, 4, 4] = math.inf
    plan = assert_answers(model, (x,), kqo.Occlusion(window=3, stride=3), count=9)
    assert "grouped_gemm" in {step.form for step in plan.physical.steps}
    assert plan.run(x).facts["not_finite"] == 1


class Chosen(nn.Module):
    """A function behind a layer."""

    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.conv(x))


CHOICES: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda v: torch.where(v > 0, v.sqrt(), v * 0.5 - 1),
    "replaced": lambda v: torch.nan_to_num(v, 0.5, 7.0, -7.0),
    "by a tensor": lambda v: torch.where(v.isnan(), torch.ones_like(v), v),
    "masked": lambda v: v.log().masked_fill(v <= 0, 3.0),
    "sign": lambda v: v.sign(),
    "softshrink": nn.Softshrink(),
    "hardshrink": nn.Hardshrink(),
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_not_chosen_does_no_harm(name) -> None:
    model = randomized(Chosen(CHOICES[name]))
    with torch.no_grad():
        model.conv.weight.copy_(torch.eye(2)[:, :, None, None])
    x = noise(1, 2, 6, 6)
    x[0, 0, 0, 0], x[0, 0, 3, 3], x[0, 1, 5, 0] = math.nan, math.inf, -math.inf
    assert_answers(model, (x,), kqo.Occlusion(window=2, stride=2), count=9)


@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_slopes_that_are_not_finite(slope) -> None:
    model = randomized(nn.Sequential(nn.Conv2d(2, 3, 1), nn.PReLU(3)))
    with torch.no_grad():
        model[1].weight[1] = slope
    assert_answers(model, (noise(1, 2, 6, 6),), kqo.Occlusion(window=2, stride=2), count=9)

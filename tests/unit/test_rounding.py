"""What fast forms are expected to lose to rounding, and how a plan keeps its tolerance."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.ir.winograd import SIZES, amplification, matrices
from kqo.planner.rounding import LARGEST, ROUNDINGS, levels, rounding, rounding_of, total, within
from tests.property.asked import random_costs
from tests.unit.lowering import noise


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("m", "r"), sorted(SIZES))
def test_expected_errors_are_those_of_random_layers(m: int, r: int, axes: int) -> None:
    rng = np.random.default_rng(m * r)
    a, g, b = (matrix if axes == 1 else np.kron(matrix, matrix) for matrix in matrices(m, r))
    taps, values, features = r**axes, (m + r - 1) ** axes, 64
    kernel = rng.standard_normal((taps, features))
    given = np.maximum(rng.standard_normal((64, values, features)), 0).astype(np.float32)
    products = (b.astype(np.float32) @ given) * (g @ kernel).astype(np.float32)
    found = products.sum(-1, dtype=np.float32) @ a.astype(np.float32).T
    direct = np.zeros((64, m**axes))
    near = given.astype(np.float64).reshape(64, *(m + r - 1,) * axes, features)
    for tap, at in enumerate(itertools.product(range(r), repeat=axes)):
        seen = near[(slice(None), *(slice(t, t + m) for t in at))]
        direct += (seen @ kernel[tap]).reshape(64, -1)
    error = math.sqrt(((found - direct) ** 2).mean() / (direct**2).mean())
    expected = ROUNDINGS * 2.0**-24 * amplification(m, r) ** axes
    assert expected / 3 < error < expected * 3


def test_larger_tiles_lose_more() -> None:
    for r in (3, 5):
        lost = [amplification(m, r) for m in (2, 4, 6)]
        assert lost == sorted(lost)
        assert lost[2] > 3 * lost[0]


def test_what_costs_least_for_what_it_brings_is_given_up_first() -> None:
    dear, cheap = [(1.0, 3e-6), (9.0, 0.0)], [(1.0, 3e-6), (2.0, 1e-6), (9.0, 0.0)]
    assert within(1e-5, {"a": dear, "b": cheap}) == {}
    assert within(3.5e-6, {"a": dear, "b": cheap}) == {"b": 1e-6}
    assert within(1e-6, {"a": dear, "b": cheap}) == {"a": 0.0, "b": 1e-6}
    assert within(1e-7, {"a": dear, "b": cheap}) == {"a": 0.0, "b": 0.0}


def test_delta_rows_and_their_view_are_limited_together() -> None:
    deltas = (2e-6, [(1.0, 2e-6), (3.0, 1e-6), (8.0, 0.0), (0.5, 4e-6)])
    view = (1e-6, [(1.0, 1e-6), (4.0, 0.0)])
    assert levels([deltas, view]) == [(2.0, 2e-6), (4.0, 1e-6), (12.0, 0.0)]
    assert levels([(1e-6, [(1.0, 1e-6)]), view]) == [(2.0, 1e-6)]


@pytest.mark.parametrize("seed", range(20))
def test_the_total_is_kept_and_nothing_is_given_up_without_need(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lost = {n: [*sorted(rng.random(4), reverse=True), 0.0] for n in range(8)}
    ways = {n: list(zip(rng.random(5).tolist(), own, strict=True)) for n, own in lost.items()}
    tolerance = float(rng.random() * 2)
    given = within(tolerance, ways)
    chosen = {n: own[0][1] for n, own in ways.items()}
    assert (total(chosen.values()) <= tolerance) == (not given)
    assert total({**chosen, **given}.values()) <= tolerance
    assert all(most < chosen[n] for n, most in given.items())


@pytest.mark.parametrize("costs", range(8))
def test_whatever_is_cheap_keeps_the_tolerance(costs: int) -> None:
    with random_costs(costs):
        plan = _plan(tolerance=2e-6)
        assert rounding_of(plan.physical) <= 2e-6


class Wide(nn.Module):
    """Two 5x5 and one 3x3 windows over wide regions, many features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(),
            nn.Conv2d(96, 96, 5, padding=2), nn.ReLU(),
            nn.Conv2d(96, 96, 5, padding=2), nn.ReLU(),
            nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _plan(**options):
    module = Wide().eval()
    workload = kqo.Occlusion(16, 8)
    given = (torch.zeros(1, 3, 48, 48),)
    return kqo.compile(module, given, workload, kqo.Options(threads=1, **options))


def _tiles(plan) -> list[int]:
    return [s.node.tile for s in plan.physical.steps if s.delta and s.form == "winograd"]


def test_a_plan_takes_the_fast_forms_that_its_tolerance_has_room_for() -> None:
    free = _plan(tolerance=1e-3)
    usual, strict = _plan(tolerance=1e-5), _plan(tolerance=1e-8)
    assert 6 in _tiles(free)
    assert rounding_of(free.physical) > 1e-5 >= rounding_of(usual.physical) > 0
    assert _tiles(usual) and _tiles(usual) != _tiles(free)
    assert _tiles(strict) == [] and rounding_of(strict.physical) == 0
    image = noise(3, 48, 48).numpy().astype(np.float32)
    for plan in (free, usual):
        plan.run(image, verify=8)  # raises where an answer is beyond the tolerance


def test_float64_has_room_for_every_form() -> None:
    module = Wide().eval().double()
    given = (torch.zeros(1, 3, 48, 48, dtype=torch.float64),)
    plan = kqo.compile(module, given, kqo.Occlusion(16, 8), kqo.Options(threads=1))
    assert 6 in _tiles(plan)
    assert rounding_of(plan.physical) < 1e-12


def test_views_have_the_forms_that_are_left_to_their_delta_rows() -> None:
    plan = _plan(tolerance=1e-6)
    for step in plan.physical.steps:
        assert rounding(step.node, "float32") <= 1e-6


def test_the_explanation_tells_what_is_expected() -> None:
    assert "rounding of fast forms: 0 expected, 1e-08 allowed" in _plan(tolerance=1e-8).explain()
    usual = _plan(tolerance=1e-5)
    layers = len(usual.subject().chooser.most_rounding)
    told = f"{rounding_of(usual.physical):.2g} expected, 1e-05 allowed, for which {layers} layer"
    assert layers and f"rounding of fast forms: {told}" in usual.explain()
    document = json.loads(usual.explain(format="json"))
    assert document["rounding"] == rounding_of(usual.physical)


def test_a_layer_without_direct_products_keeps_what_it_has() -> None:
    others = ("GatherProduct", "WinogradProduct", "WinogradProductBy2")
    plan = _plan(tolerance=1e-8, without=others)
    assert set(_tiles(plan)) <= {6}
    plan.run(noise(3, 48, 48).numpy().astype(np.float32))


def test_outputs_with_positions_have_room_for_their_largest_errors() -> None:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 96, 5, padding=2), nn.ReLU(), nn.Conv2d(96, 96, 5, padding=2)]
    given, workload = (torch.zeros(1, 3, 32, 32),), kqo.Occlusion(16, 8)
    image = noise(3, 32, 32).numpy().astype(np.float32)
    for tolerance in (3e-6, 1e-5):
        options = kqo.Options(threads=1, tolerance=tolerance)
        plan = kqo.compile(nn.Sequential(*layers).eval(), given, workload, options)
        assert rounding_of(plan.physical) <= tolerance / LARGEST
        plan.run(image, verify=9)

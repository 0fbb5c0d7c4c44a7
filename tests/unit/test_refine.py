"""Heatmaps that refine: complete at any moment, the plan's own at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.approximate.grid import CoarseGrid
from kqo.errors import ArgumentError


@pytest.fixture(scope="module")
def plan() -> kqo.api.CompiledPlan:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU())
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 11 * 11, 5)).eval()
    options = kqo.Options(batch=7, threads=2, progress=False)
    return kqo.compile(model, (torch.zeros(1, 3, 24, 24),), kqo.Occlusion(6, 2), options)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 24, 24)).astype(np.float32)


def test_last_heatmap_is_that_of_run(plan: kqo.api.CompiledPlan) -> None:
    maps = list(plan.refine(image()))
    result = plan.run(image())
    assert maps[-1].complete and maps[-1].known.all()
    assert maps[-1].target == result.predicted()
    np.testing.assert_allclose(maps[-1].heatmap, result.heatmap(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps[-1].original, result.original.max(), rtol=1e-5)


def test_every_heatmap_is_whole_and_known_cells_are_right(plan: kqo.api.CompiledPlan) -> None:
    exact = plan.run(image()).heatmap(3)
    counts = []
    for found in plan.refine(image(), target=3):
        assert np.isfinite(found.heatmap).all()
        np.testing.assert_allclose(
            found.heatmap[found.known], exact[found.known], rtol=1e-5, atol=1e-6
        )
        counts.append(int(found.known.sum()))
    assert len(counts) > 3 and counts == sorted(set(counts))


def test_another_run_between_two_heatmaps_changes_nothing(plan: kqo.api.CompiledPlan) -> None:
    exact = plan.run(image()).heatmap()
    maps = []
    for found in plan.refine(image(), step=1):
        plan.run(image(1))
        maps.append(found)
    np.testing.assert_allclose(maps[-1].heatmap, exact, rtol=1e-5, atol=1e-6)


def test_deadline_ends_it_with_a_heatmap(plan: kqo.api.CompiledPlan) -> None:
    maps = list(plan.refine(image(), deadline=1e-9))
    assert len(maps) == 1 and not maps[0].complete


def test_most_informative_cells_come_before_others(plan: kqo.api.CompiledPlan) -> None:
    maps = list(plan.refine(image(), step=3))
    coarse = next(at for at, m in enumerate(maps) if m.known[::3, ::3].all())
    before, after = maps[coarse], maps[coarse + 1]
    asked = after.known & ~before.known
    left = ~after.known
    assert before.heatmap[asked].max() <= before.heatmap[left].min()


def test_share_of_cells_is_asked(plan: kqo.api.CompiledPlan) -> None:
    coarse = len(CoarseGrid((10, 10), 3).cells)
    for share in (0.0, 0.25):
        *_, last = plan.refine(image(), step=3, share=share)
        assert last.known.shape == (10, 10) and not last.complete
        assert last.known.sum() == coarse + np.ceil(share * (100 - coarse))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"step": 0}, "step"),
        ({"share": 1.5}, "share"),
        ({"share": float("nan")}, "share"),
        ({"deadline": 0}, "deadline"),
    ],
)
def test_bad_arguments(plan: kqo.api.CompiledPlan, arguments: dict, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        plan.refine(image(), **arguments)


def test_targets_that_there_are_not(plan: kqo.api.CompiledPlan) -> None:
    with pytest.raises(ArgumentError, match="target"):
        next(iter(plan.refine(image(), target=9)))


def test_values_that_are_not_finite_are_refused(plan: kqo.api.CompiledPlan) -> None:
    bad = image()
    bad[0, 0, 0] = np.nan
    with pytest.raises(ArgumentError, match="finite"):
        list(plan.refine(bad))

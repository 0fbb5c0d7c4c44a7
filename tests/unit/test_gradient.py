"""Drill-down whose first stage is the gradient of the score times the change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.approximate.gradient import linear_scores
from kqo.errors import ArgumentError

ASKED = kqo.Occlusion(6, 2)


def model(act: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), act(), nn.Conv2d(4, 4, 3, stride=2), act())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 15 * 15, 5)).eval()


def compiled(net: nn.Module | None = None, **options: object) -> kqo.api.CompiledPlan:
    workload = options.pop("workload", ASKED)
    given = kqo.Options(**{"batch": 49, "threads": 1, "progress": False, **options})
    return kqo.compile(net or model(), (torch.zeros(1, 3, 32, 32),), workload, given)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def exact() -> kqo.api.CompiledPlan:
    return compiled()


@pytest.mark.parametrize("fill", [0.0, 0.5, "mean", (0.1, -0.2, 0.3)], ids=str)
def test_of_a_linear_model_it_is_exact(fill) -> None:
    workload = kqo.Occlusion(6, 2, fill=fill)
    net = model(nn.Identity)
    truth = compiled(net, workload=workload).run(image())
    found = compiled(net, workload=workload, first="gradient", share=0.0).run(image())
    assert not found.computed.any() and found.facts["asked"] == [0]
    np.testing.assert_allclose(found.heatmap(), truth.heatmap(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.original, truth.original, rtol=1e-5, atol=1e-6)


def test_the_first_stage_is_one_backward_pass(exact: kqo.api.CompiledPlan) -> None:
    leaf = torch.tensor(image()[None], requires_grad=True)
    model()(leaf)[0, 3].backward()
    assert leaf.grad is not None
    effect = (-leaf.grad[0] * torch.tensor(image())).numpy().sum(axis=0)
    expected = [
        effect[y : y + 6, x : x + 6].sum() for y in range(0, 27, 2) for x in range(0, 27, 2)
    ]
    inputs, _ = exact._inputs((image(),))
    np.testing.assert_allclose(
        linear_scores(exact, inputs[0], 3, 2.0), np.add(expected, 2.0), rtol=1e-4
    )


def test_the_share_with_the_lowest_scores_is_asked(exact: kqo.api.CompiledPlan) -> None:
    truth = exact.run(image())
    found = compiled(first="gradient", share=0.05).run(image())
    assert found.computed.sum() == 10 and found.facts["estimated_quality"] is None
    known = found.computed
    np.testing.assert_allclose(found.scores[known], truth.scores[known], rtol=1e-5, atol=1e-6)
    inputs, _ = exact._inputs((image(),))
    target = int(truth.predicted())
    linear = linear_scores(exact, inputs[0], target, float(truth.original[target]))
    assert linear[known].max() <= linear[~known].min()
    assert np.isfinite(found.scores).all()


def test_it_refines_to_the_exact_heatmap(exact: kqo.api.CompiledPlan) -> None:
    maps = list(compiled(first="gradient", share=0.3).refine(image(), share=1.0))
    truth = exact.run(image()).heatmap()
    assert not maps[0].known.any() and maps[-1].complete and len(maps) == 21
    np.testing.assert_allclose(maps[-1].heatmap, truth, rtol=1e-5, atol=1e-6)
    hurried = compiled(first="gradient", share=0.3).run(image(), deadline=1e-9)
    assert not hurried.computed.any() and np.isfinite(hurried.scores).all()


def test_a_plan_without_its_model_says_so(tmp_path) -> None:
    compiled(first="gradient", share=0.1).save(tmp_path / "p.kqo")
    loaded = kqo.load(tmp_path / "p.kqo")
    assert loaded.options.first == "gradient"
    for plan in (loaded, compiled(first="gradient", share=0.1, reinference="never")):
        with pytest.raises(ArgumentError, match="first: got 'gradient' for a plan without its"):
            plan.run(image())
    assert loaded.approximated(step=3, share=0.1).run(image()).computed.sum() == 36 + 16


def test_a_model_that_has_changed_is_refused() -> None:
    net = model()
    plan = compiled(net, first="gradient", share=0.1)
    net.train()
    with pytest.raises(ArgumentError, match="has changed"):
        plan.run(image())


def test_a_model_that_torch_cannot_differentiate() -> None:
    with torch.inference_mode():
        plan = compiled(first="gradient", share=0.1)
    with pytest.raises(ArgumentError, match="cannot differentiate"):
        plan.run(image())


@pytest.mark.parametrize(
    "options",
    [
        {"first": "guess"},
        {"first": "gradient", "step": 3},
        {"first": "gradient", "until": 0.9},
        {"first": "gradient", "order": "error"},
        {"first": "gradient", "speedup": 3, "share": 0.1},
    ],
    ids=str,
)
def test_what_cannot_be(options: dict) -> None:
    with pytest.raises(ArgumentError, match="first"):
        compiled(**options)


def test_explain_shows_the_stages() -> None:
    text = compiled(first="gradient", share=0.1).explain()
    assert text.startswith("APPROXIMATE (drill-down: first = gradient, share = 0.1)")
    assert "Gradient(score, times: change)" in text
    assert "Limit(guess, order: score, rows: 20), 20 queries" in text
    assert "Overlay(base: guess, patch: fine)" in text

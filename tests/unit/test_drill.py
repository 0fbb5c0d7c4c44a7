"""Plans that leave cells out: drill-down, deadlines, interruptions, and what they say of it."""

from __future__ import annotations

import json
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.approximate.grid import CoarseGrid
from kqo.approximate.interpolate import weights
from kqo.approximate.quality import ssim, window_ssim
from kqo.approximate.verify import sampled
from kqo.errors import ArgumentError, KqoError

ASKED = kqo.Occlusion(6, 2)


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 15 * 15, 5)).eval()


def compiled(workload: kqo.Occlusion = ASKED, **options: object) -> kqo.api.CompiledPlan:
    given = {"batch": 7, "threads": 2, "progress": False, **options}
    return kqo.compile(model(), (torch.zeros(1, 3, 32, 32),), workload, kqo.Options(**given))


@pytest.fixture(scope="module")
def exact() -> kqo.api.CompiledPlan:
    return compiled()


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 32, 32)).astype(np.float32)


NEUTRAL = (
    {"step": 3},
    {"share": 0.0},
    {"until": 0.1},
    {"step": 3, "until": 1.0},
    {"approximations": {"tau": 1.0}, "step": 5},
    {"threshold": 0.0, "step": 4},
    {"threshold": {"0": 0.0}},
    {"speedup": 1.0, "share": 0.3},
    {"order": "error", "share": 0.2},
    {"order": "error", "step": 3},
    {"first": "gradient"},
)


@pytest.mark.parametrize("options", NEUTRAL, ids=str)
def test_neutral_parameters_are_exact(exact: kqo.api.CompiledPlan, options: dict) -> None:
    plan = compiled(**options)
    result = plan.run(image(), verify=3)
    assert plan.explain().startswith("EXACT")
    assert result.expected_quality == 1 and result.computed is None
    np.testing.assert_allclose(result.scores, exact.run(image()).scores, rtol=1e-5, atol=1e-6)


def test_cells_that_are_not_asked_are_interpolated(exact: kqo.api.CompiledPlan) -> None:
    plan = compiled(step=3, share=0.25)
    result, truth = plan.run(image()), exact.run(image())
    assert result.computed is not None and result.computed.sum() == 36 + 40
    np.testing.assert_allclose(
        result.scores[result.computed], truth.scores[result.computed], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(result.original, truth.original, rtol=1e-5, atol=1e-6)
    known, left = np.flatnonzero(result.computed), np.flatnonzero(~result.computed)
    guess = weights((14, 14), known, left).apply(truth.scores[known])
    np.testing.assert_allclose(result.scores[left], guess, rtol=1e-4, atol=1e-5)
    assert result.facts["asked"] == [76] and result.expected_quality is None


def test_the_lowest_interpolated_scores_are_asked(exact: kqo.api.CompiledPlan) -> None:
    result, truth = compiled(step=3, share=0.05).run(image()), exact.run(image())
    coarse = CoarseGrid((14, 14), 3)
    target = int(truth.predicted())
    found = weights((14, 14), coarse.cells, coarse.others)
    guess = found.apply(truth.scores[coarse.cells, target])
    asked = result.computed[coarse.others]
    assert asked.sum() == 8 and guess[asked].max() <= guess[~asked].min() + 1e-6


def test_the_last_heatmap_of_refine_is_that_of_run() -> None:
    plan = compiled(step=3, share=0.25)
    *_, last = plan.refine(image())
    np.testing.assert_allclose(last.heatmap, plan.run(image()).heatmap(), rtol=1e-5, atol=1e-6)


def test_refining_for_another_class(exact: kqo.api.CompiledPlan) -> None:
    plan = compiled(step=3, share=0.1)
    usual = plan.run(image())
    target = (int(usual.predicted()) + 1) % 5
    other = plan.run(image(), target=target)
    assert not np.array_equal(usual.computed, other.computed)
    with pytest.raises(ArgumentError, match="target"):
        plan.run(image(), target=5)


def test_several_images_and_what_is_kept(tmp_path) -> None:
    plan = compiled(step=3, share=0.25, approximations={"tau": 0.8})
    result = plan.run(np.stack([image(0), image(1)]))
    assert result.computed is not None and result.computed.shape == (2, 196)
    for number in range(2):
        alone = plan.run(image(number))
        np.testing.assert_allclose(result.scores[number], alone.scores, rtol=1e-5, atol=1e-6)
    again = pickle.loads(pickle.dumps(result))
    assert np.array_equal(again.computed, result.computed)
    result.to_npz(tmp_path / "r.npz")
    assert np.array_equal(np.load(tmp_path / "r.npz")["computed"], result.computed)
    json.dumps(result.summary())


def test_plan_files_keep_the_stages(tmp_path) -> None:
    plan = compiled(step=3, share=0.25, until=0.7)
    plan.save(tmp_path / "p.kqo")
    loaded = kqo.load(tmp_path / "p.kqo")
    assert (loaded.options.step, loaded.options.share, loaded.options.until) == (3, 0.25, 0.7)
    assert np.array_equal(loaded.run(image()).computed, plan.run(image()).computed)


def test_values_that_are_not_finite_are_computed_whole(exact: kqo.api.CompiledPlan) -> None:
    bad = image()
    bad[0, 10, 10] = np.nan
    truth = exact.run(bad)
    found = compiled(step=3, share=0.1).run(bad)
    np.testing.assert_allclose(found.scores, truth.scores, rtol=1e-5, atol=1e-6)
    assert np.isfinite(found.scores).any() and found.computed is None


def smooth(seed: int, side: int = 40) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    values = np.random.default_rng(seed).standard_normal((side, side))
    return gaussian_filter(values, 4.0)


def test_estimate_of_a_result(exact: kqo.api.CompiledPlan) -> None:
    low, high = (compiled(step=3, share=s).run(image()) for s in (0.0, 0.6))
    assert low.facts["estimated_quality"] < high.facts["estimated_quality"] < 1


def test_stages_run_on_the_processor() -> None:
    assert compiled(step=3, share=0.25, target="auto").options.target == "numpy"


def test_speedup_sets_the_step() -> None:
    plan = compiled(speedup=3, share=0.1)
    asked = plan.run(image()).facts["asked"][0]
    assert plan.options.step == 3 and 196 / asked >= 3
    coarser = compiled(speedup=5, share=0.1).options.step
    assert coarser > 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speedup": 20, "share": 0.1}, r"speedup: got 20 with share 0.1; accepted: at most \d"),
        ({"speedup": 2}, "share"),
        ({"quality": 0.9}, "without a profile"),
        ({"quality": 0.9, "speedup": 2}, "one of them"),
        ({"speedup": 2, "share": 0.1, "step": 2}, "follow from the speedup"),
        ({"step": 0}, "step"),
        ({"step": 3, "share": 0.1, "target": "cuda"}, "cuda|GPU"),
        ({"share": -0.1}, "share"),
        ({"until": 0}, "until"),
        ({"until": True}, "until"),
        ({"quality": 1.5}, "quality"),
        ({"speedup": 0}, "speedup"),
        ({"profile": 3}, "profile"),
    ],
    ids=str,
)
def test_what_cannot_be(options: dict, words: str) -> None:
    with pytest.raises(KqoError, match=words):
        compiled(**options)


def test_positions_that_fill_no_grid() -> None:
    some = kqo.Occlusion(6, 2, positions=[(0, 0), (4, 8)])
    with pytest.raises(ArgumentError, match="grid"):
        compiled(some, step=3, share=0.1)
    with pytest.raises(ArgumentError, match="11"):
        compiled(kqo.Occlusion(6, 4), step=2, until=0.9)
    with pytest.raises(ArgumentError, match="grid"):
        compiled(some).run(image(), deadline=1.0)


def test_a_deadline_gives_the_best_that_fits(exact: kqo.api.CompiledPlan) -> None:
    truth = exact.run(image())
    hurried = exact.run(image(), deadline=1e-9)
    assert hurried.computed is not None and 0 < hurried.computed.sum() < 196
    assert np.isfinite(hurried.scores).all() and hurried.expected_quality is None
    assert np.allclose(hurried.scores[hurried.computed], truth.scores[hurried.computed], atol=1e-5)
    ample = exact.run(image(), deadline=60.0)
    assert ample.computed is not None and ample.computed.all() and ample.expected_quality == 1
    np.testing.assert_allclose(ample.scores, truth.scores, rtol=1e-5, atol=1e-6)
    both = exact.run(np.stack([image(), image(1)]), deadline=1e-9)
    assert both.computed is not None and both.computed.shape == (2, 196)
    assert both.computed.any(axis=1).all() and not both.computed.all(axis=1).any()
    with pytest.raises(ArgumentError, match="deadline"):
        exact.run(image(), deadline=0)


def test_a_deadline_is_kept_within_a_batch(monkeypatch) -> None:
    """Every batch takes 50 ms here, all of them 1.4 s, so that the clock decides."""
    plan = compiled(threads=1)
    plan.run(image())
    usual = plan.engine._run_group

    def slow(*given):
        time.sleep(0.05)
        usual(*given)

    monkeypatch.setattr(plan.engine, "_run_group", slow)
    result = plan.run(image(), deadline=0.3)
    assert result.computed is not None and 7 <= result.computed.sum() < 100


class Cut:
    """Presses Ctrl-C at the n-th batch that an engine runs."""

    def __init__(self, monkeypatch, plan: kqo.api.CompiledPlan) -> None:
        self.usual, self.count, self.last = plan.engine._run_group, 0, 0
        self.lock = threading.Lock()
        monkeypatch.setattr(plan.engine, "_run_group", self)

    def __call__(self, *given):
        with self.lock:
            self.count += 1
            if self.count == self.last:
                raise KeyboardInterrupt
        self.usual(*given)


def test_an_interruption_keeps_what_was_computed(monkeypatch) -> None:
    plan = compiled(step=2, share=0.5)
    truth = compiled().run(image())
    plan.run(image())
    cut = Cut(monkeypatch, plan)
    cut.last = 6
    with pytest.raises(kqo.Interrupted) as caught:
        plan.run(image())
    result = caught.value.result
    assert isinstance(caught.value, KeyboardInterrupt)
    assert result.computed is not None and 0 < result.computed.sum() < 49 + 74
    assert np.isfinite(result.scores).all()
    np.testing.assert_allclose(
        result.scores[result.computed], truth.scores[result.computed], rtol=1e-5, atol=1e-6
    )
    cut.count, cut.last = 0, 1
    with pytest.raises(KeyboardInterrupt) as nothing:
        plan.run(image())
    assert not isinstance(nothing.value, kqo.Interrupted)


def test_an_interruption_keeps_the_images_before(monkeypatch) -> None:
    plan = compiled(step=2, share=0.5, threads=1)
    first = plan.run(image(0))
    cut = Cut(monkeypatch, plan)
    plan.run(image(0))
    each = cut.count
    for last, images in ((each + 1, 1), (each + 4, 2)):  # nothing of the second image, and a part
        cut.count, cut.last = 0, last
        with pytest.raises(kqo.Interrupted) as caught:
            plan.run(np.stack([image(0), image(1), image(2)]))
        result = caught.value.result
        assert result.scores.shape[:2] == (images, 196)
        np.testing.assert_allclose(result.scores[0], first.scores, rtol=1e-5, atol=1e-6)


def test_verify_measures_the_error(exact: kqo.api.CompiledPlan) -> None:
    truth = exact.run(image()).heatmap().astype(float)
    plan = compiled(step=3, share=0.1)
    everything = plan.run(image(), verify=196)
    heat = everything.heatmap().astype(float)
    measured = everything.measured
    assert measured is not None and measured["samples"] == 196
    assert measured["max_error"] == pytest.approx(np.abs(heat - truth).max(), rel=1e-3)
    assert measured["mean_error"] == pytest.approx(np.abs(heat - truth).mean(), rel=1e-3)
    assert measured["range"] == pytest.approx(np.ptp(truth), rel=1e-3)
    assert 0.3 < measured["rank_correlation"] < 1
    (corner,) = sampled(plan, 196, np.random.default_rng(0))[1]
    window = np.s_[corner[0] : corner[0] + 11, corner[1] : corner[1] + 11]
    original = float(exact.run(image()).original.max())
    extent = float(max(np.ptp(heat), np.ptp(truth)))
    similar = window_ssim(original - heat[window], original - truth[window], extent)
    assert measured["ssim"] == pytest.approx(similar, abs=1e-3)
    few = plan.run(image(), verify=9).measured
    assert few is not None and few["samples"] == 9 and few["ssim"] is None
    assert exact.run(image(), verify=9).measured is None


def test_windows_of_the_sample_tell_the_similarity() -> None:
    """The mean over all windows is the similarity of the heatmap."""
    a, b = smooth(1, 20), smooth(2, 20)
    at = range(10)
    found = [
        window_ssim(a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11], float(np.ptp(b)))
        for y in at
        for x in at
    ]
    assert np.mean(found) == pytest.approx(ssim(a, b))


def test_explain_shows_the_stages() -> None:
    plan = compiled(step=3, share=0.25, until=0.7, approximations={"tau": 0.5})
    first, second, *rest = plan.explain().splitlines()
    assert first.startswith(
        "APPROXIMATE (ClipProjectiveField: tau = 0.5; drill-down: step = 3, share = 0.25, "
        "until = 0.7)"
    )
    assert "no bound" in second
    text = "\n".join(rest)
    assert "coarse:   Slice(queries, at: [y % 3 = 0 or y = 13, x % 3 = 0 or x = 13])" in text
    assert "Limit(AntiJoin(guess, coarse), order: score, rows: 40, until: SSIM 0.7)" in text
    assert "Overlay(base: guess, patch: Union(coarse, fine))" in text
    document = json.loads(plan.explain(format="json"))
    assert not document["exact"] and len(document["approximate_by"]) == 2
    assert [stage["queries"] for stage in document["stages"]] == [36, 0, 40, 0]
    assert 0 < document["stages"][0]["seconds"] < document["run"]["seconds"]

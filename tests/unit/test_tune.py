"""Tuning: settings measured on sample images, and plans that a profile chooses for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import kqo
from kqo.approximate import tune as tuning
from kqo.approximate.quality import ssim
from kqo.errors import ArgumentError, ProfileError
from kqo.profile import Point, Profile, Setting

ASKED = kqo.Occlusion(6, 2)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 15 * 15, 5)).eval()


def compiled(net: nn.Module | None = None, workload=ASKED, **options) -> kqo.api.CompiledPlan:
    given = kqo.Options(**{"batch": 49, "threads": 1, "progress": False, **options})
    return kqo.compile(net or model(), (torch.zeros(1, 3, 32, 32),), workload, given)


def image(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((3, 32, 32))
    return gaussian_filter(values, (0, 2, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def exact() -> kqo.api.CompiledPlan:
    return compiled()


@pytest.fixture(scope="module")
def profile(exact: kqo.api.CompiledPlan) -> Profile:
    """A profile where the exact plan takes a second, and a query its share of it."""
    done = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tuning.statistics, "median", lambda times: 1.0 if min(times) > 0 else 0.0)
        patched.setattr(tuning._Tuner, "_line", lambda self, made: (0.0, self.exact_seconds / 196))
        found = exact.tune([image(n) for n in range(5)], progress=lambda n, total: done.append(n))
    assert done == sorted(done) and done[-1] == 4 * 5 * 196
    return found


@pytest.fixture(scope="module")
def known(profile: Profile) -> Profile:
    """The profile with points that do not hang on the clock."""
    drilled = Point(Setting(0.8, 3, 0.5, 0.9), (0.95, 0.951, 0.952, 0.953, 0.954), 3.0, 80.0)
    return replace(profile, points=(profile.points[0], drilled))


def test_the_front_holds_exact_and_what_nothing_beats(profile: Profile) -> None:
    assert profile.points[0].setting == Setting() and profile.points[0].quality == 1
    assert profile.images == 5 and profile.grid == (14, 14) and len(profile.points) > 1
    for one in profile.points:
        for other in profile.points:
            assert not (other.quality > one.quality and other.speedup > one.speedup)
    assert min(point.queries for point in profile.points) < 100


def test_a_drill_down_is_priced_by_its_queries(exact: kqo.api.CompiledPlan) -> None:
    profile = exact.tune([image(n) for n in range(3)])
    assert profile.points[0].speedup == 1
    assert all(point.speedup > 0 for point in profile.points)


def test_what_was_measured_is_what_a_plan_gives(exact: kqo.api.CompiledPlan, monkeypatch) -> None:
    """Drill-downs are not run by the tuner, which works out what they would give."""
    points: list[Point] = []

    def kept(found):
        points.extend(found)
        return tuple(found)

    monkeypatch.setattr(tuning, "front", kept)
    monkeypatch.setattr(tuning, "TAUS", (0.6,))
    exact.tune([image(n) for n in range(4)])
    score, error = len(tuning.STEPS["score"]), len(tuning.STEPS["error"])
    looked = (score + error) * len(tuning.PARTS) + error * len(tuning.UNTILS)
    assert len(points) == 2 * (1 + looked)
    for point in (points[4], points[15], points[31], points[100], points[120], points[-6]):
        setting = point.setting
        plan = exact.approximated(
            tau=setting.tau,
            threshold=setting.threshold,
            step=setting.step,
            share=setting.share,
            until=setting.until,
            order=setting.order,
        )
        for number in (0, 3):
            truth = exact.run(image(number)).drops().reshape(14, 14)
            result = plan.run(image(number))
            found = ssim(result.drops().reshape(14, 14), truth)
            assert found == pytest.approx(point.similarities[number], abs=1e-3)


def test_a_quality_chooses_the_parameters(exact: kqo.api.CompiledPlan, known: Profile) -> None:
    plan = exact.approximated(profile=known, quality=0.9)
    assert plan.expected is not None and plan.expected.quality >= 0.9
    wanted = Setting(0.8, 3, 0.5, 0.9)
    chosen = plan.options
    assert Setting(chosen.tau, chosen.step, chosen.share, chosen.until) == wanted
    assert plan.options.profile is None and plan.options.quality is None
    assert plan.run(image(9)).expected_quality == plan.expected.quality
    assert plan.run(image(9), deadline=60).expected_quality is None
    assert str(plan.expected) in plan.explain()
    neutral = exact.approximated(profile=known, quality=1.0)
    assert not neutral.options.approximates and neutral.run(image(9)).expected_quality == 1
    fast = exact.approximated(profile=known, speedup=2)
    assert fast.expected is not None and fast.expected.speedup == 3


def test_a_plan_file_keeps_what_is_expected(
    exact: kqo.api.CompiledPlan, known: Profile, tmp_path
) -> None:
    known.save(tmp_path / "p.json")
    plan = compiled(profile=str(tmp_path / "p.json"), quality=0.9)
    plan.save(tmp_path / "p.kqo")
    loaded = kqo.load(tmp_path / "p.kqo")
    assert loaded.expected == plan.expected != None  # noqa: E711
    assert loaded.options.step == plan.options.step
    assert loaded.approximated(profile=known, quality=0.9).expected == plan.expected


def test_profiles_of_others_are_refused(known: Profile) -> None:
    with pytest.raises(ProfileError, match="another model"):
        compiled(model(1), profile=known, quality=0.9)
    with pytest.raises(ProfileError, match=r"another workload .fill differs"):
        compiled(workload=kqo.Occlusion(6, 2, fill=0.5), profile=known, quality=0.9)


def test_what_contradicts_a_profile(exact: kqo.api.CompiledPlan, known: Profile) -> None:
    with pytest.raises(ArgumentError, match="neither quality nor speedup"):
        exact.approximated(profile=known)
    with pytest.raises(ArgumentError, match="one of them"):
        exact.approximated(profile=known, quality=0.9, speedup=2)
    with pytest.raises(ArgumentError, match="profile chooses"):
        exact.approximated(profile=known, quality=0.9, tau=0.5)
    with pytest.raises(ArgumentError, match=r"speedup: got 1000.*SSIM"):
        exact.approximated(profile=known, speedup=1000)


def test_a_short_budget_leaves_out_images_and_settings(exact: kqo.api.CompiledPlan) -> None:
    found = exact.tune([image(n) for n in range(50)], seconds=0.05)
    assert found.images < 50
    assert {point.setting.tau for point in found.points} == {1.0}


def test_the_front() -> None:
    def point(setting: Setting, quality: float, speedup: float) -> Point:
        return Point(setting, (quality,) * 19, speedup, 1.0)

    exact = point(Setting(), 1.0, 1.0)
    good, slow = point(Setting(0.5), 0.95, 3.0), point(Setting(0.6), 0.9, 2.0)
    fast, same = point(Setting(0.4), 0.7, 9.0), point(Setting(0.7), 0.95, 2.5)
    assert tuning.front([slow, fast, same, exact, good]) == (exact, good, fast)
    quicker, slower = point(Setting(0.9), 1.0, 1.1), point(Setting(0.8), 1.0, 0.9)
    assert tuning.front([quicker, slower, exact]) == (exact, quicker)


@pytest.mark.parametrize(
    ("images", "seconds", "words"),
    [([], None, "at least one"), ([image(0)], 0, "seconds"), ([image(0) * np.nan], None, "finite")],
)
def test_what_cannot_be_tuned(exact: kqo.api.CompiledPlan, images, seconds, words) -> None:
    with pytest.raises(ArgumentError, match=words):
        exact.tune(images, seconds=seconds)


def test_heatmaps_that_are_too_small_to_compare() -> None:
    with pytest.raises(ArgumentError, match="11"):
        compiled(workload=kqo.Occlusion(6, 4)).tune([image(0)])


def test_thresholds_are_looked_at_where_there_are_stages(
    exact: kqo.api.CompiledPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: list[Point] = []
    monkeypatch.setattr(tuning, "front", lambda found: points.extend(found) or tuple(found))
    monkeypatch.setattr(tuning, "TAUS", (0.9,))
    monkeypatch.setattr(tuning, "THRESHOLDS", (0.001, 0.002))
    exact.tune([image(0)])
    assert {point.setting.threshold for point in points} == {0.0}
    points.clear()
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten()]
    torch.manual_seed(0)
    pooled = compiled(nn.Sequential(*layers, nn.Linear(4 * 169, 3)).eval())
    found = pooled.tune([image(n) for n in range(2)])
    cuts = {(point.setting.tau, point.setting.threshold) for point in points}
    assert {(1.0, 0.0), (1.0, 0.001), (1.0, 0.002), (0.9, 0.0)} <= cuts
    # Where tau does little harm it is tried with both thresholds.
    whole = [p for p in points if p.setting == Setting(0.9)]
    both = {(0.9, 0.001), (0.9, 0.002)}
    assert (both <= cuts) == (min(whole[0].similarities) >= tuning.HARMLESS)
    point = next(p for p in points if p.setting == Setting(threshold=0.002, step=2, share=0.0))
    plan = pooled.approximated(threshold=0.002, step=2, share=0.0)
    truth = pooled.run(image(1)).drops().reshape(14, 14)
    similar = ssim(plan.run(image(1)).drops().reshape(14, 14), truth)
    assert similar == pytest.approx(point.similarities[1], abs=1e-3)
    assert Profile.from_dict(found.to_dict()) == found

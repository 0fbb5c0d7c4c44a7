"""Profiles: what is promised of them, their files, and choosing among their points."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kqo.errors import ArgumentError, ProfileError
from kqo.options import Options
from kqo.profile import Point, Profile, Setting, reached

POINTS = (
    Point(Setting(), (1.0, 1.0), 1.0, 100.0),
    Point(Setting(tau=0.5), (0.97, 0.99), 1.5, 100.0),
    Point(Setting(step=3, until=0.8), (0.8, 0.9), 4.0, 30.0),
)
WORKLOAD = {"kind": "occlusion", "window": 6, "stride": (2, 2)}


def profile(**changed: object) -> Profile:
    given = {"model": "m", "digest": "d", "workload": WORKLOAD, "grid": (14, 14), "images": 2}
    return Profile(**{**given, "seconds": 1.0, "points": POINTS, **changed})


@pytest.mark.parametrize("count", [4, 8, 12, 19, 40])
def test_what_is_promised_is_kept_on_other_images(count: int) -> None:
    """On 95 % of images drawn from the same distribution, within chance, for two of them."""
    generator = np.random.default_rng(count)
    for draw in (
        lambda n: 1 - np.exp(generator.normal(-3, 0.7, n)),
        lambda n: generator.beta(20, 2, n),
    ):
        kept = [(draw(20) >= reached(tuple(draw(count)))).mean() for _ in range(300)]
        assert np.mean(kept) > 0.92


def test_promises_are_not_made_of_nothing() -> None:
    assert reached((1.0, 1.0, 1.0)) == 1.0
    assert reached((0.9,)) == 0.9
    assert reached((0.9, 0.95)) < 0.9
    assert reached((0.9,) * 30) == 0.9
    one = (*np.linspace(0.94, 0.95, 18), 0.5)  # lower than any fit would have it
    assert reached(one) == pytest.approx(0.5) and reached((*one[:-1], 0.8)) == pytest.approx(0.8)
    assert reached(tuple(np.linspace(0.5, 0.9, 19))) < 0.5
    assert -1 <= reached((0.1, -0.9, 0.5)) < -0.5


def test_the_fastest_of_many_keeps_its_promise() -> None:
    """Of settings that are slower the better they are, each with luck of its own."""
    kept = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        hard = generator.normal(0, 0.5, 220)  # an image is hard or easy for all settings alike
        logs = np.linspace(1.5, 4, 60)[:, None] + hard + generator.normal(0, 0.3, (60, 220))
        found = 1 - np.exp(-logs)
        first = next(s for s in found if reached(tuple(s[:20])) >= 0.8)
        kept.append((first[20:] >= 0.8).mean())
    assert np.mean(kept) > 0.93 and np.mean(np.array(kept) >= 0.9) > 0.85


def test_files(tmp_path) -> None:
    path = tmp_path / "p.json"
    profile().save(path)
    assert Profile.load(path).to_dict() == json.loads(json.dumps(profile().to_dict())) | {
        "grid": (14, 14),
        "points": Profile.load(path).to_dict()["points"],
    }
    assert Profile.load(path).points == POINTS
    assert isinstance(Options(profile=path, quality=0.9).profile, Profile)
    again = Options.from_dict(json.loads(json.dumps(Options(profile=path, quality=0.9).to_dict())))
    assert again.profile is not None and again.profile.points == POINTS


def damaged(path: str, value: object) -> dict:
    found = json.loads(json.dumps(profile().to_dict()))
    *way, last = path.split(".")
    at = found
    for name in way:
        at = at[int(name)] if isinstance(at, list) else at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", "other", "not a profile"),
        ("version", 1, "version 1; this kqo reads version 3"),
        ("points", [], "damaged"),
        ("points", None, "damaged"),
        ("points", "text", "damaged"),
        ("points.0.setting", {}, "damaged"),
        ("points.0.setting.tau", 2, "damaged"),
        ("points.0.setting.step", 1.5, "damaged"),
        ("points.0.setting.extra", 1, "damaged"),
        ("points.0.similarities", [1.0], "damaged"),
        ("points.0.similarities", [1.0, 7], "damaged"),
        ("points.1.speedup", -1, "damaged"),
        ("points.1.speedup", "fast", "damaged"),
        ("images", 3, "damaged"),
        ("images", 0, "damaged"),
        ("model", 3, "damaged"),
        ("model", "a\nb", "damaged"),
        ("workload", [], "damaged"),
        ("machine", {"a": 1}, "damaged"),
    ],
)
def test_damaged_profiles_are_refused(tmp_path, path: str, value: object, words: str) -> None:
    with pytest.raises(ProfileError, match=words):
        Profile.from_dict(damaged(path, value))
    file = tmp_path / "p.json"
    file.write_text(json.dumps(damaged(path, value)))
    with pytest.raises(ProfileError, match=rf"p\.json: .*{words}"):
        Options(profile=file, quality=0.9)


def test_files_that_are_none(tmp_path) -> None:
    with pytest.raises(ProfileError, match="kqo tune"):
        Profile.load(tmp_path / "nowhere.json")
    for text in ("", "[" * 100_000, "[1]", '{"a": 1'):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(ProfileError, match="not a profile"):
            Profile.load(tmp_path / "p.json")


def test_choosing() -> None:
    found = profile(
        images=19,
        points=tuple(
            Point(p.setting, p.similarities[:1] * 19, p.speedup, p.queries) for p in POINTS
        ),
    )
    assert found.for_quality(0.98).setting == Setting()
    assert found.for_quality(0.9).setting == Setting(tau=0.5)
    assert found.for_quality(0.5).setting == POINTS[2].setting
    assert found.for_speedup(1.2).setting == Setting(tau=0.5)
    assert found.for_speedup(0.5).setting == Setting()
    with pytest.raises(ArgumentError, match=r"at most 4\.0, with step = 3, until = 0.8"):
        found.for_speedup(5)
    worse = profile(points=POINTS[2:])
    with pytest.raises(ArgumentError, match=r"quality: got 0\.9; accepted: at most"):
        worse.for_quality(0.9)


def test_another_model_or_workload() -> None:
    found = profile()
    found.check("d", {**WORKLOAD})
    with pytest.raises(ProfileError, match="another model, m"):
        found.check("e", WORKLOAD)
    with pytest.raises(ProfileError, match="stride differs"):
        found.check("d", {**WORKLOAD, "stride": (3, 3)})

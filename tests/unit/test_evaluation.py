"""The evaluation of approximate plans, on a coarse grid."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import kqo
from kqo import profile as kqo_profile
from kqo.approximate import tune
from kqo.approximate.quality import ssim
from kqo.bench.evaluation import settings
from kqo.bench.evaluation.measure import measure
from kqo.bench.evaluation.plots import pareto
from kqo.bench.evaluation.records import (
    Evaluation,
    Record,
    Setting,
    table,
    tuned,
    tuned_settings,
    tuned_table,
)
from kqo.bench.evaluation.run import Asked
from kqo.bench.evaluation.settings import EXACT
from kqo.bench.tasks.networks import build, load_network, save_network
from kqo.bench.tasks.task import TASKS
from kqo.cli import app
from kqo.errors import ArgumentError
from kqo.profile import Point, Profile

TAU = Setting("tau 0.3", "tau", {"approximations": {"tau": 0.3}}, 0.3)
NEUTRAL = Setting("tau 1", "tau", {"approximations": {"tau": 1.0}}, 1.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    found = build("resnet18", 4).eval()
    for name, value in found.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return found


@pytest.fixture(scope="module")
def measured(model):
    return measure(
        TASKS["surface"],
        "resnet18",
        model,
        (EXACT, NEUTRAL, TAU),
        (0, 1),
        stride=20,
        threads=1,
        dense_images=8,
        batches=(8,),
    )


def test_exact_and_neutral_settings_have_perfect_quality(measured):
    exact, neutral, tau = measured.evaluation.summaries()
    assert measured.evaluation.error < 1e-5
    assert measured.evaluation.positions == 144
    assert exact.ssim == exact.rank == exact.met == 1
    assert neutral.worst_ssim > 0.9999
    assert tau.ssim < neutral.ssim - 0.01


def test_drops_are_those_of_pytorch(measured, model):
    """One window hidden by hand."""
    task = TASKS["surface"]
    image = torch.from_numpy(task.preprocess(measured.samples[1].image))
    hidden = image.clone()
    hidden[:, :, 40:56, 100:116] = 0
    with torch.inference_mode():
        scores, changed = model(image)[0], model(hidden)[0]
    best = int(scores.argmax())
    drop = measured.drops["exact"][1]
    assert drop.shape == (12, 12)
    assert drop[2, 5] == pytest.approx(float(scores[best] - changed[best]), abs=1e-4)


def test_drill_downs_ask_less(model):
    found = measure(
        TASKS["surface"],
        "resnet18",
        model,
        (EXACT, Setting("drill", "r", {"step": 2, "share": 0.25})),
        (1,),
        stride=20,
        threads=1,
        dense_images=8,
        batches=(8,),
    )
    exact, drilled = found.evaluation.summaries()
    # 12 positions, every second one and the last: 7 along each axis; a quarter of the other 95.
    assert (exact.queries, drilled.queries) == (144, 49 + 24)
    assert drilled.ssim < 1
    truth, drop = found.drops["exact"][0], found.drops["drill"][0]
    assert drop[2, 11] == pytest.approx(truth[2, 11], abs=1e-4)


def test_pointing_counts_images_with_an_object_only(measured):
    records = [r for r in measured.evaluation.records if r.setting == "exact"]
    assert [r.pointing is None for r in records] == [True, False]


def record(setting, similarity, seconds, pointing=None):
    return Record(setting, 0, True, similarity, 0.5, pointing, seconds, 500)


def test_summaries():
    records = (
        record("exact", 1.0, 2.0, True),
        record("exact", 1.0, 4.0),
        record("tau 0.3", 0.95, 1.0, True),
        record("tau 0.3", 0.85, 1.0, False),
    )
    found = Evaluation("t", "n", 1.0, 0.9, 1000, 30.0, 8, 0.0, (EXACT, TAU), records)
    exact, tau = found.summaries()
    assert (exact.ms, exact.speedup, exact.pointing) == (3.0, 10.0, 1.0)
    assert (tau.ssim, tau.worst_ssim, tau.met) == (pytest.approx(0.9), 0.85, 0.5)
    assert (tau.speedup, tau.pointing) == (30.0, 0.5)
    without = record("tau 0.3", 0.2, 1.0)
    assert replace(found, records=(*records, without)).summaries()[1].worst_ssim == 0.2
    assert replace(found, records=(*records, without)).summaries()[1].worst_object_ssim == 0.85
    assert found.family("tau") == [tau]
    assert (
        "| tau 0.3 | 0.900 | 0.850 | 0.900 | 0.850 | 50% | 0.500 | 50% | 500 | 1.000 | 30.0x |"
        in table([exact, tau])
    )
    (alone,) = replace(found, settings=(TAU,), records=(without,)).summaries()
    assert "| 0.200 | 0.200 | – | – | 0% | 0.500 | – | 500 |" in table([alone])


def test_tuned_settings_are_looked_at_on_other_images():
    points = (
        Point(kqo_profile.Setting(), (1.0,) * 19, 1.0, 1000.0),
        Point(kqo_profile.Setting(0.5, 3, 1.0, 0.7), (0.85,) * 19, 4.0, 300.0),
    )
    profile = Profile("n", "d", {}, (12, 12), 19, 1.0, points)
    chosen = tuned_settings(profile, (0.8, 0.9))
    assert [s.value for s in chosen] == [0.8, 0.9]
    assert kqo.Options(**chosen[0].options).drills and not kqo.Options(**chosen[1].options).drills
    records = [record(s.name, value, 1.0) for s in chosen for value in (0.7, 0.9)]
    found = Evaluation("t", "n", 1.0, 0.9, 1000, 30.0, 8, 0.0, tuple(chosen), tuple(records))
    good, better = tuned(profile, found)
    assert (good.quality, good.expected, good.met, good.summary.worst_ssim) == (0.8, 0.85, 0.5, 0.7)
    assert better.expected == 1
    line = "| 0.8 | tau = 0.5, step = 3, until = 0.7 | 50% | 0.800 | 0.700 | 500 | 30.0x |"
    assert line in tuned_table([good, better])


def test_the_front_holds_what_nothing_beats(measured):
    base = measured.evaluation.summaries()[0]
    points = [(0.99, 1.0), (0.95, 3.0), (0.9, 2.0), (0.95, 2.5), (0.7, 9.0)]
    given = [replace(base, ssim=q, speedup=s) for q, s in points]
    assert [(s.ssim, s.speedup) for s in pareto(given)] == [points[0], points[1], points[4]]


def test_the_command_writes_tables_and_plots(model, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "TAUS", (1.0, 0.5))
    monkeypatch.setattr(settings, "THRESHOLDS", (0.2,))
    monkeypatch.setattr(tune, "TAUS", (0.5,))
    monkeypatch.setattr(tune, "THRESHOLDS", (0.1,))
    save_network(model, TASKS["surface"], "resnet18", tmp_path / "weights")
    arguments = (
        f"evaluate -o {tmp_path / 'out'} --task surface --network resnet18 --family tau"
        f" --family threshold --quick --images 2 --samples 1 --dense-images 4 --stride 20"
        f" --threads 1"
        f" --weights {tmp_path / 'weights'}"
    )
    done = CliRunner().invoke(app, arguments.split(), catch_exceptions=False)
    assert done.exit_code == 0 and "tau 0.5: SSIM" in done.output
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert (
        "2 held-out images" in text
        and "Tuned on training images" in text
        and "| tau 0.5 |" in text
        and "| threshold 0.2 |" in text
        and "for SSIM 0.9" in text
    )
    values = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert len(values["evaluations"][0]["records"]) == 2 * (4 + 3)
    assert (tmp_path / "out" / "profile_surface_resnet18.json").exists()
    assert [one["quality"] for one in values["tuned"]] == [0.8, 0.9, 0.95]
    for name in ("tau", "threshold", "quality_and_speed", "heatmaps_surface_resnet18"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_names_that_there_are_not():
    with pytest.raises(ArgumentError, match="surface, photographs"):
        Asked(tasks=("faces",))
    with pytest.raises(ArgumentError, match="family"):
        Asked(families=("magic",))


@pytest.mark.slow
def test_surfaces_keep_their_quality_with_all_approximations_together():
    """What the trained VGG16 reaches on images that no tuning has seen, at Krypton's patch and
    stride: the setting of docs/evaluation.md, by a plan that runs."""
    task = TASKS["surface"]
    images = [task.preprocess(task.generate(s, held_out=True).image)[0] for s in range(40, 48)]
    exact = kqo.compile(
        load_network(task, "vgg16"),
        (torch.zeros((1, *images[0].shape)),),
        kqo.Occlusion(16, 4),
        kqo.Options(progress=False, reinference="never"),
    )
    plan = exact.approximated(step=4, until=0.88, order="error", tau=0.5, threshold=0.2)
    found = []
    for image in images:
        truth = exact.run(image)
        target = int(truth.predicted())
        result = plan.run(image)
        found.append(ssim(tune.drops(result, target), tune.drops(truth, target)))
    assert np.mean(found) >= 0.9 and min(found) >= 0.8

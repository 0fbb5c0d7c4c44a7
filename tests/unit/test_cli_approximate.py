"""Approximate answers from the command line: tune, run and refine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kqo
from kqo.__main__ import main
from kqo.interop.images import load_image
from kqo.profile import Point, Setting
from tests.unit.test_cli import ROOT, fails

SMALL = ("tests.unit.test_cli:Small", "--input-size", "32", "--window", "6", "--stride", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A plan file, and pictures to run it on."""
    folder = tmp_path_factory.mktemp("approximate")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    assert main(["compile", *SMALL, "-o", str(folder / "small.kqo")]) == 0
    return folder


def picture(path: Path) -> bool:
    with Image.open(path) as found:
        return bool(np.asarray(found.convert("L")).std() > 5)


def test_tune_and_run_by_quality(capsys, folder: Path, tmp_path) -> None:
    profile = tmp_path / "profile.json"
    images = [str(folder / f"{seed}.png") for seed in range(3)]
    plan = str(folder / "small.kqo")
    assert main(["tune", plan, *images, "--out", str(profile)]) == 0
    said = capsys.readouterr().out
    assert "exact" in said and "3 images" in said
    # Which setting is the fastest is for the clock to say; this one is to be chosen here.
    measured = kqo.Profile.load(profile)
    point = Point(Setting(step=3, share=0.25), (0.7, 0.6, 0.8), 3.0, 76.0)
    replace(measured, points=(measured.points[0], point)).save(profile)
    asked = ["--profile", str(profile), "--speedup", "2"]
    assert main(["run", plan, images[0], "-o", str(tmp_path), *asked, "--verify", "196"]) == 0
    said = capsys.readouterr().out
    assert "76 of 196 positions computed" in said and "expected SSIM" in said
    assert "measured at 196 positions" in said
    (found,) = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert found["expected_quality"] == pytest.approx(point.quality)
    assert found["measured"]["samples"] == 196


def test_tune_looks_for_approximations_itself(capsys, folder: Path, tmp_path) -> None:
    out = tmp_path / "p.json"
    said = fails(capsys, "tune", *SMALL, folder / "0.png", "--out", out, "--step", "3")
    assert "step: got 3" in said and not out.exists()
    said = fails(capsys, "tune", folder / "small.kqo", folder / "0.png", "-o", out, "--stride", "3")
    assert "stride" in said


def test_run_by_step_and_share(capsys, folder: Path, tmp_path) -> None:
    plan, image = folder / "small.kqo", folder / "0.png"
    given = ["--step", "3", "--share", "0.25", "--class", "1"]
    assert main(["run", str(plan), str(image), "-o", str(tmp_path), *given]) == 0
    assert "76 of 196 positions computed" in capsys.readouterr().out
    computed = np.load(tmp_path / "0.npz")["computed"]
    loaded = kqo.load(plan).approximated(step=3, share=0.25)
    values = load_image(image, loaded.preprocess)
    assert np.array_equal(computed, loaded.run(values, target=1).computed)
    assert picture(tmp_path / "0.png")
    assert "speedup" in fails(capsys, "run", plan, image, "-o", tmp_path, "--speedup", "9")
    assert "profile" in fails(capsys, "run", plan, image, "-o", tmp_path, "--profile", plan)


def test_run_and_refine_by_a_deadline(capsys, folder: Path, tmp_path) -> None:
    plan, image = str(folder / "small.kqo"), str(folder / "1.png")
    assert main(["run", plan, image, "-o", str(tmp_path), "--deadline", "60"]) == 0
    assert "196 of 196 positions" in capsys.readouterr().out
    whole = np.load(tmp_path / "1.npz")["scores"]
    assert main(["refine", plan, image, "-o", str(tmp_path), "--step", "3"]) == 0
    captured = capsys.readouterr()
    assert "196 of 196 positions" in captured.out and "of 196 cells" in captured.err
    found = np.load(tmp_path / "1.npz")
    assert found["known"].all() and picture(tmp_path / "1.png")
    scores = whole[:, int(found["target"])].reshape(14, 14)
    np.testing.assert_allclose(found["heatmap"], scores, rtol=1e-4, atol=1e-5)


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
from kqo.runtime.engine import Engine
usual = Engine._run_group
def slow(*given):
    time.sleep(0.2)
    usual(*given)
Engine._run_group = slow
from kqo.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def interrupted(*arguments: str, when) -> subprocess.CompletedProcess[str]:
    """Run a command whose batches take their time, and press Ctrl-C once ``when`` holds."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    seen = ""
    while not when(seen):
        line = process.stderr.readline()
        assert line, f"ended early: {seen}"
        seen += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, seen + err)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_an_interrupted_refine_keeps_its_heatmap(folder: Path, tmp_path) -> None:
    plan = tmp_path / "few.kqo"
    assert main(["compile", *SMALL, "--batch", "8", "--threads", "1", "-o", str(plan)]) == 0
    began = time.perf_counter()
    given = ("refine", str(plan), str(folder / "2.png"), "-o", str(tmp_path))
    found = interrupted(*given, when=lambda seen: seen.count("cells") >= 3)
    assert found.returncode == 130 and time.perf_counter() - began < 60
    assert "interrupted: the best heatmap so far was kept" in found.stdout
    assert found.stderr.splitlines()[-1] == "kqo: error: interrupted"
    kept = np.load(tmp_path / "2.npz")
    assert 16 <= kept["known"].sum() < 196 and np.isfinite(kept["heatmap"]).all()
    assert picture(tmp_path / "2.png")
    exact = kqo.load(plan)
    heat = exact.run(load_image(folder / "2.png", exact.preprocess)).heatmap(int(kept["target"]))
    np.testing.assert_allclose(
        kept["heatmap"][kept["known"]], heat[kept["known"]], rtol=1e-4, atol=1e-5
    )


def test_an_interrupted_run_keeps_what_it_has(monkeypatch, capsys, folder: Path, tmp_path) -> None:
    """The second image is cut short: it is kept as far as it came, and the third is not begun."""
    from kqo.runtime.engine import Engine

    plan = tmp_path / "few.kqo"
    given = ("--batch", "8", "--threads", "1", "--step", "2", "--share", "0.5")
    assert main(["compile", *SMALL, *given, "-o", str(plan)]) == 0
    usual, count, last = Engine._run_group, 0, 0

    def cut(*given):
        nonlocal count
        count += 1
        if count == last:
            raise KeyboardInterrupt
        usual(*given)

    monkeypatch.setattr(Engine, "_run_group", cut)
    images = [str(folder / f"{seed}.png") for seed in range(3)]
    assert main(["run", str(plan), images[0], "-o", str(tmp_path)]) == 0
    count, last = 0, count + count // 2
    capsys.readouterr()
    assert main(["run", str(plan), *images, "-o", str(tmp_path)]) == 130
    said = capsys.readouterr().out
    assert "interrupted: 2 of 3 images" in said
    first, second = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert second["asked"][0] < first["asked"][0]
    assert picture(tmp_path / "1.png") and not (tmp_path / "2.png").exists()

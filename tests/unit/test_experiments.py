"""Krypton's experiments: all series, tables and plots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from kqo.__main__ import main
from kqo.bench.experiments import run_experiments, write


def make() -> nn.Module:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *head).eval()


def test_all_series_are_measured_and_written(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    told: list[str] = []
    found = run_experiments(
        make(), image, "toy", batches=(1, 2), repeats=1, counts=(1, 4, 1000), note=told.append
    )
    # Windows of 64 pixels and 1,000 positions there are not.
    assert [(e.series, e.value) for e in found] == [
        ("end to end", 16),
        *(("patch size", p) for p in (4, 8, 16, 32)),
        *(("positions", c) for c in (1, 4)),
    ]
    assert len(told) == len(found)
    assert all(e.report.error < 1e-5 for e in found)
    assert found[-2].report.positions == 1 and found[0].report.positions == 25
    bounds = [e.report.bound for e in found if e.series == "patch size"]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > 2

    figures, tables, plot = write(found, "toy", tmp_path / "out")
    assert [e["series"] for e in json.loads(figures.read_text())] == [e.series for e in found]
    text = tables.read_text()
    assert "## Patch size" in text and "## Positions" in text and "PyTorch" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    with Image.open(plot) as drawn:
        assert drawn.size[0] > 600


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("")
    assert main(["bench", "vgg16", "--experiments", str(path)]) == 2

"""The whole evaluation: tasks, networks and settings in, tables and plots in a folder out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kqo.bench.evaluation import plots
from kqo.bench.evaluation.measure import Measured, measure
from kqo.bench.evaluation.records import Evaluation, table
from kqo.bench.evaluation.settings import AXES, EXACT, FAMILIES, settings
from kqo.bench.report import machine
from kqo.bench.tasks.networks import NETWORKS, WEIGHTS, load_network, widened
from kqo.bench.tasks.task import TASKS, task_named
from kqo.errors import ArgumentError


@dataclass(frozen=True)
class Asked:
    """What to evaluate.

    Attributes:
        tasks: names of the tasks.
        networks: names of the networks.
        families: names of the ablations.
        images: held-out images for each network.
        wide_images: held-out images on which the same is timed at full width; 0 for none.
        window: side of the windows in pixels.
        stride: step between windows in pixels.
        quality: the similarity that counts as met.
        threads: of plans and of PyTorch. None: their own choice.
        weights: folder of the trained weights.

    Raises:
        ArgumentError: a name or a number that is not accepted.
    """

    tasks: Sequence[str] = tuple(TASKS)
    networks: Sequence[str] = NETWORKS
    families: Sequence[str] = tuple(FAMILIES)
    images: int = 16
    wide_images: int = 1
    window: int = 16
    stride: int = 4
    quality: float = 0.9
    threads: int | None = None
    weights: Path = WEIGHTS

    def __post_init__(self) -> None:
        for name, given, known in (
            ("task", self.tasks, TASKS),
            ("network", self.networks, NETWORKS),
            ("family", self.families, FAMILIES),
        ):
            for value in given:
                if value not in known:
                    raise ArgumentError(name, repr(value), ", ".join(known))
        if self.images < 1 or self.wide_images < 0:
            given_images = f"{self.images} and {self.wide_images}"
            raise ArgumentError("images", given_images, "at least 1, of full width at least 0")


def evaluate(
    asked: Asked, folder: Path, report: Callable[[str], None] = lambda line: None
) -> list[Evaluation]:
    """Measure, and write ``results.json``, ``results.md``, plots and heatmaps into a folder.

    Args:
        asked: what to evaluate.
        folder: made if it is not there.
        report: called with a line whenever something is done.

    Returns:
        One evaluation per task and network, and after them those of full width.
    """
    folder.mkdir(parents=True, exist_ok=True)
    narrow: list[Evaluation] = []
    wide: list[Evaluation] = []
    for name in asked.tasks:
        for network in asked.networks:
            found = _measure(asked, name, network, False, report)
            narrow.append(found.evaluation)
            _draw_heatmaps(asked, found, folder / f"heatmaps_{name}_{network}.png")
            if asked.wide_images:
                wide.append(_measure(asked, name, network, True, report).evaluation)
            _write(narrow, wide, folder)  # after each network: a run that is cut off keeps these
    for family in (f for f in asked.families if f in AXES):
        plots.ablation(
            narrow, family, AXES[family], folder / f"{family}.png", falling=family == "tau"
        )
    plots.quality_and_speed(wide or narrow, folder / "quality_and_speed.png")
    return [*narrow, *wide]


def _measure(
    asked: Asked, name: str, network: str, wide: bool, report: Callable[[str], None]
) -> Measured:
    task = task_named(name)
    model = load_network(task, network, asked.weights)
    label = f"{network}, full width" if wide else network
    report(f"{label}, {name}")
    return measure(
        task,
        label,
        widened(model, network) if wide else model,
        settings(tuple(asked.families)),
        range(asked.wide_images if wide else asked.images),
        window=asked.window,
        stride=asked.stride,
        quality=asked.quality,
        threads=asked.threads,
        report=report,
    )


def _draw_heatmaps(asked: Asked, found: Measured, path: Path) -> None:
    """One image of each class: exact, beside the fastest good setting of each family.

    Where no setting of a family meets the quality, its best one.
    """
    rows = {sample.label: row for row, sample in reversed(list(enumerate(found.samples)))}
    names = [EXACT.name]
    for family in asked.families:
        members = found.evaluation.family(family)
        good = [s for s in members if s.ssim >= asked.quality]
        best = max(good, key=lambda s: s.speedup) if good else max(members, key=lambda s: s.ssim)
        names.append(best.setting.name)
    plots.side_by_side(
        found,
        list(dict.fromkeys(names)),
        [rows[label] for label in sorted(rows)],
        path,
        window=asked.window,
        stride=asked.stride,
    )


def _write(narrow: Sequence[Evaluation], wide: Sequence[Evaluation], folder: Path) -> None:
    about = machine()
    parts = [
        "# Evaluation of approximate plans\n\n",
        ", ".join(f"{name} {value}" for name, value in about.items()) + "\n",
    ]
    for evaluation in (*narrow, *wide):
        images = len({record.seed for record in evaluation.records})
        parts.append(
            f"\n## {evaluation.network}, {evaluation.task}\n\n{images} held-out images, accuracy"
            f" {evaluation.accuracy:.0%}; {evaluation.positions} positions; PyTorch"
            f" {evaluation.dense_ms:.2f} ms per position at batch {evaluation.dense_batch}; exact"
            f" heatmaps differ from it by {evaluation.error:.1e} of the largest output; met: SSIM"
            f" of at least {evaluation.quality:g}.\n\n{table(evaluation.summaries())}"
        )
    (folder / "results.md").write_text("".join(parts), encoding="utf-8")
    values = {"machine": about, "evaluations": [e.to_dict() for e in (*narrow, *wide)]}
    (folder / "results.json").write_text(json.dumps(values, indent=1), encoding="utf-8")

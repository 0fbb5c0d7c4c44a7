"""The whole evaluation: tasks, networks and settings in, tables and plots in a folder out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import kqo
from kqo.bench.evaluation import plots
from kqo.bench.evaluation.measure import Measured, measure
from kqo.bench.evaluation.records import (
    Evaluation,
    Setting,
    Tuned,
    table,
    tuned,
    tuned_settings,
    tuned_table,
)
from kqo.bench.evaluation.settings import AXES, EXACT, FAMILIES, settings
from kqo.bench.report import machine
from kqo.bench.tasks.networks import NETWORKS, WEIGHTS, load_network, widened
from kqo.bench.tasks.task import TASKS, Task, task_named
from kqo.errors import ArgumentError
from kqo.profile import Profile
from kqo.workloads import Occlusion

QUALITIES = (0.8, 0.9, 0.95)
"""Similarities that settings are tuned for."""


@dataclass(frozen=True)
class Asked:
    """What to evaluate.

    Attributes:
        tasks: names of the tasks.
        networks: names of the networks.
        families: names of the ablations.
        images: held-out images for each network.
        samples: training images to tune on; 0 for no tuning.
        wide_images: held-out images on which the same is timed at full width; 0 for none.
        window: side of the windows in pixels.
        stride: step between windows in pixels.
        quality: the similarity that counts as met.
        threads: of plans and of PyTorch. None: their own choice.
        dense_images: positions that PyTorch runs each time.
        weights: folder of the trained weights.

    Raises:
        ArgumentError: a name or a number that is not accepted.
    """

    tasks: Sequence[str] = tuple(TASKS)
    networks: Sequence[str] = NETWORKS
    families: Sequence[str] = tuple(FAMILIES)
    images: int = 16
    samples: int = 20
    wide_images: int = 1
    window: int = 16
    stride: int = 4
    quality: float = 0.9
    threads: int | None = None
    dense_images: int = 64
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
        for name, number, least in (
            ("images", self.images, 1),
            ("samples", self.samples, 0),
            ("wide_images", self.wide_images, 0),
            ("dense_images", self.dense_images, 1),
        ):
            if number < least:
                raise ArgumentError(name, number, f"at least {least}")


QUICK = Asked(images=4, samples=4, wide_images=0)
"""What takes about ten minutes on two cores: figures of four images say little of others."""


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
    reached: dict[tuple[str, str], list[Tuned]] = {}
    chosen = settings(tuple(asked.families))
    for name in asked.tasks:
        for network in asked.networks:
            job = _Job(asked, task_named(name), network, report)
            ours = list(chosen)
            profile = None
            if asked.samples:
                profile = job.profile()
                profile.save(folder / f"profile_{name}_{network}.json")
                ours += tuned_settings(profile, QUALITIES)
            found = job.measure(ours, range(asked.images))
            narrow.append(found.evaluation)
            _draw_heatmaps(asked, found, folder / f"heatmaps_{name}_{network}.png")
            if profile is not None:
                reached[name, network] = tuned(profile, narrow[-1])
            if asked.wide_images:
                # Taken at full width: what was tuned, and Krypton's settings where asked for.
                again = [s for s in ours if s.family in ("exact", "combined", "tuned")]
                images = range(1, 1 + asked.wide_images)  # the first image has no object
                wide.append(job.measure(again, images, wide=True).evaluation)
            _write(narrow, wide, reached, folder)  # after each: a run that is cut off keeps these
    for family in (f for f in asked.families if f in AXES):
        plots.ablation(
            narrow, family, AXES[family], folder / f"{family}.png", falling=family == "tau"
        )
    plots.quality_and_speed(wide or narrow, folder / "quality_and_speed.png")
    return [*narrow, *wide]


@dataclass(frozen=True)
class _Job:
    """One network on one task."""

    asked: Asked
    task: Task
    network: str
    report: Callable[[str], None]

    def profile(self) -> Profile:
        """Of the narrow network, tuned on training images."""
        asked, task = self.asked, self.task
        self.report(f"{self.network}, {task.name}, tuning")
        images = [
            task.preprocess(task.generate(seed, held_out=False).image)
            for seed in range(asked.samples)
        ]
        plan = kqo.compile(
            load_network(task, self.network, asked.weights),
            (torch.zeros(images[0].shape),),
            Occlusion(asked.window, asked.stride),
            kqo.Options(threads=asked.threads, progress=False),
            name=self.network,
        )
        return plan.tune([image[0] for image in images])

    def measure(
        self, chosen: Sequence[Setting], seeds: Sequence[int], *, wide: bool = False
    ) -> Measured:
        """Run settings on images of the task, by the narrow network or its twin of full width."""
        asked = self.asked
        model = load_network(self.task, self.network, asked.weights)
        label = f"{self.network}, full width" if wide else self.network
        self.report(f"{label}, {self.task.name}")
        return measure(
            self.task,
            label,
            widened(model, self.network) if wide else model,
            chosen,
            seeds,
            window=asked.window,
            stride=asked.stride,
            quality=asked.quality,
            threads=asked.threads,
            dense_images=asked.dense_images,
            report=self.report,
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


def _write(
    narrow: Sequence[Evaluation],
    wide: Sequence[Evaluation],
    reached: Mapping[tuple[str, str], Sequence[Tuned]],
    folder: Path,
) -> None:
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
        if (evaluation.task, evaluation.network) in reached:
            found = reached[evaluation.task, evaluation.network]
            parts.append(f"\nTuned on training images:\n\n{tuned_table(found)}")
    (folder / "results.md").write_text("".join(parts), encoding="utf-8")
    values = {
        "machine": about,
        "evaluations": [e.to_dict() for e in (*narrow, *wide)],
        "tuned": [
            {"task": task, "network": network, **asdict(one)}
            for (task, network), found in reached.items()
            for one in found
        ],
    }
    (folder / "results.json").write_text(json.dumps(values, indent=1), encoding="utf-8")

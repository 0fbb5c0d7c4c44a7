"""Measuring settings on held-out images, side by side with batched PyTorch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import kqo
from kqo.approximate.quality import ssim, top_rank_correlation
from kqo.bench.dense import BATCHES, best_batch, time_engine, torch_engine
from kqo.bench.evaluation.records import Evaluation, Record, Setting
from kqo.bench.tasks.sample import Sample
from kqo.bench.tasks.task import Task
from kqo.demo.train import points_at_defect
from kqo.workloads import Occlusion, changed_inputs

Heatmap = NDArray[np.float32]

SLACK = 8
"""How far, in pixels, the pointing game accepts the centre of a window from the object: half a
window of 16, so that a hit is a window that at least touches the object."""


@dataclass(frozen=True)
class Measured:
    """An evaluation, and the heatmaps that it was made from.

    Attributes:
        evaluation: what was found.
        samples: the images.
        drops: by setting, original minus occluded score of the predicted class, one grid
            (gy, gx) per image.
    """

    evaluation: Evaluation
    samples: tuple[Sample, ...]
    drops: dict[str, list[Heatmap]]


@dataclass(frozen=True)
class Found:
    """One image's heatmap by one setting: its drops (gy, gx), and what :class:`Record` tells."""

    drop: Heatmap
    predicted: int
    seconds: float
    queries: int
    scores: NDArray[np.float32]


def measure(
    task: Task,
    network: str,
    model: nn.Module,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    *,
    window: int = 16,
    stride: int = 4,
    quality: float = 0.9,
    threads: int | None = None,
    dense_images: int = 64,
    batches: Sequence[int] = BATCHES,
    report: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Run every setting on held-out images of a task.

    PyTorch runs a sample of the positions at its best batch size before the first setting and after
    each one, so that what else the machine does weighs on both; its time does not depend on the
    position.

    Args:
        task: the task.
        network: what to call the model.
        model: classifies images of the task; in eval mode.
        settings: what to compare, exact first: the others are held against its heatmaps.
        seeds: of the images.
        window: side of the windows in pixels.
        stride: step between windows in pixels.
        quality: the similarity that counts as met.
        threads: of plans and of PyTorch. None: their own choice.
        dense_images: positions that PyTorch runs each time.
        batches: its batch sizes to try, as far as there are so many positions.
        report: called with a line when a setting is done.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    workload = Occlusion(window, stride)
    samples = tuple(task.generate(seed, held_out=True) for seed in seeds)
    inputs = [task.preprocess(sample.image) for sample in samples]
    placed = workload.resolve(inputs[0].shape[1:])
    chosen = np.random.default_rng(0).permutation(len(placed))[:dense_images]
    hidden = changed_inputs(workload, inputs[0][0], chosen)
    dense = torch_engine(model)
    sizes = [size for size in batches if size <= len(hidden)] or [len(hidden)]
    batch = best_batch(dense, hidden, sizes, 1).batch
    dense_seconds = [time_engine(dense, hidden, batch).seconds]
    expected = dense.run(hidden)
    error = 0.0
    drops: dict[str, list[Heatmap]] = {}
    records: list[Record] = []
    right = []
    for setting in settings:
        asked = _runner(setting, model, inputs[0].shape[1:], workload, threads)
        first = asked(inputs[0][0])  # binds positions, which is done once per plan
        if setting is settings[0]:
            difference = np.abs(first.scores[chosen] - expected).max()
            error = float(difference / np.abs(expected).max())
        maps = []
        for sample, image, seed in zip(samples, inputs, seeds, strict=True):
            found = asked(image[0])
            maps.append(found.drop)
            exact = drops.get(settings[0].name, maps)[len(maps) - 1]
            records.append(
                Record(
                    setting.name,
                    seed,
                    found.predicted == sample.label,
                    ssim(maps[-1], exact),
                    top_rank_correlation(maps[-1], exact),
                    points_at_defect(maps[-1], sample.mask, window, stride, SLACK)
                    if sample.mask.any()
                    else None,
                    found.seconds,
                    found.queries,
                )
            )
            right.append(found.predicted == sample.label)
        drops[setting.name] = maps
        dense_seconds.append(time_engine(dense, hidden, batch).seconds)
        report(_line(setting, records[-len(samples) :]))
    evaluation = Evaluation(
        task.name,
        network,
        statistics.fmean(right[: len(samples)]),
        quality,
        len(placed),
        1e3 * statistics.median(dense_seconds),
        batch,
        error,
        tuple(settings),
        tuple(records),
    )
    return Measured(evaluation, samples, drops)


def _runner(
    setting: Setting,
    model: nn.Module,
    shape: tuple[int, ...],
    workload: Occlusion,
    threads: int | None,
) -> Callable[[Heatmap], Found]:
    """What answers one image (C, H, W) by a setting."""
    options = kqo.Options(threads=threads, progress=False, **setting.options)
    plan = kqo.compile(model, (torch.zeros((1, *shape)),), workload, options)

    def run_plan(image: Heatmap) -> Found:
        began = time.perf_counter()
        result = plan.run(image)
        seconds = time.perf_counter() - began
        target = int(result.predicted())
        drop = np.asarray(result.original[target] - result.heatmap(target), dtype=np.float32)
        (asked,) = result.facts.get("asked", [len(result.workload)])
        return Found(drop, target, seconds, asked, result.scores)

    return run_plan


def _line(setting: Setting, records: Sequence[Record]) -> str:
    similar = [record.ssim for record in records]
    seconds = statistics.median(record.seconds for record in records)
    return (
        f"{setting.name}: SSIM {statistics.fmean(similar):.3f} (worst {min(similar):.3f}),"
        f" {seconds:.2f} s a heatmap"
    )

"""Plots of an evaluation: ablations, quality against speed, and heatmaps side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kqo.bench.evaluation.measure import Measured
from kqo.bench.evaluation.records import Evaluation, Summary
from kqo.bench.tasks.task import task_named
from kqo.explain.picture import INK, MUTED, draw_overlay, upsample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666")
"""Of Okabe and Ito's palette, which colour-blind people can tell apart."""
SHADE = 0.16
"""Opacity of an area between a mean and the worst; a dashed line of its colour bounds it, since
areas that overlap mix their colours."""
TITLE = 26
"""Letters of a title that fit above a panel."""


def ablation(
    evaluations: Sequence[Evaluation], family: str, label: str, path: Path, *, falling: bool = False
) -> None:
    """Two panels over one parameter: similarity (mean, and down to the worst) and speedup.

    Args:
        evaluations: one line each.
        family: the ablation.
        label: of the axis that the parameter is on.
        path: the PNG to write.
        falling: draw the axis from its largest value, the exact one, to the smallest.
    """
    figure = _figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    for evaluation, colour in zip(evaluations, COLOURS, strict=False):
        found = sorted(evaluation.family(family), key=lambda s: s.setting.value or 0.0)
        values = [s.setting.value for s in found]
        name = f"{evaluation.network}, {evaluation.task}"
        style = {"color": colour, "marker": "o", "markersize": 4, "label": name}
        means = [s.ssim for s in found]
        left.plot(values, means, **style)
        worst = [s.worst_ssim for s in found]
        left.fill_between(values, worst, means, color=colour, alpha=SHADE, linewidth=0)
        left.plot(values, worst, color=colour, linestyle="--", linewidth=0.9)
        right.plot(values, [s.speedup for s in found], **style)
    quality = evaluations[0].quality
    left.axhline(quality, color=MUTED, linewidth=0.8, linestyle=":")
    for axes, title in ((left, "SSIM: mean, and down to the worst"), (right, "over PyTorch")):
        axes.set_xlabel(label, fontsize=9, color=INK)
        if falling:
            axes.invert_xaxis()
        _plain(axes, title)
    right.set_ylim(bottom=0)
    left.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def quality_and_speed(evaluations: Sequence[Evaluation], path: Path) -> None:
    """One panel per evaluation: every setting by its mean similarity and its speedup."""
    figure = _figure(4.6 * len(evaluations), 4.2)
    panels = figure.subplots(1, len(evaluations), squeeze=False)[0]
    for axes, evaluation in zip(panels, evaluations, strict=True):
        summaries = evaluation.summaries()
        families = list(dict.fromkeys(s.setting.family for s in summaries))
        for family, colour in zip(families, COLOURS, strict=False):
            found = [s for s in summaries if s.setting.family == family]
            axes.scatter(
                [s.speedup for s in found],
                [s.ssim for s in found],
                s=26,
                color=colour,
                label=family,
                zorder=3,
            )
        front = pareto(summaries)
        axes.plot([s.speedup for s in front], [s.ssim for s in front], color=MUTED, linewidth=0.8)
        axes.set_xlabel("speedup over PyTorch", fontsize=9, color=INK)
        axes.set_xlim(left=0)
        axes.axhline(evaluation.quality, color=MUTED, linewidth=0.8, linestyle=":")
        _plain(axes, f"SSIM: {evaluation.network}, {evaluation.task}")
    panels[0].legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(path, dpi=130)


def pareto(summaries: Sequence[Summary]) -> list[Summary]:
    """The settings that no other beats in both similarity and speed, slowest first."""
    front: list[Summary] = []
    for summary in sorted(summaries, key=lambda s: (-s.speedup, -s.ssim)):
        if not front or summary.ssim > front[-1].ssim:
            front.append(summary)
    return front[::-1]


def side_by_side(
    measured: Measured,
    names: Sequence[str],
    rows: Sequence[int],
    path: Path,
    *,
    window: int,
    stride: int,
) -> None:
    """Images in rows; the image and its heatmap by each setting in columns.

    The colour scale is that of the exact heatmap, in every column of a row.

    Args:
        measured: an evaluation with its heatmaps.
        names: of the settings, exact first.
        rows: numbers of the images.
        path: the PNG to write.
        window: side of the windows in pixels.
        stride: step between windows in pixels.
    """
    evaluation = measured.evaluation
    task = task_named(evaluation.task)
    figure = _figure(1.9 * (len(names) + 1), 2.1 * len(rows) + 0.4)
    panels = figure.subplots(len(rows), len(names) + 1, squeeze=False)
    for row, number in zip(panels, rows, strict=True):
        sample = measured.samples[number]
        row[0].imshow(sample.image, interpolation="nearest")
        row[0].set_ylabel(task.classes[sample.label], fontsize=9, color=INK)
        exact = measured.drops[names[0]][number]
        top = float(np.abs(exact).max()) or 1.0
        for axes, name in zip(row[1:], names, strict=True):
            drop = measured.drops[name][number]
            values = upsample(drop, sample.mask.shape[:2], window, stride)
            draw_overlay(axes, sample.image, values, sample.mask, top)
            record = _record(evaluation, name, number)
            axes.set_xlabel(f"SSIM {record:.3f}", fontsize=8, color=MUTED, labelpad=2)
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    for axes, name in zip(panels[0], ("image", *names), strict=True):
        axes.set_title(textwrap.fill(name, TITLE), fontsize=9, color=INK)
    figure.savefig(path, dpi=110)


def _record(evaluation: Evaluation, name: str, number: int) -> float:
    found = [record for record in evaluation.records if record.setting == name]
    return found[number].ssim


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_facecolor("white")
    return figure


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(linewidth=0.3)
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)

"""Krypton's experiments, each with the dense engines measured in the same run.

End to end, by patch size, and by number of positions (the interactive mode), with the peak memory
of each (Nakandala et al., *Incremental and Approximate Inference for Faster Occlusion-Based Deep
CNN Explanations*, SIGMOD 2019, section 5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

import kqo
from kqo.bench.dense import BATCHES
from kqo.bench.report import Report, Row, measure, timed_compile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATCH, STRIDE = 16, 4
PATCHES = (4, 8, 16, 32, 64)
COUNTS = (1, 4, 16, 64, 256, 1024)
SAMPLE = 256
"""Positions, drawn at random, that stand for the whole grid where the patch size varies."""
DENSE_SAMPLE = 64
COLOURS = ("#0072b2", "#d55e00", "#009e73")


@dataclass(frozen=True)
class Experiment:
    """One measurement of a series.

    Attributes:
        series: ``end to end``, ``patch size`` or ``positions``.
        value: what varies in the series: the patch size, or the number of positions.
        report: what was measured.
    """

    series: str
    value: int
    report: Report


def run_experiments(
    module: nn.Module,
    image: NDArray[np.float32],
    name: str,
    *,
    options: kqo.Options | None = None,
    batches: Sequence[int] = BATCHES,
    repeats: int = 3,
    patches: Sequence[int] = PATCHES,
    counts: Sequence[int] = COUNTS,
    note: Callable[[str], None] = lambda text: None,
) -> list[Experiment]:
    """Measure all the series for one model, in this process.

    Args:
        module: the model, in eval mode.
        image: one input (C, H, W), float32.
        name: of the model.
        options: of the plans.
        batches: sizes that the dense engines may choose from; found once, end to end.
        repeats: rounds of each measurement; figures are their medians.
        patches: window extents of the series by patch size; those that do not fit are left out.
        counts: numbers of positions of the interactive series, likewise.
        note: told what is being measured.
    """
    found: list[Experiment] = []
    for series, value, workload in _workloads(image.shape, patches, counts):
        note(f"{name}: {series} {value}")
        plan, preparing = timed_compile(module, image.shape, workload, options, name)
        sizes = tuple(batches) if not found else _best(found[0].report, batches)
        report = measure(
            plan,
            module,
            image,
            workload=workload,
            batches=sizes,
            sample=DENSE_SAMPLE,
            repeats=repeats,
            preparing=preparing,
        )
        found.append(Experiment(series, value, report))
    return found


def _workloads(
    shape: tuple[int, ...], patches: Sequence[int], counts: Sequence[int]
) -> Iterator[tuple[str, int, kqo.Occlusion]]:
    generator = np.random.default_rng(0)
    smallest = min(shape[1:])
    whole = kqo.Occlusion(PATCH, STRIDE)
    starts = whole.resolve(shape).starts
    yield "end to end", PATCH, whole
    for patch in patches:
        if patch <= smallest:
            grid = kqo.Occlusion(patch, STRIDE).resolve(shape).starts
            yield "patch size", patch, _some(patch, grid, SAMPLE, generator)
    for count in counts:
        if count <= len(starts):
            yield "positions", count, _some(PATCH, starts, count, generator)


def _some(
    patch: int, starts: NDArray[np.int64], count: int, generator: np.random.Generator
) -> kqo.Occlusion:
    chosen = np.sort(generator.permutation(len(starts))[:count])
    return kqo.Occlusion(patch, STRIDE, positions=starts[chosen])


def _best(report: Report, batches: Sequence[int]) -> tuple[int, ...]:
    """The batch sizes at which the dense engines were fastest, and 1, for few positions."""
    return tuple(sorted({1, *(r.batch for r in report.rows if r.batch is not None)} & set(batches)))


def write(experiments: Sequence[Experiment], name: str, folder: Path) -> list[Path]:
    """Write figures as JSON, tables as Markdown and plots as PNG; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures, tables, plot = (folder / f"{name}{end}" for end in (".json", ".md", ".png"))
    figures.write_text(json.dumps([asdict(e) for e in experiments], indent=2), encoding="utf-8")
    tables.write_text(_tables(experiments, name), encoding="utf-8")
    _plot(experiments, name, plot)
    return [figures, tables, plot]


def _dense(report: Report) -> list[Row]:
    return [row for row in report.rows[1:] if row.ms is not None]


def _tables(experiments: Sequence[Experiment], name: str) -> str:
    lines = [f"# {name}", ""]
    for series in dict.fromkeys(e.series for e in experiments):
        part = [e for e in experiments if e.series == series]
        engines = [row.engine for row in _dense(part[0].report)]
        cells = [f"{engine} ms | ratio" for engine in engines]
        lines += [f"## {series.capitalize()}", ""]
        title = "patch" if series != "positions" else "positions"
        header = [title, "kqo ms", *cells, "multiply-adds", "worst error", "prepared, s", "kqo MB"]
        header += engines
        lines.append("| " + " | ".join(header) + " |")
        lines.append("|" + "---|" * (len(header) + len(engines)))
        for experiment in part:
            report = experiment.report
            own, dense = report.rows[0], _dense(report)
            row = [str(experiment.value), f"{own.ms:.2f}"]
            row += [cell for r in dense for cell in (f"{r.ms:.2f}", f"{r.ratio:.2f}x")]
            row += [f"{report.bound:.1f}x fewer", f"{report.error:.1e}"]
            row.append("" if report.preparing is None else f"{report.preparing:.2f}")
            row += ["" if r.peak is None else f"{r.peak / 1e6:.0f}" for r in (own, *dense)]
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    lines.append(
        "Milliseconds per position; medians. Prepared is compiled and planned, which is done once. "
        "The last columns are peak memory beyond what the process held before, dense engines at "
        "batch 16."
    )
    return "\n".join(lines) + "\n"


def _plot(experiments: Sequence[Experiment], name: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, series, label in (
        (left, "patch size", "patch, pixels"),
        (right, "positions", "positions (interactive)"),
    ):
        _panel(axes, [e for e in experiments if e.series == series], label)
    figure.suptitle(f"{name}: how many times faster than dense re-inference", fontsize=11)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, part: Sequence[Experiment], label: str) -> None:
    values = [e.value for e in part]
    for number, engine in enumerate(_dense(part[0].report) if part else []):
        ratios = [_dense(e.report)[number].ratio or 0.0 for e in part]
        axes.plot(values, ratios, marker="o", color=COLOURS[number], label=f"over {engine.engine}")
    bounds = [e.report.bound for e in part]
    axes.plot(values, bounds, linestyle=":", color="#666666", label="multiply-adds, fewer")
    axes.axhline(1.0, color="#bbbbbb", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(v) for v in values])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label, fontsize=9)
    axes.set_ylabel("ratio", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False)

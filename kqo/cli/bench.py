"""``kqo bench``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kqo.cli.arguments import (
    ImageArguments,
    ModelArguments,
    PlanArguments,
    WorkloadArguments,
    steps,
)
from kqo.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kqo.api import CompiledPlan
    from kqo.bench import Report
    from kqo.interop.models import Resolved

CPU_BATCHES = "1,2,4,8,16,32"


def bench(
    *,
    model: ModelArguments,
    workload: WorkloadArguments,
    plan: PlanArguments,
    images: ImageArguments,
    image: Annotated[
        Path | None,
        typer.Option(
            help="Image to run on (default: a photograph that scikit-learn ships; smooth noise for "
            "other inputs).",
            metavar="FILE",
        ),
    ] = None,
    batches: Annotated[
        str, typer.Option(help="Batch sizes that dense engines may choose from.")
    ] = CPU_BATCHES,
    sample: Annotated[
        int, typer.Option(help="Positions that dense engines run and errors are taken at.", min=1)
    ] = 64,
    repeats: Annotated[int, typer.Option(help="Rounds; figures are medians.", min=1)] = 3,
    experiments: Annotated[
        Path | None,
        typer.Option(
            help="Run Krypton's experiments instead (end to end, by patch size, by number of "
            "positions, memory) and write tables and plots into this folder; MODEL may be zoo.",
            metavar="DIR",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time a plan side by side with PyTorch (and ONNX Runtime, where installed), in one run."""
    asked, options = workload.workload(), plan.options()
    sizes = steps("batches", batches)
    sizes = (sizes,) if isinstance(sizes, int) else sizes
    if min(sizes) < 1:
        raise ArgumentError("batches", batches, "whole numbers from 1")
    from kqo.bench import measure, timed_compile

    if experiments is not None:
        _experiments(model, plan, images, image, sizes, repeats, experiments)
        return
    found = model.resolve()
    asked.resolve(found.shape)
    tensor = _image(found, images, image)
    made, preparing = timed_compile(found.model, found.shape, asked, options, found.name)
    if on_gpu(made):
        from kqo.bench.gpu import GPU_BATCHES, measure_gpu

        report = measure_gpu(
            made,
            found.module,
            tensor,
            workload=asked,
            batches=GPU_BATCHES if batches == CPU_BATCHES else sizes,
            sample=max(sample, *GPU_BATCHES),
            repeats=repeats,
        )
        _show(report, as_json)
        return
    report = measure(
        made,
        found.module,
        tensor,
        workload=asked,
        batches=sizes,
        sample=sample,
        repeats=repeats,
        threads=options.threads,
        preparing=preparing,
    )
    _show(report, as_json)


def _experiments(
    model: ModelArguments,
    plan: PlanArguments,
    images: ImageArguments,
    image: Path | None,
    batches: tuple[int, ...],
    repeats: int,
    folder: Path,
) -> None:
    from kqo import zoo
    from kqo.bench.experiments import run_experiments, write

    if folder.exists() and not folder.is_dir():
        raise ArgumentError("experiments", folder, "a folder")
    for name in zoo.NAMES if model.model == "zoo" else (model.model,):
        found = replace(model, model=name).resolve()
        measured = run_experiments(
            found.module,
            _image(found, images, image),
            found.name,
            options=plan.options(),
            batches=batches,
            repeats=repeats,
            note=lambda text: typer.echo(text, err=True),
        )
        for path in write(measured, found.name, folder):
            typer.echo(path)


def on_gpu(plan: CompiledPlan) -> bool:
    """Whether the plan runs on a GPU."""
    from kqo.runtime.cuda.engine import CudaEngine

    return isinstance(plan.engine, CudaEngine)


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    from rich.console import Console

    Console().print(report.table())


def _image(model: Resolved, arguments: ImageArguments, path: Path | None) -> NDArray[np.float32]:
    """The image (C, H, W) to run on: a file, a photograph, or noise smoothed a little."""
    import numpy as np

    preprocess = arguments.preprocess(model.shape)
    if path is None and preprocess is not None and model.shape[0] == 3:
        path = _photograph()
    if path is not None:
        from kqo.interop.images import load_image

        if preprocess is None:
            raise ArgumentError("image", path, f"no image for inputs of shape {model.shape}")
        return np.asarray(load_image(path, preprocess)[0])
    noise = np.random.default_rng(0).normal(size=model.shape)
    for axis in range(1, len(model.shape)):
        noise = (np.roll(noise, 1, axis) + noise + np.roll(noise, -1, axis)) / 3
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _photograph() -> Path | None:
    """A photograph of scikit-learn's, where that is installed."""
    from importlib.resources import files

    try:
        path = Path(str(files("sklearn.datasets.images"))) / "china.jpg"
    except ModuleNotFoundError:
        return None
    return path if path.is_file() else None

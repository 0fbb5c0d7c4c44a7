"""``kqo evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for tables and plots.", metavar="DIR")
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Task: surface or photographs (default: both).")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Network: vgg16 or resnet18 (default: both).")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Ablation, such as tau (default: all).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few images, none at full width: about 10 minutes.")
    ] = False,
    images: Annotated[
        int | None, typer.Option(help="Held-out images for each network (default: 16).", min=1)
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Training images to tune on; 0 for no tuning (default: 20).", min=0),
    ] = None,
    wide_images: Annotated[
        int | None,
        typer.Option(help="Images to time at full width; 0 for none (default: 1).", min=0),
    ] = None,
    window: Annotated[int, typer.Option(help="Side of the windows in pixels.", min=1)] = 16,
    stride: Annotated[int, typer.Option(help="Step between windows in pixels.", min=1)] = 4,
    quality: Annotated[float, typer.Option(help="SSIM that counts as met.")] = 0.9,
    threads: Annotated[int | None, typer.Option(help="Of plans and of PyTorch.", min=1)] = None,
    dense_images: Annotated[
        int, typer.Option(help="Positions that PyTorch runs each time.", min=1)
    ] = 64,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of trained weights (default: those that ship).")
    ] = None,
) -> None:
    """Measure approximate plans: quality on held-out images with true masks, and speed."""
    from kqo.bench.evaluation.run import QUICK, Asked
    from kqo.bench.evaluation.run import evaluate as run

    standard = QUICK if quick else Asked()
    asked = Asked(
        tuple(task or standard.tasks),
        tuple(network or standard.networks),
        tuple(family or standard.families),
        standard.images if images is None else images,
        standard.samples if samples is None else samples,
        standard.wide_images if wide_images is None else wide_images,
        window,
        stride,
        quality,
        threads,
        dense_images,
        standard.weights if weights is None else weights,
    )
    run(asked, output, typer.echo)
    typer.echo(f"written to {output}")

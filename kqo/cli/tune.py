"""``kqo tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kqo.cli.arguments import ImageArguments, ModelArguments, PlanArguments, WorkloadArguments
from kqo.cli.plans import compiled, plan_of_file, preprocess_of, writable
from kqo.errors import ArgumentError


def tune(
    *,
    model: ModelArguments,
    photos: Annotated[list[Path], typer.Argument(help="PNG, JPEG or .npy.", metavar="IMAGES...")],
    workload: WorkloadArguments,
    plan: PlanArguments,
    images: ImageArguments,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="The profile to write.", metavar="FILE.json")
    ],
    seconds: Annotated[
        float | None,
        typer.Option(help="Leave out images and settings that would take longer.", metavar="S"),
    ] = None,
) -> None:
    """Measure what approximations reach on sample images, and keep the best in a profile.

    Plans take it by --profile with --quality or --speedup. MODEL may be a plan file. From 19 images
    on, what is promised for others follows from their order alone.
    """
    from kqo.interop.images import load_image

    writable(output)
    given = plan.approximations()
    if given:
        accepted = "none: kqo tune looks for them"
        raise ArgumentError(next(iter(given)), next(iter(given.values())), accepted)
    stored = model.model.endswith(".kqo")
    if stored:
        made = plan_of_file(model, workload, plan)
    else:
        made = compiled(model, workload, plan, images)
    preprocess = preprocess_of(made)
    inputs = [load_image(path, preprocess)[0] for path in photos]
    profile = made.tune(inputs, seconds=seconds)
    profile.save(output)
    typer.echo(f"{'SSIM on 95 %':>12} {'mean':>6} {'lowest':>6} {'speedup':>8}  setting")
    for point in profile.points:
        typer.echo(
            f"{point.quality:12.3f} {point.mean:6.3f} {min(point.similarities):6.3f}"
            f" {point.speedup:7.1f}x  {point.setting}"
        )
    typer.echo(f"{output}: {profile.images} images, exact in {profile.seconds:.2f} s each")

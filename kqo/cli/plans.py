"""``kqo explain`` and ``kqo compile``, and what commands on plans share."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kqo.cli.arguments import (
    ImageArguments,
    ModelArguments,
    PlanArguments,
    WorkloadArguments,
)
from kqo.errors import ArgumentError
from kqo.ir.schema import shape as shape_of

if TYPE_CHECKING:
    from kqo.api import CompiledPlan
    from kqo.interop.preprocess import Preprocess


def explain(
    *,
    model: ModelArguments,
    workload: WorkloadArguments,
    plan: PlanArguments,
    stage: Annotated[
        str | None,
        typer.Option(help="logical, normalized, delta, physical or source.", metavar="STAGE"),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="text, json, dot, svg, html or sql.", metavar="FORMAT")
    ] = "text",
    rule: Annotated[
        str | None, typer.Option(help="Show what this rule did, before and after.", metavar="NAME")
    ] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Show a diff per application of a rule.")
    ] = False,
    analyze: Annotated[
        bool, typer.Option("--analyze", help="Run it; show measured times beside the estimates.")
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(help="Image to run on, and for html to draw on.", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file.", metavar="FILE")
    ] = None,
) -> None:
    """Print the plan of a model, or of a plan file: operators, delta regions, costs, rules."""
    from kqo.explain.render import check_asked

    if output is not None:
        writable(output)
    check_asked(stage=stage, format=format_, rule=rule, steps=steps, analyze=analyze)
    # The rules are left out by explain itself, which tells what that costs.
    bare = replace(plan, without=None)
    stored = model.model.endswith(".kqo")
    made = plan_of_file(model, workload, bare) if stored else compiled(model, workload, bare, None)
    seen: dict[str, Any] = {}
    if image is not None:
        seen = _seen(shape_of(made.scan.axes), made.preprocess, image, analyze)
    without = tuple(plan.without or ())
    asked = {"analyze": analyze, **seen}
    text = made.explain(
        stage=stage, format=format_, rule=rule, steps=steps, without=without, **asked
    )
    if output is None:
        typer.echo(text.removesuffix("\n"))
    else:
        output.write_text(text.removesuffix("\n") + "\n", encoding="utf-8")


def plan_of_file(
    model: ModelArguments, workload: WorkloadArguments, plan: PlanArguments
) -> CompiledPlan:
    """The plan of a file, which holds its workload and options."""
    import kqo

    given = {**asdict(model), **asdict(workload), **asdict(plan)}
    usual = {
        **asdict(ModelArguments(model.model)),
        **asdict(WorkloadArguments()),
        **asdict(PlanArguments()),
    }
    for name, value in given.items():
        if value != usual[name]:
            accepted = "nothing beside a plan file, which holds its own"
            raise ArgumentError(name.replace("_", "-"), value, accepted)
    return kqo.load(model.model)


def _seen(
    shape: tuple[int, ...], preprocess: Preprocess | None, path: Path, analyze: bool
) -> dict[str, Any]:
    """An image as explain takes it: to draw on, and to run on where that was asked for."""
    from kqo.interop.images import load_image

    preprocess = preprocess or ImageArguments().preprocess(shape)
    if preprocess is None:
        raise ArgumentError("image", path, f"no image for inputs of shape {shape}")
    values = load_image(path, preprocess)[0]
    return {"image": preprocess.picture(values), "analyze": values if analyze else False}


def compile_(
    *,
    model: ModelArguments,
    workload: WorkloadArguments,
    plan: PlanArguments,
    images: ImageArguments,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The plan file to write.", metavar="F.kqo")
    ] = None,
    source: Annotated[bool, typer.Option("--source", help="Print the source that runs.")] = False,
) -> None:
    """Compile a model to a plan file, or print the source of its plan."""
    if output is None and not source:
        raise ArgumentError("compile", "neither -o nor --source", "-o F.kqo, --source, or both")
    if output is not None:
        writable(output)
    made = compiled(model, workload, plan, images)
    if source:
        typer.echo(made.source)
    if output is not None:
        made.save(output)
        typer.echo(f"{output}: {output.stat().st_size / 1e3:,.0f} kB", err=source)


def compiled(
    model: ModelArguments,
    workload: WorkloadArguments,
    plan: PlanArguments,
    images: ImageArguments | None,
) -> CompiledPlan:
    """The plan that a command line asks for; cheap checks come before the model is made."""
    asked, options = workload.workload(), plan.options()
    import torch

    import kqo

    found = model.resolve()
    asked.resolve(found.shape)
    preprocess = None if images is None else images.preprocess(found.shape)
    example = (torch.zeros((1, *found.shape)),)
    return kqo.compile(
        found.model, example, asked, options=options, name=found.name, preprocess=preprocess
    )


def preprocess_of(plan: CompiledPlan) -> Preprocess:
    """A plan's own preprocessing, or one that only says the shape of its input."""

    if plan.preprocess is not None:
        return plan.preprocess
    raise ArgumentError("plan", f"{plan.name}, without preprocessing", "a plan of kqo compile")


def folder(path: Path) -> None:
    """Make a folder for results; ArgumentError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        given = f"{path} ({error.strerror})"
        raise ArgumentError("output", given, "a folder that can be written") from None


def writable(path: Path) -> None:
    """ArgumentError where no file can be written, before the work is done."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ArgumentError("output", f"{path}", "a file in a folder that exists")

"""The command line: a thin shell over the API, whose heavy imports stay inside its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from kqo.cli import bench, calibrate, demo, evaluate, plans, rules, run, tune
from kqo.cli.expand import expand

app = typer.Typer(
    name="kqo",
    help="A query optimizer for convolutional networks: exact occlusion heatmaps, faster.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """What holds for every command; ``--debug`` is read before, in ``kqo.__main__``."""
    if version:
        from kqo import __version__

        typer.echo(f"kqo {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("demo")(demo.demo)
app.command("explain")(expand(plans.explain))
app.command("compile")(expand(plans.compile_))
app.command("run")(expand(run.run))
app.command("refine")(expand(run.refine))
app.command("tune")(expand(tune.tune))
app.command("bench")(expand(bench.bench))
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(rules.app, name="rules")
app.command("fmt")(rules.fmt)

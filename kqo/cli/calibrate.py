"""``kqo calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here, not to the cache.", metavar="FILE"),
    ] = None,
) -> None:
    """Measure this machine's rates, once, for the planner and for predicted times.

    Until then the rates of a reference machine are used. KQO_RATES=FILE has others used, and
    KQO_RATES=reference has the machine's own ignored.
    """
    from kqo.cli.plans import folder, writable
    from kqo.planner import calibrate as measuring

    path = measuring.cache_file() if output is None else output
    if output is None:
        folder(path.parent)
    writable(path)
    rates = measuring.calibrate(lambda name: typer.echo(f"measuring {name}", err=True))
    measuring.keep(rates, path)
    typer.echo(f"matrix products   {rates.product(576, 128) / 1e9:6.1f} GFLOP/s")
    typer.echo(f"Winograd products {rates.batched / 1e9:6.1f} GFLOP/s")
    typer.echo(f"gathers           {rates.gather / 1e9:6.1f} GB/s")
    typer.echo(f"elementwise       {rates.stream / 1e9:6.1f} G elements/s")
    typer.echo(f"NumPy call        {rates.call * 1e6:6.2f} us")
    typer.echo(f"kept in {path}")

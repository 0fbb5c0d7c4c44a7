"""``kqo calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kqo.errors import ArgumentError


def calibrate(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here, not to the cache.", metavar="FILE"),
    ] = None,
    target: Annotated[
        str, typer.Option(help="numpy: this machine's processor. cuda: its GPU.")
    ] = "numpy",
) -> None:
    """Measure this machine's rates, once, for the planner and for predicted times.

    Until then the rates of a reference machine are used. KQO_RATES=FILE has others used, and
    KQO_RATES=reference has the machine's own ignored. A GPU's rates are kept in the cache, for each
    precision.
    """
    from kqo.cli.plans import folder, writable

    if target not in ("numpy", "cuda"):
        raise ArgumentError("target", repr(target), "'numpy', 'cuda'")
    if target == "cuda":
        if output is not None:
            raise ArgumentError("output", output, "no file with --target cuda: rates are cached")
        _calibrate_gpu()
        return
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


def _calibrate_gpu() -> None:
    from kqo.cli.plans import folder, writable
    from kqo.options import PRECISIONS
    from kqo.planner import calibrate as measuring
    from kqo.runtime.cuda.calibrate import calibrate_gpu, rates_file
    from kqo.runtime.cuda.device import CupyDevice

    device = CupyDevice()
    for precision in PRECISIONS:
        path = rates_file(device.name, precision)
        folder(path.parent)
        writable(path)
        rates = calibrate_gpu(
            device, precision, lambda name: typer.echo(f"measuring {name}", err=True)
        )
        measuring.keep(rates, path)
        typer.echo(f"{device.name}, {precision}")
        typer.echo(f"matrix products   {rates.product(2304, 256) / 1e12:6.1f} TFLOP/s")
        typer.echo(f"gathers           {rates.gather / 1e9:6.0f} GB/s")
        typer.echo(f"elementwise       {rates.stream / 1e9:6.0f} G elements/s")
        typer.echo(f"launch            {rates.bind * 1e6:6.1f} us")
        typer.echo(f"kept in {path}")

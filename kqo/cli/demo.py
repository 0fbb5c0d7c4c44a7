"""``kqo demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kqo.cli.plans import writable
from kqo.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kqo.bench.dense import Engine
    from kqo.demo import DemoImage
    from kqo.runtime.result import Result
    from kqo.workloads import Occlusion

WINDOW, STRIDE = 16, 4
CHECKED = 32  # positions that are run again by PyTorch


def demo(
    image: Annotated[
        str, typer.Option(help="Which of the shipped images, such as dent_1.", metavar="NAME")
    ] = "scratch_1",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The picture to write.", metavar="FILE")
    ] = Path("kqo-demo.png"),
) -> None:
    """Find a defect: compile, explain, run, check against PyTorch, draw. Needs no network."""
    writable(output)
    import time

    from kqo.demo import load_images, load_model, preprocess

    known = {shipped.name: shipped for shipped in load_images()}
    if image not in known:
        raise ArgumentError("image", repr(image), ", ".join(known))
    shipped, model = known[image], load_model()
    tensor = preprocess(shipped.image)

    import torch

    import kqo
    from kqo.bench import torch_engine
    from kqo.workloads import Occlusion

    asked = Occlusion(WINDOW, STRIDE)
    began = time.perf_counter()
    plan = kqo.compile(model, (torch.from_numpy(tensor),), asked, name="surface")
    head, _, _ = plan.explain().partition("\n\n")
    typer.echo(f"compiled   in {time.perf_counter() - began:.1f} s (kqo explain says more):")
    for line in head.splitlines():
        typer.echo(f"           {line}")
    began = time.perf_counter()
    result = plan.run(tensor)
    taken = (time.perf_counter() - began) / len(result.workload)
    typer.echo(f"ran        {len(result.workload)} positions, {taken * 1e3:.2f} ms each")
    engine = torch_engine(model)
    _check(engine, result, asked, tensor[0])
    _compare(engine, taken, asked, tensor[0])
    _draw(result, shipped, output)


def _check(engine: Engine, result: Result, asked: Occlusion, tensor: NDArray[np.float32]) -> None:
    """Run sampled positions again by PyTorch and print the worst difference."""
    import numpy as np

    from kqo.workloads import changed_inputs

    generator = np.random.default_rng(0)
    queries = generator.permutation(len(result.workload))[:CHECKED]
    expected = engine.run(changed_inputs(asked, tensor, queries))
    worst = np.abs(result.scores[queries] - expected).max() / np.abs(expected).max()
    typer.echo(
        f"checked    {len(queries)} positions against {engine.name}: worst difference {worst:.1e}"
        " of the largest output"
    )


def _compare(engine: Engine, taken: float, asked: Occlusion, tensor: NDArray[np.float32]) -> None:
    """Time full re-inference at its best batch size and print the speedup."""
    from kqo.bench.dense import best_batch
    from kqo.workloads import changed_inputs

    sizes = (1, 4, 16, 32)
    best = best_batch(engine, changed_inputs(asked, tensor, range(max(sizes))), sizes)
    typer.echo(
        f"speedup    {best.seconds / taken:.1f}x over {engine.name}, which takes"
        f" {best.seconds * 1e3:.2f} ms at its best batch size, {best.batch}"
    )


def _draw(result: Result, shipped: DemoImage, output: Path) -> None:
    """Write the picture: image, heatmap of the predicted class, true mask."""
    from kqo.demo import CLASSES
    from kqo.explain.picture import draw_heatmap

    predicted = int(result.predicted())
    drops = result.drops(predicted, probability=True).reshape(result.workload.grid or ())
    draw_heatmap(
        shipped.image,
        drops,
        output,
        window=WINDOW,
        stride=STRIDE,
        title=f"{shipped.name}: predicted {CLASSES[predicted]}, truly {shipped.label}",
        subtitle=f"{len(result.workload)} positions of a {WINDOW}x{WINDOW} window",
        mask=shipped.mask,
        value_label="drop of the probability when hidden",
    )
    typer.echo(f"predicted  {CLASSES[predicted]} (the true class is {shipped.label})")
    typer.echo(f"picture    {output}")

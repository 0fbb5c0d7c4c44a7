"""``kqo run`` and ``kqo refine``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kqo.cli.arguments import Approximations
from kqo.cli.plans import folder, preprocess_of
from kqo.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kqo.api import CompiledPlan
    from kqo.approximate.refine import Refined
    from kqo.interop.preprocess import Preprocess
    from kqo.runtime.result import Result

INTERRUPTED = 130


def run(
    *,
    plan: Annotated[Path, typer.Argument(help="A plan file of kqo compile.", metavar="F.kqo")],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or .npy.", metavar="IMAGE...")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results.", metavar="DIR")
    ],
    approximations: Approximations,
    target: Annotated[
        str | None, typer.Option("--class", help="Class to explain (default: the predicted one).")
    ] = None,
    probability: Annotated[
        bool, typer.Option("--probability", help="Heatmaps of probabilities, not of scores.")
    ] = False,
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds for each image: the best heatmap that fits.", metavar="S"),
    ] = None,
    verify: Annotated[
        int, typer.Option(help="Check this many sampled queries by full re-inference.", min=0)
    ] = 0,
) -> None:
    """Run a plan: a heatmap (PNG) and scores (.npz) per image, and a summary (summary.json).

    Approximations replace those of the plan file. Ctrl-C keeps what was computed.
    """
    from kqo.approximate.run import Interrupted
    from kqo.interop.images import load_image

    loaded = _loaded(plan, approximations)
    preprocess = preprocess_of(loaded)
    # Every image is read before the first is run: an error should not come after minutes of work.
    inputs = [load_image(path, preprocess) for path in images]
    folder(output)
    wanted = _target(target)
    asked: dict[str, Any] = {"verify": verify}
    if deadline is not None:
        asked["deadline"] = deadline
    if wanted is not None and (deadline is not None or loaded.options.drills):
        asked["target"] = wanted
    summaries: list[dict[str, Any]] = []
    interrupted = False
    for path, stem, image in zip(images, stems(images), inputs, strict=True):
        try:
            result = loaded.run(image, **asked)
        except Interrupted as caught:
            result, interrupted = caught.result, True
        except KeyboardInterrupt:
            interrupted = True
            break
        result.target_class(wanted)
        result.to_npz(output / f"{stem}.npz")
        draw(
            result,
            preprocess,
            image[0],
            output / f"{stem}.png",
            name=path.name,
            target=wanted,
            probability=probability,
        )
        about = {"image": str(path), "files": [f"{stem}.png", f"{stem}.npz"]}
        summaries.append({**about, **result.summary()})
        first = summaries[-1]["images"][0]
        typer.echo(f"{path}: {first['class_name']} {first['score']:.4g}, {output / stem}.png")
        for line in _said(result):
            typer.echo(f"  {line}")
        if interrupted:
            break
    about = {"plan": plan.name, "results": _for_json(summaries)}
    text = json.dumps(about, indent=2, allow_nan=False)
    (output / "summary.json").write_text(text + "\n", encoding="utf-8")
    if interrupted:
        typer.echo(f"interrupted: {len(summaries)} of {len(images)} images are in {output}")
        raise typer.Exit(INTERRUPTED)


def refine(
    *,
    plan: Annotated[Path, typer.Argument(help="A plan file of kqo compile.", metavar="F.kqo")],
    image: Annotated[Path, typer.Argument(help="PNG, JPEG or .npy.", metavar="IMAGE")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results.", metavar="DIR")
    ],
    approximations: Approximations,
    target: Annotated[
        str | None, typer.Option("--class", help="Class to explain (default: the predicted one).")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds, after which nothing is asked.", metavar="S")
    ] = None,
) -> None:
    """Refine one image's heatmap from coarse to exact, until it is done, a deadline or Ctrl-C.

    The best heatmap so far is written as a picture (PNG) and as numbers (.npz).
    """
    from kqo.interop.images import load_image

    loaded = _loaded(plan, approximations)
    preprocess = preprocess_of(loaded)
    values = load_image(image, preprocess)
    folder(output)
    found: Refined | None = None
    interrupted = False
    step = approximations.step  # one of its own where none is asked for
    try:
        for found in loaded.refine(values, target=_target(target), step=step, deadline=deadline):
            count = int(found.known.sum())
            typer.echo(f"{found.seconds:8.2f} s  {count} of {found.known.size} cells", err=True)
    except KeyboardInterrupt:
        interrupted = True
        if found is None:
            raise
    assert found is not None
    _keep(found, loaded, values[0], image, output)
    if interrupted:
        typer.echo("interrupted: the best heatmap so far was kept")
        raise typer.Exit(INTERRUPTED)


def _loaded(plan: Path, approximations: Approximations) -> CompiledPlan:
    import kqo

    loaded = kqo.load(plan)
    given = approximations.approximations()
    return loaded.approximated(**given) if given else loaded


def _target(text: str | None) -> int | str | None:
    """A class by number or name."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def _said(result: Result) -> list[str]:
    """What there is to say of an approximate result."""
    lines = []
    if result.computed is not None:
        asked, count = int(result.computed.sum()), result.computed.size
        lines.append(f"{asked} of {count} positions computed, the others interpolated")
        estimate = result.facts.get("estimated_quality")
        if estimate is not None and asked < count:
            lines.append(f"estimated SSIM, going by what was computed: {estimate:.3f}")
    if result.expected_quality is not None and result.expected_quality < 1:
        lines.append(f"expected SSIM, going by the profile: {result.expected_quality:.3f} or more")
    if result.measured is not None:
        found = result.measured
        similar = "" if found["ssim"] is None else f", SSIM {found['ssim']:.3f}"
        lines.append(
            f"measured at {found['samples']} positions: mean error {found['mean_error']:.3g}, "
            f"largest {found['max_error']:.3g} of a range of {found['range']:.3g}, rank "
            f"correlation {found['rank_correlation']:.3f}{similar}"
        )
    return lines


def _keep(
    found: Refined, plan: CompiledPlan, image: NDArray[np.float32], path: Path, output: Path
) -> None:
    """Write a heatmap that may not be complete."""
    import numpy as np

    from kqo.explain.picture import draw_heatmap

    placed, preprocess = plan.placed, preprocess_of(plan)
    lattice = placed.lattice()
    if lattice is None or found.heatmap.ndim != 2:
        raise ArgumentError("plan", "positions that fill no grid of two axes", "such positions")
    names = preprocess.classes
    label = names[found.target] if found.target < len(names) else str(found.target)
    count = int(found.known.sum())
    with open(output / f"{path.stem}.npz", "wb") as file:
        np.savez_compressed(
            file,
            heatmap=found.heatmap,
            known=found.known,
            target=np.array(found.target),
            original=np.array(found.original),
        )
    draw_heatmap(
        preprocess.picture(image),
        found.original - found.heatmap,
        output / f"{path.stem}.png",
        window=tuple(int(n) for n in (placed.hi - placed.lo).max(axis=0)[-2:]),  # type: ignore[arg-type]
        stride=lattice.step,  # type: ignore[arg-type]
        origin=lattice.origin,  # type: ignore[arg-type]
        title=f"{path.name}: {label}",
        subtitle=f"{count} of {found.known.size} positions",
        value_label="drop of the score when hidden",
    )
    typer.echo(
        f"{path}: {label} {found.original:.4g}, {count} of {found.known.size} positions in "
        f"{found.seconds:.2f} s, {output / path.stem}.png"
    )


def draw(
    result: Result,
    preprocess: Preprocess,
    image: NDArray[np.float32],
    path: Path,
    *,
    name: str,
    target: int | str | None,
    probability: bool,
) -> None:
    """Write the picture of one image's heatmap: how far hiding each place lowers the score."""
    import numpy as np

    from kqo.explain.picture import draw_heatmap

    placed = result.workload
    number = result.target_class(target)
    window = tuple(int(n) for n in (placed.hi - placed.lo).max(axis=0)[-2:])
    drops = result.drops(target, probability)
    lattice = placed.lattice()
    if lattice is not None and placed.starts.shape[1] == 2:
        heat, origin, stride = drops.reshape(lattice.shape), lattice.origin, lattice.step
    else:
        # No grid of positions: the average per pixel shows the same, pixel by pixel.
        per_pixel = np.nan_to_num(result.attribution(target, probability))
        heat, origin, stride = per_pixel.mean(axis=0), (0, 0), (1, 1)
        window = (1, 1)
    subtitle = f"{len(placed)} positions"
    finite = np.isfinite(heat)
    if not finite.all():
        subtitle += f", {np.count_nonzero(~finite)} without a finite score are drawn as 0"
        heat = np.where(finite, heat, 0)
    measure = "probability" if probability or result.probabilities else "score"
    draw_heatmap(
        preprocess.picture(image),
        heat,
        path,
        window=window,  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        origin=origin,  # type: ignore[arg-type]
        title=f"{name}: {result.class_name(number)}",
        subtitle=subtitle,
        value_label=f"drop of the {measure} when hidden",
    )


def _for_json(value: Any) -> Any:
    """Plain values with null for NaN and infinity, which JSON has no words for."""
    if isinstance(value, dict):
        return {name: _for_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def stems(paths: list[Path]) -> list[str]:
    """Names of result files without ending; equal ones are told apart by a number."""
    seen: dict[str, int] = {}
    found = []
    for path in paths:
        seen[path.stem] = seen.get(path.stem, 0) + 1
        found.append(path.stem if seen[path.stem] == 1 else f"{path.stem}-{seen[path.stem]}")
    return found

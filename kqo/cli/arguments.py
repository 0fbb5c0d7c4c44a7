"""What the command line says of a model, a workload and a plan, and what that means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kqo.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kqo.interop.models import Resolved
    from kqo.interop.preprocess import Preprocess
    from kqo.options import Options
    from kqo.workloads import Occlusion

MODEL_HELP = "A name of the zoo, package.module:factory, FILE.py:factory, or a .pt2 file."


def _option(text: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar)


@dataclass(frozen=True)
class ModelArguments:
    """Which model."""

    model: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")]
    weights: Annotated[
        Path | None, _option("State dict: safetensors, or of torch.save.", "Model")
    ] = None
    shape: Annotated[
        str | None, _option("Shape of one input, such as 3,224,224.", "Model", metavar="C,H,W")
    ] = None
    input_size: Annotated[
        str | None, _option("Height and width of the input.", "Model", metavar="H,W")
    ] = None

    def resolve(self) -> Resolved:
        """The model; ArgumentError where it cannot be had."""
        from kqo.interop.models import DEFAULT_SHAPE, resolve_model

        shape = None
        if self.shape is not None and self.input_size is not None:
            raise ArgumentError("input-size", self.input_size, "either input-size or shape")
        if self.shape is not None:
            shape = numbers("shape", self.shape, int)
        elif self.input_size is not None:
            size = numbers("input-size", self.input_size, int)
            if len(size) > 2:
                raise ArgumentError("input-size", self.input_size, "one number, or H,W")
            shape = (DEFAULT_SHAPE[0], *(size * 2 if len(size) == 1 else size))
        if shape is not None and min(shape) < 1:
            raise ArgumentError("shape", self.shape or self.input_size, "whole numbers from 1")
        return resolve_model(self.model, self.weights, shape)


@dataclass(frozen=True)
class WorkloadArguments:
    """Which windows are hidden, and by what."""

    window: Annotated[
        str,
        _option("Window extent: a number, or one per axis.", "Workload", metavar="N[,N]"),
    ] = "16"
    stride: Annotated[
        str, _option("Step between windows, likewise.", "Workload", metavar="N[,N]")
    ] = "4"
    fill: Annotated[
        str,
        _option(
            "What stands in the window, in the model's units: a number, one per channel "
            "(0.1,0.2,0.3), mean, blur, or a .npy file.",
            "Workload",
        ),
    ] = "0"
    positions: Annotated[
        str | None,
        _option("Window starts 'Y,X;Y,X;...', or a .npy file.", "Workload", metavar="Y,X;..."),
    ] = None
    roi: Annotated[
        str | None,
        _option("Window starts only from this box.", "Workload", metavar="Y0:Y1,X0:X1"),
    ] = None

    def workload(self) -> Occlusion:
        """The workload; ArgumentError for text that says none."""
        from kqo.workloads import Occlusion

        return Occlusion(
            steps("window", self.window),
            steps("stride", self.stride),
            fill=_fill(self.fill),
            positions=None if self.positions is None else _positions(self.positions),
            roi=None if self.roi is None else _roi(self.roi),
        )


@dataclass(frozen=True)
class Approximations:
    """How exact answers have to be; all neutral by default."""

    tau: Annotated[
        float | None,
        _option(
            "Clip the projective field to this share; below 1 is approximate.", "Approximation"
        ),
    ] = None
    threshold: Annotated[
        float | None,
        _option(
            "Drop what changed by less, in standard deviations of a layer; above 0 is approximate.",
            "Approximation",
        ),
    ] = None
    step: Annotated[
        int | None,
        _option("Of a coarse grid that is asked first, in cells.", "Approximation"),
    ] = None
    share: Annotated[
        float | None,
        _option("Of the other cells, those that are asked then, at most.", "Approximation"),
    ] = None
    until: Annotated[
        float | None,
        _option("Estimated SSIM with which fewer cells are enough.", "Approximation"),
    ] = None
    order: Annotated[
        str | None,
        _option("Which cells those are: score, or error.", "Approximation"),
    ] = None
    quality: Annotated[
        float | None, _option("SSIM to reach on 95 % of images; needs a profile.", "Approximation")
    ] = None
    speedup: Annotated[
        float | None,
        _option("Over exact; needs a profile, or a share.", "Approximation"),
    ] = None
    profile: Annotated[
        Path | None, _option("Of kqo tune.", "Approximation", metavar="FILE.json")
    ] = None

    def approximations(self) -> dict[str, Any]:
        """What was given, as :meth:`kqo.CompiledPlan.approximated` takes it."""
        drill = ("step", "share", "until", "order")
        names = ("tau", "threshold", *drill, "quality", "speedup", "profile")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class PlanArguments(Approximations):
    """How the plan may be computed."""

    target: Annotated[str, _option("numpy, cuda or auto.", "Plan")] = "numpy"
    precision: Annotated[
        str, _option("Of products on a GPU: float32, tf32 or float16.", "Plan")
    ] = "float32"
    threads: Annotated[int | None, _option("Worker threads.", "Plan")] = None
    memory: Annotated[
        str | None, _option("Memory budget, such as 500MB.", "Plan", metavar="BYTES")
    ] = None
    batch: Annotated[int | None, _option("Queries per batch.", "Plan")] = None
    without: Annotated[
        list[str] | None, _option("Leave out a rule or a family of rules.", "Plan", metavar="RULE")
    ] = None
    rules: Annotated[
        list[Path] | None, _option("Folder with further rule files.", "Plan", metavar="DIR")
    ] = None
    reinference: Annotated[
        str,
        _option(
            "auto: torch runs the whole model where a plan is not clearly faster; never.", "Plan"
        ),
    ] = "auto"
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail where torch would run a part.", rich_help_panel="Plan"),
    ] = False

    def options(self) -> Options:
        """The options; ArgumentError for values that are not accepted."""
        from kqo.options import Options

        approximations = self.approximations()
        tau = approximations.pop("tau", None)
        for folder in self.rules or ():
            if not folder.is_dir():
                raise ArgumentError("rules", f"{folder}, which is no folder", "a folder of rules")
        return Options(
            memory=self.memory,
            threads=self.threads,
            target=self.target,
            precision=self.precision,
            approximations={} if tau is None else {"tau": tau},
            strict=self.strict,
            reinference=self.reinference,
            without=tuple(self.without or ()),
            rules=tuple(map(str, self.rules or ())),
            batch=self.batch,
            **approximations,
        )


@dataclass(frozen=True)
class ImageArguments:
    """How images become the model's input; stored with the plan."""

    resize: Annotated[
        int | None, _option("Shorter side before the centre is cut out.", "Images", metavar="N")
    ] = None
    mean: Annotated[
        str | None,
        _option("Mean per channel, after /255 (default: ImageNet's).", "Images", metavar="R,G,B"),
    ] = None
    std: Annotated[
        str | None,
        _option("Deviation per channel (default: ImageNet's).", "Images", metavar="R,G,B"),
    ] = None
    channels: Annotated[str | None, _option("rgb, bgr or gray.", "Images")] = None
    classes: Annotated[
        Path | None, _option("Names of the classes, one a line.", "Images", metavar="FILE")
    ] = None
    probabilities: Annotated[
        bool, _option("The model gives probabilities.", "Images", "--probabilities")
    ] = False

    def preprocess(self, shape: tuple[int, ...]) -> Preprocess | None:
        """The preprocessing for inputs of this shape, None where they are no images (C, H, W)."""
        from kqo.interop.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

        if len(shape) != 3 or shape[0] not in (1, 3):
            return None
        colour = shape[0] == 3
        size = (shape[1], shape[2])
        return Preprocess(
            size,
            resize=Preprocess.imagenet(size).resize if self.resize is None else self.resize,
            mean=_moments("mean", self.mean, IMAGENET_MEAN if colour else (0.5,)),
            std=_moments("std", self.std, IMAGENET_STD if colour else (0.5,)),
            channels=self.channels or ("rgb" if colour else "gray"),
            classes=() if self.classes is None else _lines(self.classes),
            outputs="probabilities" if self.probabilities else "logits",
        )


def numbers(name: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Numbers separated by commas; ArgumentError for other text."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(name, repr(text), "numbers, separated by commas") from None


def steps(name: str, text: str) -> int | tuple[int, ...]:
    """One number for every axis, or one for each."""
    found = numbers(name, text, int)
    return found[0] if len(found) == 1 else found


def _moments(name: str, text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    return default if text is None else numbers(name, text, float)


def _fill(text: str) -> float | str | list[float] | NDArray[np.float32]:
    if text.endswith(".npy"):
        return _array("fill", text).astype("float32")
    if text[:1].isalpha() and text not in ("nan", "inf"):
        return text  # a named fill; the workload knows which there are
    found = numbers("fill", text, float)
    return found[0] if len(found) == 1 else list(found)


def _positions(text: str) -> NDArray[np.generic] | list[tuple[int, ...]]:
    if text.endswith(".npy"):
        return _array("positions", text)
    return [numbers("positions", part, int) for part in text.split(";") if part.strip()]


def _roi(text: str) -> tuple[tuple[int, int], ...]:
    pairs = []
    for part in text.split(","):
        try:
            lo, hi = map(int, part.split(":"))
        except ValueError:
            raise ArgumentError(
                "roi", repr(text), "lo:hi for each axis, such as 0:64,32:96"
            ) from None
        pairs.append((lo, hi))
    return tuple(pairs)


def _array(name: str, text: str) -> NDArray[np.generic]:
    import numpy as np

    try:
        found = np.load(text, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArgumentError(name, f"{text} ({reason})", "a .npy file of numbers") from None
    if found.dtype.kind not in "fiu":
        raise ArgumentError(name, f"{text} with {found.dtype}", "a .npy file of numbers")
    return np.asarray(found)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(
            "classes", f"{path} ({error})", "a text file, one name a line"
        ) from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())

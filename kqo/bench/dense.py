"""Dense re-inference engines, each timed at its best batch size: what a plan is compared with."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kqo.interop.text import one_line

Array = NDArray[np.float32]
BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Engine:
    """Something that runs a model on a batch.

    Attributes:
        name: what to call it.
        run: from images (N, ...) float32 to the first output (N, outputs...).
    """

    name: str
    run: Callable[[Array], Array]


@dataclass(frozen=True)
class Timing:
    """How long an engine took: seconds per image at a batch size."""

    batch: int
    seconds: float


def torch_engine(module: nn.Module) -> Engine:
    """PyTorch on the CPU: float32, inference mode, channels last for inputs (C, H, W)."""

    def run(images: Array) -> Array:
        tensor = torch.from_numpy(images)
        if tensor.dim() == 4:
            tensor = tensor.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            return first_output(module(tensor))

    if any(p.dim() == 4 for p in module.parameters()):
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Engine(f"PyTorch {torch.__version__.split('+')[0]}", run)


def onnx_engine(
    module: nn.Module, shape: tuple[int, ...], threads: int | None
) -> tuple[Engine | None, str]:
    """ONNX Runtime over the model exported by torch.

    Returns:
        The engine and an empty text, or None and why there is none.
    """
    try:
        import onnxruntime
    except ImportError:
        return None, "not installed"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = str(Path(folder, "model.onnx"))
            torch.onnx.export(
                module,
                (torch.zeros((2, *shape)),),
                path,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
                dynamo=False,
            )
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
    except Exception as error:
        return None, f"cannot run this model ({one_line(error)})"

    def run(images: Array) -> Array:
        found: Array = session.run(None, {"input": images})[0]
        return found

    return Engine(f"ONNX Runtime {onnxruntime.__version__}", run), ""


def first_output(given: object) -> Array:
    """The first tensor of what a module returned, as an array."""
    return np.asarray(first_tensor(given).detach().numpy(), dtype=np.float32)


def first_tensor(given: object) -> torch.Tensor:
    """The first tensor of what a module returned."""
    while not isinstance(given, torch.Tensor):
        if isinstance(given, dict):
            given = next(iter(given.values()))
        elif isinstance(given, (tuple, list)):
            given = given[0]
        else:
            raise TypeError(f"a model that returns {type(given).__name__}")
    return given


def time_engine(engine: Engine, images: Array, batch: int) -> Timing:
    """Seconds per image over one pass of all the images in batches; the last may be smaller."""
    began = time.perf_counter()
    for start in range(0, len(images), batch):
        engine.run(images[start : start + batch])
    return Timing(batch, (time.perf_counter() - began) / len(images))


def best_batch(
    engine: Engine, images: Array, batches: Sequence[int] = BATCHES, repeats: int = 3
) -> Timing:
    """The batch size at which an engine is fastest per image, and its median there.

    Args:
        engine: what to time.
        images: at least as many as the largest batch.
        batches: sizes to try.
        repeats: timed passes per size, after one that warms up.
    """
    timings = []
    for batch in batches:
        part = images[:batch]
        engine.run(part)
        taken = [time_engine(engine, part, batch).seconds for _ in range(repeats)]
        timings.append(Timing(batch, statistics.median(taken)))
    return min(timings, key=lambda timing: timing.seconds)

"""From what the options ask for to an engine on a GPU, where there is one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from kqo.errors import DeviceError
from kqo.ir.boxes import Boxes
from kqo.ir.plan import Plan
from kqo.options import Options
from kqo.planner.choose import Chooser
from kqo.planner.rates import Rates
from kqo.rewrite.memo import Memo
from kqo.runtime.cuda.calibrate import gpu_rates
from kqo.runtime.cuda.device import CupyDevice, NoGpuError, gpu_refusal
from kqo.runtime.cuda.engine import CudaEngine


def gpu_engine(
    plan: Plan, memo: Memo, changed: Mapping[str, Boxes], options: Options
) -> tuple[Chooser, CudaEngine, Rates] | str:
    """The choice by a GPU's rates, the engine that runs it, and the rates. Where NumPy runs the
    plan, a sentence that says why, which is empty where it was asked for.

    With ``auto`` a GPU that fails, or cannot run the plan, is a RuntimeWarning too: kernels are
    loaded and memory is taken to know. That there is none is no warning.

    Args:
        plan: the logical plan under the workload.
        memo: its alternatives.
        changed: the region relation of each base relation.
        options: of the plan.

    Raises:
        DeviceError: the target is ``cuda``, and there is no GPU, or the plan cannot run on it.
    """
    if options.target == "numpy":
        return ""
    try:
        if options.target == "auto" and (refusal := gpu_refusal()) is not None:
            raise refusal
        device = CupyDevice()
        rates = gpu_rates(device.name, options.precision)
        # Products of tensor cores are not Winograd's.
        tolerance = options.tolerance if options.precision == "float32" else None
        chooser = Chooser(plan, memo, changed, rates, tolerance)
        engine = CudaEngine(
            chooser.choose(),
            changed,
            device=device,
            precision=options.precision,
            memory=options.memory_bytes,
            batch=options.batch,
        )
        if options.target == "auto":
            engine.prepare()
    except DeviceError as error:
        if options.target == "cuda":
            raise
        said = f"On NumPy, not on a GPU: {error.message}."
        if not isinstance(error, NoGpuError):
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        return said
    return chooser, engine, rates


def on_gpu(engine: Callable[[], object], value: Any) -> Any:
    """An array that is on a GPU, for an engine that is there too; else None."""
    if hasattr(value, "detach"):  # torch refuses the question of tensors that need gradients
        value = value.detach()
    there = getattr(value, "is_cuda", None)  # torch's own word, which it has for every type
    if not (hasattr(value, "__cuda_array_interface__") if there is None else there):
        return None
    found = engine()
    return found.device.asarray(value) if isinstance(found, CudaEngine) else None

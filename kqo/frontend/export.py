"""From a model to a functional graph of ATen operators: recorded, or by ``torch.export``."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from kqo.errors import ArgumentError, ExportError
from kqo.frontend.program import Program
from kqo.frontend.registry import TABLE

TRACING = threading.RLock()
"""One model at a time: while it is traced, PyTorch puts other weights into the model itself."""

BATCH_SIZE = 2
"""Models are exported at this batch size: at 1 a batch dimension looks like a broadcast one."""

_ROUNDS = 4
"""How often operators that decompositions leave behind are decomposed in turn."""

_REASONS = (
    ("data-dependent", "its control flow or a shape depends on the values of its input"),
    ("Could not guard on", "its control flow or a shape depends on the values of its input"),
    ("Dynamic control flow", "its control flow depends on the values of its input"),
    ("is not supported", "it uses Python or an operator that torch.export does not support"),
)


def export(model: object, example_inputs: tuple[Tensor, ...] | None) -> Program:
    """The program of a model, of a ``.pt2`` file, or of the given ExportedProgram.

    Args:
        model: a module in eval mode, an ExportedProgram, or the path of a ``.pt2`` file.
        example_inputs: tensors with a leading batch dimension of any extent; may be None for a
            program, which has its own.

    Raises:
        ArgumentError: a model in training mode, or inputs that are no such tensors.
        ExportError: torch.export fails; the message says why.
    """
    with TRACING:
        return _program(model, example_inputs)


def _program(model: object, example_inputs: tuple[Tensor, ...] | None) -> Program:
    if isinstance(model, (str, Path)):
        model = _load(Path(model))
    if isinstance(model, nn.Module):
        if example_inputs is None:
            raise ArgumentError("example_inputs", None, "a tuple of tensors, one per input")
        _check_mode(model)
        batched = _batched(model, _check_inputs(example_inputs))
        with _quiet():
            recorded = _recorded(model, batched)
        if recorded is not None:
            return recorded
        program = _export(model, batched)
    elif isinstance(model, ExportedProgram):
        program = _fixed(model, example_inputs)
    else:
        raise ArgumentError(
            "model", type(model).__name__, "a torch.nn.Module, an ExportedProgram, or a .pt2 file"
        )
    with _quiet():
        return Program.of(_functional(program))


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place operators; unknown ones are decomposed where PyTorch can."""
    table = torch.export.default_decompositions()
    wanted: dict[Any, Any] = {}
    for _ in range(_ROUNDS):
        program = program.run_decompositions(dict(wanted))
        called = {n.target for n in program.graph.nodes if n.op == "call_function"}
        unknown = {op: table[op] for op in called if str(op) not in TABLE and op in table}
        if not unknown:
            break
        wanted |= unknown
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, logs and prints: what matters is in the error it raises."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _load(path: Path) -> ExportedProgram:
    if not path.exists():
        raise ArgumentError("model", path, "a .pt2 file that exists")
    try:
        with _quiet():
            program: ExportedProgram = torch.export.load(path)
            return program
    except Exception as error:
        raise ArgumentError(
            "model", path, f"a file of torch.export.save; {_first_line(error)}"
        ) from error


def _check_mode(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training:
            what = f"module {name!r} in training mode" if name else "a model in training mode"
            raise ArgumentError("model", what, "a model in eval mode", hint="call model.eval()")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            what = f"{name} on the meta device, which holds no values"
            raise ArgumentError("model", what, "a model with its weights loaded")
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind = tensor.dtype if tensor.is_quantized else tensor.layout
            hint = f"call {'dequantize' if tensor.is_quantized else 'to_dense'}() on it"
            raise ArgumentError("model", f"{name} as {kind}", "dense tensors of numbers", hint=hint)


def _check_inputs(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    accepted = "a tuple of tensors with a leading batch dimension"
    if not isinstance(inputs, (tuple, list)) or not inputs:
        raise ArgumentError("example_inputs", type(inputs).__name__, accepted)
    for tensor in inputs:
        if not isinstance(tensor, Tensor):
            raise ArgumentError(
                "example_inputs", f"an element of type {type(tensor).__name__}", accepted
            )
        if tensor.dim() == 0 or tensor.shape[0] == 0:
            raise ArgumentError(
                "example_inputs", f"a tensor of shape {tuple(tensor.shape)}", accepted
            )
    return tuple(inputs)


def _batched(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs at the batch size of the export, of the model's type and on its device."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    out = []
    for tensor in inputs:
        first = tensor.detach()[:1]
        if parameter is not None and first.is_floating_point():
            first = first.to(parameter.device, parameter.dtype)
        out.append(first.expand(BATCH_SIZE, *first.shape[1:]).contiguous())
    return tuple(out)


def _recorded(model: nn.Module, inputs: tuple[Tensor, ...]) -> Program | None:
    """The program as it is recorded; None where that cannot be, or with a torch that has no such
    modes, which are not part of its stable interface."""
    try:
        from kqo.frontend.record import record
    except (ImportError, AttributeError):
        return None
    return record(model, inputs)


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    try:
        with _quiet():
            return torch.export.export(model, inputs, strict=False)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        reason = next((plain for mark, plain in _REASONS if mark.lower() in text.lower()), "")
        message = f"torch.export cannot export {type(model).__name__}"
        detail = _first_line(error)
        if reason:
            raise ExportError(f"{message}: {reason} [{detail}]") from error
        shapes = " and ".join(f"{tuple(x.shape[1:])}" for x in inputs)
        hint = f"it was called with a batch of {len(inputs[0])}, each of shape {shapes}"
        raise ExportError(f"{message}: {detail}", hint=hint) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _fixed(program: ExportedProgram, inputs: tuple[Tensor, ...] | None) -> ExportedProgram:
    """The program itself, or exported anew at fixed extents where some are symbols."""
    symbolic = any(
        not isinstance(extent, int)
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor)
        for extent in node.meta["val"].shape
    )
    if not symbolic:
        return program
    if inputs is None:
        inputs = program.example_inputs[0] if program.example_inputs else None
    if inputs is None:
        raise ArgumentError(
            "example_inputs", None, "a tuple of tensors: the program's are not stored"
        )
    module = program.module()
    return _export(module, _batched(module, _check_inputs(inputs)))

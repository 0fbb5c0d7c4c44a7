"""Lowering a function or a module, interpreting the plan, and comparing with PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kqo.frontend import Lowered, lower
from kqo.ir.interpret import interpret
from kqo.ir.verify import verify

TOLERANCE = 1e-9
Array = NDArray[np.float64]


class Function(nn.Module):
    """A function of tensors as a module, with other modules that it may call by attribute."""

    def __init__(self, fn: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.fn(*inputs)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode and float64, with non-trivial parameters and statistics."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) - 0.3)
        for name, value in model.named_buffers():
            if "var" in name:
                value.abs_().add_(0.3)
    return model


def check(model: Any, *inputs: Tensor, tolerance: float = TOLERANCE) -> Lowered:
    """Lower, verify and interpret on each image; the outputs must be PyTorch's."""
    if not isinstance(model, nn.Module):
        model = Function(model)
    model = model.double().eval()
    lowered = lower(model, inputs)
    verify(lowered.plan)
    assert lowered.plan.dtype == "float64"
    with torch.no_grad():
        wanted = flat(model(*inputs))
    assert len(wanted) == len(lowered.output_names)
    scans = {scan.name for scan in lowered.plan.scans}
    order = scan_names(model, len(inputs))
    for image in range(inputs[0].shape[0]):
        given = {n: x[image].numpy() for n, x in zip(order, inputs, strict=True) if n in scans}
        found = interpret(lowered.plan, given)
        for name, tensor in zip(lowered.output_names, wanted, strict=True):
            expected = tensor[image].double().numpy()
            assert found[name].shape == expected.shape
            np.testing.assert_allclose(found[name], expected, rtol=tolerance, atol=tolerance)
    return lowered


class Many(nn.Module):
    """Many functions in one module, each with an input of its own: one export serves many tests."""

    def __init__(self, cases: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.cases = dict(cases)
        for name, case in cases.items():
            if isinstance(case, nn.Module):
                self.add_module(name, case)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        pairs = zip(self.cases.items(), inputs, strict=True)
        return {name: case(x) for (name, case), x in pairs}


def evaluate_all(
    cases: Mapping[str, Callable[[Tensor], Tensor]], inputs: Mapping[str, Tensor]
) -> dict[str, tuple[Array, Array]]:
    """What the plan and what PyTorch gives for each case, for the last image of the batch."""
    model = Many(cases).double().eval()
    given = [inputs[name] for name in cases]
    lowered = lower(model, tuple(given))
    verify(lowered.plan)
    found = interpret(lowered.plan, {f"inputs_{k}": x[-1].numpy() for k, x in enumerate(given)})
    with torch.no_grad():
        wanted = model(*given)
    order = dict(zip(wanted, lowered.output_names, strict=True))
    return {n: (found[order[n]], wanted[n][-1].double().numpy()) for n in cases}


def assert_equal(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def scan_names(model: nn.Module, count: int) -> list[str]:
    """Names of a module's inputs in a plan: "image" for a single one, else of the arguments."""
    if count == 1:
        return ["image"]
    if isinstance(model, Function):
        return [f"inputs_{k}" for k in range(count)]
    return list(inspect.signature(model.forward).parameters)


def flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for value in values for tensor in flat(value)]


def ops(lowered: Lowered) -> list[str]:
    """Operators of the plan's nodes."""
    return [node.op for node in lowered.plan.nodes()]

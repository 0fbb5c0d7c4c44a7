"""Emitted sources: snapshots that a person can read, and what runs."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.runtime.engine import Engine
from tests.property.layers import Apply

FOLDER = Path(__file__).parents[1] / "golden" / "source"
LONGEST = 120


def _winograd() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, (1, 3)))


def _gather() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.Conv2d(8, 4, 1))


def _taps() -> nn.Module:
    depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    return nn.Sequential(depthwise, nn.MaxPool2d(2), nn.AvgPool2d(3, 1, count_include_pad=False))


def _groups() -> nn.Module:
    """Groups of 4 features, four of them to a product; then groups wide enough on their own."""
    narrow = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=8), nn.BatchNorm2d(32), nn.ReLU())
    return narrow.append(nn.Conv2d(32, 64, 1, groups=2))


def _residual() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    add: Callable[..., Tensor] = lambda x, inner: (x + inner(x)).relu()  # noqa: E731
    return nn.Sequential(nn.Conv2d(2, 4, 1), Apply("residual", add, block))


def _concat() -> nn.Module:
    join: Callable[..., Tensor] = lambda x, a, b: torch.cat([a(x), b(x).sigmoid()], 1)  # noqa: E731
    return Apply("branches", join, nn.Conv2d(2, 3, 1), nn.Conv2d(2, 2, 3, padding=1))


def _dense() -> nn.Module:
    """A layer of a DenseNet: its scale goes into the kernel, its ReLU into the concatenation."""
    layer = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([0.5, -1, 2, 0.25, 0.5]))
    return nn.Sequential(_concat(), layer)


def _head() -> nn.Module:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), pooled, nn.Linear(6, 3), nn.Softmax(1))


def _volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU(), nn.MaxPool3d(2))


def _siblings() -> nn.Module:
    """Convolutions that read the same rows, one of them without an epilogue."""
    join: Callable[..., Tensor] = lambda x, a, b, c: torch.cat([a(x).relu(), b(x), c(x)], 1)  # noqa: E731
    layers = nn.Conv2d(32, 8, 1), nn.Conv2d(32, 16, 1), nn.Conv2d(32, 4, 1, bias=False)
    return nn.Sequential(nn.Conv2d(2, 32, 3), Apply("branches", join, *layers))


def _series() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose1d(2, 3, 3, stride=2), nn.GELU(), nn.Conv1d(3, 2, 5))


# The network, the shape of its input, and forms that its plan must have.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "winograd": (_winograd, (16, 32, 32), {"winograd", "patch"}),
    "gather_gemm": (_gather, (3, 12, 12), {"gather_gemm"}),
    "taps": (_taps, (4, 12, 12), {"taps"}),
    "groups": (_groups, (32, 12, 12), {"grouped_gemm"}),
    "residual": (_residual, (2, 12, 12), {"gather_gemm"}),
    "concat": (_concat, (2, 12, 12), {"concat"}),
    "dense": (_dense, (2, 12, 12), {"concat", "gather_gemm"}),
    "head": (_head, (2, 12, 12), {"gather_gemm", "additive"}),
    "volume": (_volume, (2, 8, 8, 8), {"gather_gemm", "plain"}),
    "siblings": (_siblings, (2, 12, 12), {"gather_gemm", "concat"}),
    "series": (_series, (2, 24), {"gather_gemm"}),
}


def compiled(name: str, double: bool = False) -> kqo.CompiledPlan:
    make, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    model = model.double() if double else model
    image = torch.zeros(1, *shape, dtype=torch.float64 if double else torch.float32)
    return kqo.compile(model, (image,), kqo.Occlusion(window=4, stride=4), name=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_source_is_the_snapshot(name: str, update_golden: bool) -> None:
    plan = compiled(name)
    assert NETWORKS[name][2] <= {step.form for step in plan.physical.steps}
    path = FOLDER / f"{name}.py.txt"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(plan.source, encoding="utf-8")
        return
    assert path.is_file(), f"{path.name} is missing; run pytest --update-golden"
    assert plan.source == path.read_text(encoding="utf-8")


def test_every_snapshot_is_of_a_network() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.py.txt" for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_source_can_be_read(name: str) -> None:
    """Each function says what it does, lines are short, and names are those of the layers."""
    source = compiled(name).source
    module = ast.parse(source)
    assert ast.get_docstring(module)
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    assert functions and all(ast.get_docstring(function) for function in functions)
    # Kernels of Winograd are tables of numbers; all else fits on a screen.
    lines = [line for line in source.splitlines() if "np.array([" not in line]
    assert max(map(len, lines)) <= LONGEST
    assert "  \n" not in source and "\n\n\n\n" not in source


@pytest.mark.parametrize("name", ["winograd", "head"])
def test_float64_models_compute_in_float64(name: str) -> None:
    source = compiled(name, double=True).source
    assert "np.float32" not in source
    assert compiled(name).source.replace("np.float32", "np.float64") == source


def test_equal_steps_share_a_function() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(5)]
    model = nn.Sequential(*layers).eval()
    plan = kqo.compile(model, (torch.zeros(1, 4, 6, 6),), kqo.Occlusion(2, 2))
    functions = [n for n in ast.parse(plan.source).body if isinstance(n, ast.FunctionDef)]
    assert len(plan.physical.steps) >= 10  # views and delta rows of five layers
    assert len(functions) <= 4


def test_the_source_is_what_runs() -> None:
    plan = compiled("gather_gemm")
    engine = plan._planned[3]
    image = np.random.default_rng(0).normal(size=(3, 12, 12)).astype(np.float32)
    assert plan.source.count("sigmoid(") >= 1
    edited = plan.source.replace("sigmoid(u1", "np.negative(u1")
    assert edited != plan.source
    changed = {"image": plan.placed.boxes(plan.scan.axes)}
    other = Engine(plan.physical, edited, changed)
    one, two = (e.run({"image": image})["output"] for e in (engine, other))
    assert np.abs(one - two).max() > 0.1

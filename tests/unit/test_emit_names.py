"""Names of layers, constants and models in emitted code: whatever they say, they stay names."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.api import CompiledPlan
from kqo.ir.nodes import Const
from kqo.ir.plan import Plan

EFFECT = 'import os; os.environ["KQO_HOSTILE"] = "ran"'
HOSTILE = [
    f'"]; {EFFECT}; c["',
    f"a\n{EFFECT}\n",
    f'"""\n{EFFECT}\n"""',
    f"\r{EFFECT}",
    "a\\",
    'a"',
]


def network(*names: str) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential()
    layers.add_module(names[0], nn.Conv2d(2, 3, 3))
    layers.add_module(names[1], nn.Sigmoid())
    layers.add_module(names[2], nn.Conv2d(3, 2, 3))
    return layers.eval()


@pytest.mark.parametrize(
    "name", ["np", "sigmoid", "where", "constants", "winograd_kernel", "2", "größe", "日本", "s"]
)
def test_layers_may_be_named_as_the_code_names_its_own(name):
    x = torch.randn(1, 2, 9, 9)
    for model in (network(name, "act", "last"), network("first", name, "last")):
        plan = kqo.compile(model, (x,), kqo.Occlusion(3, 3))
        with torch.no_grad():
            np.testing.assert_allclose(plan.run(x).original, model(x)[0].numpy(), atol=1e-5)


def renamed(plan: Plan, suffix: str) -> Plan:
    """The plan with every constant, and itself, named with a suffix."""
    new = {}
    for node in plan.nodes():
        inputs = tuple(new[i] for i in node.inputs)
        named = isinstance(node, Const)
        new[node] = Const(node.name + suffix, node.axes) if named else node.with_inputs(inputs)
    roots = tuple((name, new[root]) for name, root in plan.roots)
    constants = {name + suffix: value for name, value in plan.constants.items()}
    return Plan(plan.name + suffix, roots, constants, {}, plan.dtype, plan.inputs)


@pytest.mark.parametrize("suffix", HOSTILE)
def test_names_are_never_code(suffix, monkeypatch):
    monkeypatch.delenv("KQO_HOSTILE", raising=False)
    model, x = network("first", "act", "last"), torch.randn(1, 2, 9, 9)
    made = kqo.compile(model, (x,), kqo.Occlusion(3, 3))
    plan = CompiledPlan(renamed(made.logical, suffix), made.workload, made.options)
    with torch.no_grad():
        np.testing.assert_allclose(plan.run(x).original, model(x)[0].numpy(), atol=1e-5)
    assert "KQO_HOSTILE" not in os.environ

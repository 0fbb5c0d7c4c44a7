"""Recording a module gives the plan that torch.export gives, or leaves it to torch.export."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo import zoo
from kqo.errors import ExportError
from kqo.frontend import Lowered, lower
from kqo.frontend.record import record
from tests import models
from tests.asking import assert_answers
from tests.models import MODELS, SMALL_ZOO
from tests.strangers import STRANGERS
from tests.unit.lowering import Function

IMAGE = torch.zeros(2, 3, 8, 8)


def _exported(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, inputs: tuple[Tensor, ...]
) -> Lowered:
    with monkeypatch.context() as patch:
        patch.setattr("kqo.frontend.record.record", lambda *_: None)
        return lower(model, inputs, strict=False)


def _assert_same(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    assert record(model, inputs) is not None
    recorded = lower(model, inputs, strict=False)
    exported = _exported(monkeypatch, model, inputs)
    assert recorded.plan.roots == exported.plan.roots
    assert recorded.plan.inputs == exported.plan.inputs
    assert recorded.plan.origins == exported.plan.origins
    assert recorded.output_names == exported.output_names
    assert recorded.notes == exported.notes
    assert list(recorded.plan.constants) == list(exported.plan.constants)
    for name, values in recorded.plan.constants.items():
        assert (values == exported.plan.constants[name]).all()
    assert recorded.weights.items() <= exported.weights.items()


@pytest.mark.parametrize("name", MODELS)
def test_models_are_recorded_as_exported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    inputs = tuple(torch.zeros(2, *shape) for shape in MODELS[name][1])
    _assert_same(monkeypatch, models.build(name), inputs)


@pytest.mark.parametrize("name", SMALL_ZOO)
def test_the_zoo_is_recorded_as_exported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    width, size = SMALL_ZOO[name]
    model = zoo.build(name, width=width)
    _assert_same(monkeypatch, model, (torch.zeros(2, 3, size, size),))


@pytest.mark.parametrize("name", ["convnext_v2", "aspp", "unet3d", "inception_time", "ghost"])
def test_strangers_are_recorded_as_exported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, shape, _ = STRANGERS[name]
    _assert_same(monkeypatch, make().eval(), (torch.zeros(2, *shape),))


class Several(nn.Module):
    """Two inputs with names, a dict of results, and a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(3, 2)
        self.unused = nn.Linear(7, 7)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        both = self.shared(self.shared(left)) + right
        parts = both.split([1, 2], 1)
        unread = both.exp().sum((2, 3))
        assert unread.shape[1] == 3
        return {"classes": self.head(both.mean((2, 3))), "map": parts[1]}


def test_names_of_inputs_and_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Several().eval()
    _assert_same(monkeypatch, model, (IMAGE, IMAGE))
    lowered = lower(model, (IMAGE, IMAGE))
    assert lowered.plan.inputs == ("left", "right")
    assert lowered.output_names == ("classes", "map")
    assert not any(name.startswith("unused") for name in lowered.weights)
    layers = {origin.layer for origin in lowered.plan.origins.values()}
    assert {"shared.0", "shared.1", "head"} <= layers
    sources = {o.source.split(":")[0] for o in lowered.plan.origins.values() if o.source}
    assert sources == {PurePath(__file__).name}


def _in_bfloat16(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return torch.matmul(x, x).mean((2, 3))


def _by_value(x: Tensor) -> Tensor:
    return x.relu() if x.sum() > 0 else x.sigmoid()


def _by_value_in_python(x: Tensor) -> Tensor:
    return x.relu() if x[0, 0, 0].tolist()[0] > 0 else x.sigmoid()


def _caught(x: Tensor) -> Tensor:
    """Data decide, and the model takes what tells of it for an answer."""
    try:
        return x * float(x.sum())
    except Exception:
        return x


def _another_shape(x: Tensor) -> Tensor:
    return (x * 2).unsqueeze_(2).relu()


def _sorted(x: Tensor) -> Tensor:
    return x.sort(-1).values


def _returns_a_number(x: Tensor) -> Any:
    return x.relu(), 3


class Attribute(nn.Module):
    """A constant that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean).relu()


def _truth_values_as_numbers(x: Tensor) -> Tensor:
    return (x * 2).gt_(0)


def _in_place_power(x: Tensor) -> Tensor:
    return (x * 2).pow_(2)


def _float_into_half(x: Tensor) -> Tensor:
    return torch.add(x.half(), 1).add_(x)


@pytest.mark.parametrize(
    "body",
    [
        _truth_values_as_numbers,
        _in_place_power,
        _float_into_half,
        _in_bfloat16,
        _by_value,
        _by_value_in_python,
        _caught,
        _another_shape,
        _sorted,
        _returns_a_number,
    ],
)
def test_what_torch_export_must_look_at(body: Callable[[Tensor], Any]) -> None:
    assert record(Function(body).eval(), (IMAGE,)) is None


@pytest.mark.parametrize("body", [_by_value, _by_value_in_python])
def test_control_flow_by_values_is_an_error(body: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ExportError, match="values of its input"):
        lower(Function(body).eval(), (IMAGE,))


def test_a_tensor_attribute_is_a_constant_of_the_exported_program() -> None:
    model = Attribute().eval()
    assert record(model, (IMAGE,)) is None
    assert_answers(model, (torch.randn(1, 3, 8, 8),), kqo.Occlusion(3, 2))


def test_a_torch_without_such_modes_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kqo.frontend.record", None)
    model = nn.Conv2d(3, 4, 3).eval()
    assert_answers(model, (torch.randn(1, 3, 8, 8),), kqo.Occlusion(3, 2))


def test_scripted_modules_are_left_to_torch_export() -> None:
    with pytest.warns(DeprecationWarning):
        model = torch.jit.trace(nn.Conv2d(3, 4, 3).eval(), IMAGE)
    assert record(model, (IMAGE,)) is None


class Keeps(nn.Module):
    """Notes what it saw, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.calls = 0
        self.notes: dict[str, list[Tensor]] = {"seen": []}

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.conv(x)
        self.calls += 1
        self.notes["seen"].append(self.seen)
        self.register_buffer("last", self.seen)
        self.conv.register_forward_hook(lambda *_: None)
        return self.seen.relu()


def test_the_model_keeps_its_attributes_and_hooks() -> None:
    model = Keeps().eval()
    before = {name: id(tensor) for name, tensor in model.named_parameters()}
    assert record(model, (IMAGE,)) is not None
    assert model.calls == 0
    assert model.notes == {"seen": []}
    assert not model._buffers
    assert not model.conv._forward_hooks
    assert not hasattr(model, "seen")
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == before
    assert model(IMAGE).shape == (2, 4, 6, 6)


def test_modules_that_other_threads_run_are_not_noted() -> None:
    """Layers are those of the recorded model, whatever runs beside it."""
    model, other = Keeps().eval(), nn.Sequential(nn.ReLU(), nn.ReLU())
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            other(IMAGE)

    beside = threading.Thread(target=run)
    beside.start()
    try:
        layers = {o.layer for _ in range(20) for o in lower(model, (IMAGE,)).plan.origins.values()}
    finally:
        done.set()
        beside.join()
    assert layers == {"", "conv"}


def test_batch_norm_of_another_width_is_torch_s_own_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)).eval()
    with pytest.raises(ExportError, match="5"):
        lower(model, (IMAGE,))


class TwoNames(nn.Module):
    """A module with two names, and a hook; it writes what none reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)
        self.second = self.first
        self.first.register_forward_hook(lambda _, __, result: result * 2)

    def forward(self, input: Tensor, len: Tensor) -> Tensor:
        result = self.second(self.first(input))
        result.add(len.mean()).relu_()
        return result + len[:, :, :4, :4]


def test_a_module_with_two_names_keeps_its_weights() -> None:
    model = TwoNames().eval()
    before = [(name, id(tensor)) for name, tensor in model.named_parameters()]
    lowered = lower(model, (IMAGE, IMAGE))
    assert [(name, id(tensor)) for name, tensor in model.named_parameters()] == before
    assert lowered.plan.inputs == ("input", "len")
    layers = {(origin.layer, origin.kind) for origin in lowered.plan.origins.values()}
    assert ("first", "mul") in layers
    assert ("", "relu") not in layers


def test_one_model_in_several_threads() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    before = [id(tensor) for tensor in model.state_dict(keep_vars=True).values()]
    found, current = [], []

    def run() -> None:
        for _ in range(10):
            found.append(lower(model, (IMAGE,)).plan.roots)
            plan = kqo.compile(model, (IMAGE,), kqo.Occlusion(3, 2))
            assert plan._whole is not None
            current.append(plan._whole.is_current)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30
    assert current == [True] * 30
    assert all(roots == found[0] for roots in found)
    assert [id(tensor) for tensor in model.state_dict(keep_vars=True).values()] == before

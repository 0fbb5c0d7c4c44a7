"""Captum's contract where no plan can stand for the forward function, and the errors."""

import warnings

import captum.attr
import pytest
import torch
from torch import nn

import kqo.captum
from kqo.captum import DenseFallbackWarning
from tests.unit.captum_pair import agree, ask, classifier, dense, images

WINDOW = {"strides": (3, 3, 3), "target": 1}


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.mark.parametrize("per_eval", [1, 3, 50])
def test_an_arbitrary_callable(model, per_eval):
    dense(
        lambda x: model(x).softmax(-1),
        images(),
        (3, 4, 4),
        "forward_func is a function, not a torch.nn.Module",
        perturbations_per_eval=per_eval,
        **WINDOW,
    )


def test_the_model_is_not_switched_to_eval_mode():
    model = classifier()
    model[1].train()
    dense(model, images(), (3, 4, 4), "module '1' is in training mode", **WINDOW)
    assert model[1].training


def test_hooks_run():
    model = classifier()
    model[2].register_forward_hook(lambda module, args, output: output * 2)
    dense(model, images(), (3, 4, 4), "module '2' has forward hooks", **WINDOW)
    model = classifier()
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    dense(model, images(), (3, 4, 4), "the model has forward hooks", **WINDOW)


def test_hooks_for_all_modules_run(model):
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    try:
        dense(model, images(), (3, 4, 4), "hooks for all modules", **WINDOW)
    finally:
        handle.remove()


class Branches(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_model_that_cannot_be_exported():
    dense(Branches().eval(), images(), (3, 4, 4), "depends on the values of its input", **WINDOW)


def test_the_attempt_to_export_is_not_repeated(monkeypatch):
    model, made = Branches().eval(), []
    compile = kqo.captum.cache.compile
    monkeypatch.setattr(
        kqo.captum.cache, "compile", lambda *a, **k: made.append(a) or compile(*a, **k)
    )
    for _ in range(2):
        ask(model, images(), (3, 4, 4), **WINDOW)
    assert len(made) == 1


class Mixing(nn.Module):
    def forward(self, x):
        return (x - x.mean()).flatten(1)


def test_a_model_that_mixes_examples():
    dense(Mixing().eval(), images(), (3, 4, 4), "", **WINDOW)


class Counter(nn.Module):
    """Its output changes from call to call, in a way that no version tells."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x.flatten(1) * self.calls


def test_a_model_with_a_state_is_not_trusted():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kqo.captum.Occlusion(Counter().eval()).attribute(images(), (3, 4, 4), **WINDOW)
    assert [w.category for w in caught] == [DenseFallbackWarning]


def test_the_reason_is_said_once_for_an_instance(model):
    asked = kqo.captum.Occlusion(model.forward)
    with pytest.warns(DenseFallbackWarning, match="forward_func is a method") as caught:
        asked.attribute(images(), (3, 4, 4), **WINDOW)
        asked.attribute(images(), (3, 5, 5), target=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("baselines", [None, 2, 0.5, torch.tensor([1, 2, 3, 4])])
def test_integer_inputs(dtype, baselines):
    x = (images(2, 3, 4).abs() * 5).to(dtype)

    def forward(x):
        return x.double().sum(1).float() ** 2

    own = dense(forward, x, (2, 2), "function", baselines=baselines, target=1)
    assert own.dtype == torch.float32


def test_integer_inputs_of_a_module():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)).eval()
    tokens = torch.randint(0, 9, (2, 5), generator=torch.Generator().manual_seed(0))
    dense(model, tokens, (2,), "input 0 is of type torch.int64", target=1)


def test_integer_outputs():
    dense(lambda x: (x * 10).long().flatten(1), images(2, 3, 4), (2, 2), "function", target=1)


def test_half_precision():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval().bfloat16()
    x = images(2, 3, 4).bfloat16()
    own = dense(model, x, (2, 2), "type torch.bfloat16", target=1)
    assert own.dtype == torch.float32


def test_one_scalar_per_example():
    own = dense(lambda x: x * 3 + 1, images(4, *()).flatten()[:4], ((),), "function")
    assert own.shape == (4,)


def test_no_examples(model):
    own, other, _ = ask(model, images(0, 3, 10, 10), (3, 4, 4), **WINDOW)
    assert own.shape == other.shape == (0, 3, 10, 10)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x.sum(),
        lambda x: x.sum().reshape(1),
        lambda x: float(x.sum()),
        lambda x: int(x.sum()),
    ],
    ids=["tensor", "one element", "float", "int"],
)
def test_one_value_per_batch(forward):
    own = dense(forward, images(3, 2, 4), (2, 2), "function")
    assert own.shape == (1, 2, 4)
    for occlusion in (kqo.captum.Occlusion, captum.attr.Occlusion):
        with pytest.raises(AssertionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            occlusion(forward).attribute(images(3, 2, 4), (2, 2), perturbations_per_eval=2)


class Total(nn.Module):
    def forward(self, x):
        return x.sum().reshape(1)


@pytest.mark.parametrize("examples", [1, 3])
def test_one_value_per_batch_of_a_module(examples):
    x = images(examples, 2, 4)
    own = dense(Total().eval(), x, (2, 2), "")
    assert own.shape == (1, 2, 4)


def test_a_function_without_parameters():
    values = iter(float(n**2) for n in range(100))

    def forward():
        return next(values)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = kqo.captum.Occlusion(forward).attribute(images(1, 4), (2,))
        values = iter(float(n**2) for n in range(100))
        other = captum.attr.Occlusion(forward).attribute(images(1, 4), (2,))
    agree(own, other, 0.0)


def test_other_additional_arguments_pass_through():
    seen = []

    def forward(x, scale, power, shift, note):
        seen.append((power, note, shift.dim()))
        return (x * scale[:, None] + shift).pow(power)

    extra = (images(2).flatten()[:2], 2, torch.tensor(0.5), "text")
    dense(
        forward,
        images(2, 6),
        (3,),
        "function",
        target=1,
        additional_forward_args=extra,
        perturbations_per_eval=3,
    )
    assert set(seen) == {(2, "text", 0)}


class Scaled(nn.Module):
    def forward(self, x, scale, what=None):
        return (x * scale).flatten(1)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (2.0, "additional argument 0 is a float"),
        (torch.tensor(2.0), "no batch of examples"),
        (torch.ones(1, 1, 1), "no batch of examples"),
        (torch.ones(2, 1, 1, dtype=torch.int64), "additional argument 0 is of type torch.int64"),
        ((torch.ones(2, 1, 1), None), "additional argument 1 is a NoneType"),
    ],
    ids=str,
)
def test_additional_arguments_of_a_module(extra, reason):
    asked = {"additional_forward_args": extra, "target": 1}
    dense(Scaled().eval(), images(2, 3, 4), (2, 2), reason, **asked)


def test_many_inputs_by_several_windows_a_call(model):
    def forward(a, b, c):
        return torch.stack([a.sum(1) * b.sum((1, 2)), c.flatten(1).prod(1)], 1)

    inputs = (images(2, 4), images(2, 2, 3, seed=4), images(2, 3, seed=5))
    for per_eval in (1, 2, 5, 40):
        own, other, _ = ask(
            forward,
            inputs,
            ((2,), (1, 2), (2,)),
            target=1,
            baselines=(1, images(1, 2, 3, seed=6), 0.5),
            perturbations_per_eval=per_eval,
        )
        agree(own, other, 1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_under_a_window_stays(model, value):
    x = images()
    x[0, 1, 2, 3] = value
    own = dense(model, x, (3, 4, 4), "input 0 has values that are not finite", **WINDOW)
    assert own.isnan().any()
    asked = {**WINDOW, "baselines": value}
    dense(model, images(), (3, 4, 4), "baseline has values that are not finite", **asked)


def test_a_baseline_of_another_type(model):
    x = images()
    for occlusion in (kqo.captum.Occlusion(model), captum.attr.Occlusion(model)):
        with pytest.raises(RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            occlusion.attribute(x, (3, 4, 4), baselines=torch.zeros_like(x).double(), **WINDOW)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"sliding_window_shapes": (3, 11, 4)}, AssertionError),
        ({"sliding_window_shapes": (4, 4)}, AssertionError),
        ({"sliding_window_shapes": [3, 4, 4]}, AssertionError),
        ({"sliding_window_shapes": ((3, 4, 4), (3, 4, 4))}, AssertionError),
        ({"sliding_window_shapes": ()}, IndexError),
        ({"sliding_window_shapes": 3}, TypeError),
        ({"sliding_window_shapes": (3, -1, 4)}, RuntimeError),
        ({"strides": (3, 5, 4)}, AssertionError),
        ({"strides": (3, 2)}, AssertionError),
        ({"strides": [3, 2, 2]}, AssertionError),
        ({"strides": 2.0}, AssertionError),
        ({"strides": ((3, 2, 2), (3, 2, 2))}, AssertionError),
        ({"baselines": "zero"}, AssertionError),
        ({"baselines": [0.0]}, AssertionError),
        ({"baselines": torch.zeros(7)}, RuntimeError),
        ({"baselines": torch.zeros(3, 3, 10, 10)}, RuntimeError),
        ({"target": 4}, IndexError),
        ({"target": 1.5}, AssertionError),
        ({"target": (1, 2)}, AssertionError),
        ({"target": [1]}, AssertionError),
        ({"target": [1.0, 2.0]}, AssertionError),
        ({"target": torch.tensor([1, 2, 3])}, AssertionError),
        ({"target": torch.tensor([[1, 2]])}, AssertionError),
        ({"inputs": [1, 2]}, AssertionError),
        ({"inputs": None}, TypeError),
        ({"perturbations_per_eval": 0}, AssertionError),
        ({"perturbations_per_eval": 1.5}, AssertionError),
        ({"feature_mask": torch.zeros(1)}, TypeError),
        ({"additional_forward_args": 3}, TypeError),
    ],
    ids=str,
)
def test_errors_are_captums(model, kwargs, error):
    asked = {"inputs": images(), "sliding_window_shapes": (3, 4, 4), **WINDOW, **kwargs}
    for occlusion in (captum.attr.Occlusion(model), kqo.captum.Occlusion(model)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(Exception) as caught:
                occlusion.attribute(**asked)
        assert type(caught.value) is error, caught.value


@pytest.mark.parametrize("forward", [lambda x: x.flatten(1) > 0, lambda x: "text", lambda x: [x]])
def test_outputs_that_are_not_accepted(forward):
    kinds = []
    for occlusion in (captum.attr.Occlusion(forward), kqo.captum.Occlusion(forward)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises((AssertionError, RuntimeError)) as caught:
                occlusion.attribute(images(2, 4), (2,))
        kinds.append(type(caught.value))
    assert kinds[0] is kinds[1]


def test_there_is_no_future(model):
    with pytest.raises(NotImplementedError):
        kqo.captum.Occlusion(model).attribute_future()


def test_progress_without_a_plan(model, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = kqo.captum.Occlusion(model.forward)
        asked.attribute(images(), (3, 4, 4), show_progress=True, **WINDOW)
    assert "Occlusion attribution: 100%" in capsys.readouterr().err

"""The contract of Captum's Occlusion, side by side with Captum: models that have plans."""

import gc
import inspect

import captum.attr
import pytest
import torch
from torch import nn

import kqo.captum
from kqo.captum.cache import PlanCache
from kqo.captum.occlusion import PLANS
from tests.unit.captum_pair import agree, ask, classifier, images, incremental


@pytest.fixture(scope="module")
def model():
    return classifier()


def test_signature_is_captums():
    own = inspect.signature(kqo.captum.Occlusion.attribute).parameters
    other = inspect.signature(captum.attr.Occlusion.attribute).parameters
    assert list(own) == list(other)
    assert [p.default for p in own.values()] == [p.default for p in other.values()]
    assert [p.kind for p in own.values()] == [p.kind for p in other.values()]
    assert list(inspect.signature(kqo.captum.Occlusion).parameters) == ["forward_func"]


def test_surface_is_captums(model):
    own, other = kqo.captum.Occlusion(model), captum.attr.Occlusion(model)
    assert own.get_name() == other.get_name() == "Occlusion"
    assert own.has_convergence_delta() == other.has_convergence_delta()
    assert own.multiplies_by_inputs == other.multiplies_by_inputs
    assert own.forward_func is other.forward_func
    assert own.use_weights == other.use_weights


@pytest.mark.parametrize(
    ("window", "strides"),
    [
        ((3, 4, 4), (3, 2, 2)),  # overlapping
        ((3, 4, 4), (3, 4, 4)),  # the last window clipped
        ((3, 5, 5), (3, 5, 5)),  # a partition
        ((3, 4, 4), None),  # stride 1 on every axis
        ((3, 4, 4), 3),  # one number for every axis
        ((3, 4, 4), (3,)),  # a number per input
        ((1, 4, 4), (1, 3, 3)),  # channel by channel
        ((2, 3, 10), (1, 3, 10)),  # part of the channels, whole rows
        ((3, 10, 10), (7, 8, 9)),  # a stride above the window where that covers the axis
        ((1, 1, 1), (1, 1, 1)),  # single elements
    ],
)
def test_windows_and_strides(model, window, strides):
    incremental(model, images(), window, strides=strides, target=1)


def test_a_tuple_of_windows_for_one_input(model):
    own = incremental(model, images(), ((3, 4, 4),), strides=((3, 2, 2),), target=1)
    assert own.shape == (2, 3, 10, 10)


def test_a_tuple_of_one_input_gives_a_tuple(model):
    own = incremental(model, (images(),), (3, 4, 4), strides=(3, 2, 2), target=1)
    assert isinstance(own, tuple)


@pytest.mark.parametrize(
    "baselines",
    [
        None,
        0,
        0.7,
        -2,
        torch.tensor(0.3),
        torch.arange(10.0) / 10,
        torch.linspace(-1, 1, 3).reshape(3, 1, 1),
        images(1, 3, 10, 10, seed=5),
        images(2, 3, 10, 10, seed=6),
        images(2, 1, 1, 1, seed=7),
        images(1, 3, 10, 10, seed=8)[0],
        (images(1, 3, 10, 10, seed=5),),
    ],
    ids=str,
)
def test_baselines(model, baselines):
    incremental(model, images(), (3, 4, 4), strides=(3, 2, 2), target=2, baselines=baselines)


@pytest.mark.parametrize(
    "target",
    [
        0,
        -1,
        True,
        torch.tensor(3),
        torch.tensor([2]),
        torch.tensor([1, 3]),
        [0, 3],
        (2,),
        (slice(1, 3),),
        [(1,), (2,)],
        None,
    ],
    ids=str,
)
def test_targets(model, target):
    incremental(model, images(), (3, 4, 4), strides=(3, 3, 3), target=target)


def test_without_a_target_every_output_is_attributed(model):
    own = incremental(model, images(), (3, 4, 4), strides=(3, 3, 3))
    assert own.shape == (2 * 4, 3, 10, 10)


@pytest.mark.parametrize("target", [(1, 2, 3), [(0, 1, 1), (1, 0, 4)], (1,), [(1,), (0,)], None])
def test_dense_outputs(target):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    if target == (1,):
        own, other, said = ask(model, images(), (3, 4, 4), strides=(3, 3, 3), target=target)
        assert not said
        agree(own, other)
        assert own.shape[0] == 2 * 6 * 6
        return
    incremental(model, images(), (3, 4, 4), strides=(3, 3, 3), target=target)


@pytest.mark.parametrize("per_eval", [1, 2, 7, 100])
def test_perturbations_per_eval_changes_nothing(model, per_eval):
    incremental(
        model, images(), (3, 4, 4), strides=(3, 3, 3), target=1, perturbations_per_eval=per_eval
    )


class TwoInputs(nn.Module):
    """Reads its second input first; the third argument is a tensor that is not occluded."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3)
        self.right = nn.Conv2d(2, 4, 3)
        self.rest = nn.Linear(4, 3)

    def forward(self, a, b, gate):
        found = torch.relu(self.right(b) * 0.5 + self.left(a)).mean((2, 3))
        return self.rest(found) * gate


@pytest.fixture(scope="module")
def two():
    torch.manual_seed(1)
    return TwoInputs().eval()


@pytest.mark.parametrize("baselines", [None, (0.5, images(2, 2, 8, 8, seed=9)), (0, 1)], ids=str)
def test_several_inputs_and_additional_arguments(two, baselines):
    own = incremental(
        two,
        (images(2, 3, 8, 8), images(2, 2, 8, 8, seed=2)),
        ((3, 3, 3), (1, 4, 2)),
        strides=((3, 2, 2), 1),
        baselines=baselines,
        target=[1, 2],
        additional_forward_args=images(2, 3, seed=3),
        perturbations_per_eval=4,
    )
    assert [x.shape for x in own] == [(2, 3, 8, 8), (2, 2, 8, 8)]


def test_one_and_three_spatial_axes():
    torch.manual_seed(0)
    series = nn.Sequential(
        nn.Conv1d(2, 4, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    ).eval()
    incremental(series, images(2, 2, 40), (2, 8), strides=(2, 3), target=1)
    volume = nn.Sequential(
        nn.Conv3d(1, 3, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(3 * 27, 2)
    ).eval()
    incremental(volume, images(1, 1, 8, 8, 8), (1, 4, 4, 4), strides=(1, 2, 2, 2), target=1)


def test_double_precision_is_computed_in_double_and_returned_in_single():
    model, x = classifier().double(), images().double()
    own, other, said = ask(model, x, (3, 4, 4), strides=(3, 2, 2), target=1)
    assert not said
    agree(own, other, 2e-7)


def test_no_gradients_come_back(model):
    x = images().requires_grad_()
    own = incremental(model, x, (3, 5, 5), strides=(3, 5, 5), target=1)
    assert not own.requires_grad
    assert x.grad is None


def test_progress_is_written_to_stderr(model, capsys):
    incremental(model, images(), (3, 5, 5), strides=(3, 5, 5), target=1)
    assert capsys.readouterr().err == ""
    asked = kqo.captum.Occlusion(model)
    asked.attribute(images(), (3, 5, 5), strides=(3, 5, 5), target=1, show_progress=True)
    assert "Occlusion attribution: 100%" in capsys.readouterr().err


def changed_in_place(model):
    with torch.no_grad():
        model[0].weight.mul_(-1)


def changed_behind_versions(model):
    model[0].weight.data.mul_(-1)


def replaced(model):
    model[0].weight = nn.Parameter(-model[0].weight.detach())


def other_module(model):
    model[1] = nn.Tanh().eval()


@pytest.mark.parametrize(
    "change", [changed_in_place, changed_behind_versions, replaced, other_module]
)
def test_plans_follow_the_weights(change):
    model, asked = classifier(seed=3), {"strides": (3, 4, 4), "target": 1}
    before = incremental(model, images(), (3, 4, 4), **asked)
    change(model)
    after = incremental(model, images(), (3, 4, 4), **asked)
    assert not torch.allclose(before, after, atol=1e-3)


def test_plans_are_kept_and_bounded(monkeypatch):
    made = []
    compile = kqo.captum.cache.compile
    monkeypatch.setattr(
        kqo.captum.cache, "compile", lambda *a, **k: made.append(a) or compile(*a, **k)
    )
    plans, model, x = PlanCache(most=2), classifier(seed=4), (images(),)
    windows = [kqo.captum.arguments.as_windows((3, n, n), (3, n, n), x)[0] for n in (3, 4, 5)]
    first = plans.plan(model, x, 0, windows[0])
    assert plans.plan(model, x, 0, windows[0]) is first
    assert plans.plan(model, (images(5),), 0, windows[0]) is first
    plans.plan(model, x, 0, windows[1])
    assert len(made) == 1  # the lowered model is shared by windows
    plans.plan(model, x, 0, windows[2])
    assert len(plans) == 2
    assert plans.plan(model, x, 0, windows[0]) is not first


class Sorting(nn.Module):
    """Has a part that torch runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return torch.sort(self.stem(x).flatten(1), dim=1)[0][:, :4]


def test_windows_share_the_parts_that_torch_runs():
    torch.manual_seed(0)
    model = Sorting().eval()
    for window in ((3, 4, 4), (3, 5, 5)):
        incremental(model, images(), window, strides=window, target=1)


def test_plans_go_with_their_model():
    model = classifier(seed=5)
    incremental(model, images(), (3, 5, 5), strides=(3, 5, 5), target=1)
    number = id(model)
    assert any(key.model == number for key in PLANS._found)
    del model
    gc.collect()
    assert not any(key.model == number for key in PLANS._found)

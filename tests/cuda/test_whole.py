"""The API from end to end with target cuda, on the host device in place of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.runtime.cuda import device, target
from kqo.runtime.cuda.engine import CudaEngine
from kqo.runtime.cuda.results import OnDevice
from tests.cuda.asked import check_captum, check_networks, check_not_finite
from tests.cuda.host import HostDevice, has_compiler
from tests.cuda.planned import Everything
from tests.unit.lowering import noise

pytestmark = pytest.mark.skipif(not has_compiler(), reason="needs g++")
EXAMPLES = 8
WORKLOAD = kqo.Occlusion(window=6, stride=5)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The host device where the API looks for a GPU."""
    folder = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "CupyDevice", lambda: HostDevice(folder))
        patch.setattr(target, "CupyDevice", lambda: HostDevice(folder))
        patch.setattr(target, "gpu_refusal", lambda: None)
        yield folder


def compiled(**options) -> kqo.api.CompiledPlan:
    asked = kqo.Options(**{"target": "cuda", **options})
    return kqo.compile(Everything().eval(), (noise(1, 3, 32, 32),), WORKLOAD, asked)


def expected(images: torch.Tensor) -> kqo.api.Result:
    plan = kqo.compile(Everything().eval(), (images[:1],), WORKLOAD)
    return plan.run(images)


def test_results_are_numpys_and_copied_when_read(host):
    plan, image = compiled(), noise(1, 3, 32, 32)
    result, want = plan.run(image, verify=4), expected(image)
    assert isinstance(plan.engine, CudaEngine)
    assert isinstance(result.outputs, OnDevice) and isinstance(result.originals, OnDevice)
    assert not result.originals._copies
    np.testing.assert_allclose(result.scores, want.scores, atol=1e-5 * np.abs(want.scores).max())
    assert result.scores is result.scores
    assert result.device_outputs["output"].shape == want.scores.shape
    assert want.device_outputs is want.outputs
    assert result.heatmap().shape == want.heatmap().shape


def test_many_images_and_auto(host):
    images = noise(2, 3, 32, 32)
    result, want = compiled(target="auto").run(images), expected(images)
    assert isinstance(result.outputs, OnDevice)
    np.testing.assert_allclose(result.scores, want.scores, atol=1e-5 * np.abs(want.scores).max())


def test_images_that_are_not_finite_are_asked_again_of_numpy(host):
    images = noise(2, 3, 32, 32)
    images[1, 0, 3, 3] = float("nan")
    result, want = compiled().run(images), expected(images)
    assert result.facts["not_finite"] >= 1
    assert np.array_equal(np.isnan(result.scores), np.isnan(want.scores))


@pytest.mark.parametrize("precision", ["float16"])
def test_plan_files_keep_target_and_precision(host, tmp_path, precision):
    plan, image = compiled(precision=precision), noise(1, 3, 32, 32)
    plan.save(tmp_path / "plan.kqo")
    again = kqo.load(tmp_path / "plan.kqo")
    assert (again.options.target, again.options.precision) == ("cuda", precision)
    assert isinstance(again.engine, CudaEngine) and again.engine.program.precision == precision
    assert np.array_equal(again.run(image).scores, plan.run(image).scores)


def test_explain_shows_times_of_kernels(host):
    plan = compiled()
    text = plan.explain(analyze=True)
    assert "measured" in text and "device time" in text and "processor" not in text
    assert "__global__" in plan.explain(stage="source")


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_precision_is_part_of_what_is_verified(host, precision):
    result = compiled(precision=precision).run(noise(1, 3, 32, 32), verify=3)
    assert result.facts["error"] < kqo.Options(precision=precision).stated_tolerance


@pytest.fixture
def ran(monkeypatch):
    """A note of each time that kernels were loaded."""
    ran: list[int] = []
    load = HostDevice.load

    def counted(self, kernels):
        ran.append(len(kernels))
        return load(self, kernels)

    monkeypatch.setattr(HostDevice, "load", counted)
    return ran


@pytest.mark.slow
def test_random_networks_answer_as_pytorch_does(host, ran):
    check_networks(EXAMPLES, 1)
    assert len(ran) >= EXAMPLES // 2  # the others have parts that torch runs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_nan_and_infinity_are_where_pytorch_has_them(host, ran):
    check_not_finite(EXAMPLES // 2)
    assert ran


@pytest.mark.slow
def test_attributions_are_captums(host, ran):
    check_captum(EXAMPLES)
    assert len(ran) >= EXAMPLES // 2


class Hidden(nn.Module):
    """NaN that minimal filtering spreads, and that what follows replaces by a finite number."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        y = self.second(self.first(x))
        return torch.where(y == y, y, torch.ones_like(y)).mean((2, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_a_choice_hides_is_asked_again(host, value):
    image = noise(1, 1, 12, 12)
    image[0, 0, 5, 6] = value
    model, workload = Hidden().eval(), kqo.Occlusion(window=3, stride=3)
    options = kqo.Options(target="cuda", without=("GatherProduct",))
    plan = kqo.compile(model, (image,), workload, options)
    assert "winograd" in {step.form for step in plan.physical.steps}
    result = plan.run(image)
    want = kqo.compile(model, (image,), workload).run(image)
    assert result.facts["not_finite"] == 1
    np.testing.assert_array_equal(np.isnan(result.scores), np.isnan(want.scores))
    finite = np.isfinite(want.scores)
    np.testing.assert_allclose(result.scores[finite], want.scores[finite], atol=1e-5)


CHOICES = {
    "where": lambda v: torch.where(v > 0, v.sqrt(), v * 0.5 - 1),
    "masked": lambda v: v.log().masked_fill(v <= 0, 3.0),
}


class Chosen(nn.Module):
    """A choice by value behind a layer that changes nothing."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv, self.choice = nn.Conv2d(2, 2, 1, bias=False), CHOICES[name]
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(2)[:, :, None, None])

    def forward(self, x):
        return self.choice(self.conv(x))


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_not_chosen_does_no_harm(host, name):
    """The other side of a choice may be NaN, in kernels too: here it is, in every image."""
    image = noise(1, 2, 6, 6)
    model, workload = Chosen(name).eval(), kqo.Occlusion(window=2, stride=2)
    plan = kqo.compile(model, (image,), workload, kqo.Options(target="cuda"))
    result = plan.run(image)
    want = kqo.compile(model, (image,), workload).run(image)
    assert result.facts["not_finite"] == 0 and np.isfinite(want.outputs["output"]).all()
    np.testing.assert_allclose(
        np.asarray(result.outputs["output"]), want.outputs["output"], rtol=1e-5, atol=1e-5
    )

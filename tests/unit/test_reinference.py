"""Full re-inference by torch, where it is predicted to be faster than the incremental plan."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.errors import ArgumentError
from kqo.interop.folded import folded
from kqo.interop.reinference import Reinference
from kqo.ir.boxes import Boxes
from kqo.planner import estimate

EXTENT = 12


def _model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * EXTENT**2, 5)).eval()


def _image(seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((3, EXTENT, EXTENT))
    return found.astype(np.float32)


def _plan(model: nn.Module, workload: object, **options: object) -> kqo.CompiledPlan:
    image = torch.zeros(1, 3, EXTENT, EXTENT)
    return kqo.compile(model, (image,), workload, kqo.Options(**options))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch is predicted to take no time."""
    monkeypatch.setattr(estimate, "REINFERENCE", 0.0)


def _ran(plan: kqo.CompiledPlan, image: np.ndarray, **given: object) -> tuple[kqo.Result, bool]:
    """The result, and whether torch ran the whole model for it."""
    result = plan.run(image, **given)
    return result, plan.engine.nbytes == 0


WORKLOADS = [
    kqo.Occlusion(4, 3),
    kqo.Occlusion(5, 2, fill=np.arange(3.0)),
    kqo.Occlusion(5, 4, fill="mean"),
    kqo.Regions([[((0, 3), (1, 4)), ((6, 9), (2, 8))], [((2, 7), (0, 12))]]),
]


@pytest.mark.parametrize("workload", WORKLOADS, ids=range(len(WORKLOADS)))
def test_torch_answers_what_the_plan_answers(workload, monkeypatch) -> None:
    model, image = _model(), _image()
    wanted, whole = _ran(_plan(model, workload), image)
    assert not whole
    monkeypatch.setattr(estimate, "REINFERENCE", 0.0)
    plan = _plan(model, workload)
    found, whole = _ran(plan, np.stack([image, _image(1)]))
    assert whole
    np.testing.assert_allclose(found.scores[0], wanted.scores, atol=1e-5)
    np.testing.assert_allclose(found.original[0], wanted.original, atol=1e-5)
    second = _plan(model, workload, reinference="never").run(_image(1))
    np.testing.assert_allclose(found.scores[1], second.scores, atol=1e-5)


@pytest.mark.usefixtures("fast")
def test_the_explanation_says_so() -> None:
    plan = _plan(_model(), kqo.Occlusion(4, 3))
    said = r"torch runs the whole model instead: predicted \S+ \S?s per input\n"
    assert re.search(said, plan.explain())
    plan = _plan(_model(), kqo.Occlusion(4, 3), reinference="never")
    assert "instead" not in plan.explain()


@pytest.mark.usefixtures("fast")
def test_progress_reaches_its_end() -> None:
    seen = []
    _plan(_model(), kqo.Occlusion(4, 2)).run(_image(), progress=lambda *at: seen.append(at))
    assert seen[-1] == (25, 25) and sorted(seen) == seen


@pytest.mark.usefixtures("fast")
def test_a_module_that_has_changed_does_not_answer() -> None:
    model, image = _model(), _image()
    plan = _plan(model, kqo.Occlusion(4, 3))
    before = _plan(model, kqo.Occlusion(4, 3), reinference="never").run(image)
    model[-1].bias = nn.Parameter(model[-1].bias + 1)
    found, whole = _ran(plan, image)
    assert not whole
    np.testing.assert_array_equal(found.scores, before.scores)


@pytest.mark.usefixtures("fast")
def test_what_is_not_exact_or_not_at_hand_is_run_by_the_plan(tmp_path) -> None:
    image = _image()
    assert not _ran(_plan(_model(), kqo.Occlusion(4, 3), approximations={"tau": 0.5}), image)[1]
    double, given = _model().double(), torch.zeros(1, 3, EXTENT, EXTENT, dtype=torch.float64)
    assert not _ran(kqo.compile(double, (given,), kqo.Occlusion(4, 3)), image)[1]
    assert not _ran(_plan(_model(), kqo.Occlusion(4, 3, fill="given")), image, fill=0.0)[1]
    plan = _plan(_model(), kqo.Occlusion(4, 3))
    plan.save(tmp_path / "plan.kqo")
    assert not _ran(kqo.load(tmp_path / "plan.kqo"), image)[1]


@pytest.mark.usefixtures("fast")
def test_threads_of_torch_are_put_back() -> None:
    before = torch.get_num_threads()
    _plan(_model(), kqo.Occlusion(4, 3), threads=2).run(_image())
    assert torch.get_num_threads() == before


def test_few_queries_of_a_deep_network_are_torchs(monkeypatch) -> None:
    monkeypatch.setattr(estimate, "REINFERENCE", 0.8)
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(40))).eval()
    assert _plan(model, kqo.Occlusion(12, 1)).reinference is not None
    wide = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    image = torch.zeros(1, 3, 128, 128)
    assert kqo.compile(wide, (image,), kqo.Occlusion(8, 8)).reinference is None


def test_options_are_checked() -> None:
    with pytest.raises(ArgumentError, match="reinference: got 'always'; accepted: 'auto', 'never'"):
        kqo.Options(reinference="always")


@pytest.mark.usefixtures("fast")
def test_from_the_second_input_on_a_folded_copy_answers() -> None:
    model, image = _model(), _image()
    with torch.no_grad():
        model[1].running_mean += 0.3
        model[1].weight *= 1.7
    plan = _plan(model, kqo.Occlusion(4, 3))
    first = plan.run(image)
    second = plan.run(image)
    np.testing.assert_allclose(second.scores, first.scores, rtol=1e-4, atol=1e-5)
    third = plan.run(image)
    model[-1].bias = nn.Parameter(model[-1].bias + 1)
    found, whole = _ran(plan, image)
    assert whole  # the copy is out of the module's reach
    np.testing.assert_array_equal(found.scores, third.scores)


class _Twice(nn.Module):
    """A convolution whose output is read by more than the batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        with torch.no_grad():
            self.norm.running_mean += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_batch_norms_are_folded_where_nothing_else_can_tell() -> None:
    images = torch.from_numpy(_image()[None])
    model = _model()
    found = folded(model, images)
    assert found is not None
    assert not any(isinstance(each, nn.BatchNorm2d) for each in found.modules())
    assert any(isinstance(each, nn.BatchNorm2d) for each in model.modules())
    assert found[-1].weight.data_ptr() == model[-1].weight.data_ptr()
    torch.testing.assert_close(found(images), model(images), rtol=1e-4, atol=1e-5)
    assert folded(_Twice().eval(), images) is None
    model[1].register_forward_hook(lambda *_: None)
    assert folded(model, images) is None


@pytest.mark.parametrize(("images", "wanted"), [(1, [1]), (9, [9]), (11, [11]), (17, [8, 9])])
def test_no_batch_is_of_the_few_that_are_left(images, wanted, monkeypatch) -> None:
    whole = Reinference(_model(), "output")
    seen: list[int] = []
    monkeypatch.setattr(
        whole, "_answers", lambda given: seen.append(len(given)) or np.zeros((len(given), 1))
    )
    image = _image(0)
    low = np.zeros((images - 1, 1, image.ndim), dtype=np.int64)
    changed = Boxes(tuple("cyx"), low, low + 1)
    done: list[int] = []
    found = whole.run(image, image, changed, 1, lambda now, _: done.append(now))
    assert seen == wanted and len(found["output"]) == images
    assert done[-1] == images - 1

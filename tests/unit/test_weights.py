"""Plans and the models that they were made of: training on, copies by value, and pickles."""

import copy
import gc
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.errors import StalePlanError
from kqo.runtime.weights import Weights


def model_of(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
        nn.Linear(width * 64, 5),
    ).eval()  # fmt: skip


def plan_of(model: nn.Module) -> kqo.CompiledPlan:
    return kqo.compile(model, (torch.zeros(1, 3, 8, 8),), kqo.Occlusion(2, 2))


IMAGE = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)


def optimizer_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()


def through_data(model: nn.Module) -> None:
    model[4].weight.data.mul_(2)


def other_state(model: nn.Module) -> None:
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


def running_statistics(model: nn.Module) -> None:
    model.train()(torch.ones(2, 3, 8, 8))
    model.eval()


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("change", [optimizer_step, through_data, other_state, running_statistics])
def test_a_plan_refuses_to_run_once_its_model_was_trained_on(change, ran, tmp_path):
    model = model_of()
    plan = plan_of(model)
    if ran:
        plan.run(IMAGE)
    change(model)
    with pytest.raises(StalePlanError, match=r"was changed in place after it was compiled"):
        plan.run(IMAGE)
    with pytest.raises(StalePlanError):
        plan.approximated(tau=0.5).run(IMAGE)
    with pytest.raises(StalePlanError):
        plan.save(tmp_path / "plan.kqo")
    with pytest.raises(StalePlanError):
        pickle.dumps(plan)
    with torch.no_grad():
        wanted = model(torch.from_numpy(IMAGE)[None])[0].numpy()
    np.testing.assert_allclose(plan_of(model).run(IMAGE).original, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", [pickle.dumps, copy.deepcopy])
def test_a_copy_by_value_outlives_training(by):
    model = model_of()
    plan = plan_of(model)
    wanted = plan.run(IMAGE).scores
    found = by(plan)
    through_data(model)
    found = pickle.loads(found) if isinstance(found, bytes) else found
    np.testing.assert_array_equal(found.run(IMAGE).scores, wanted)
    assert found.explain() == plan_of(model).explain()


def test_what_cannot_change_a_plan_does_not_stop_it():
    model = model_of()
    plan = plan_of(model)
    wanted = plan.run(IMAGE).scores
    model.double()  # other storage: what the plan holds stays as it was
    np.testing.assert_array_equal(plan.run(IMAGE).scores, wanted)
    del model
    gc.collect()
    np.testing.assert_array_equal(plan.run(IMAGE).scores, wanted)


def test_tensors_of_every_kind_are_looked_at():
    tensors = {
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 3),
        "counts": torch.arange(3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "nan": torch.full((2,), float("nan")),
    }
    with torch.inference_mode():
        tensors["inference"] = torch.ones(3)
    for name, tensor in tensors.items():
        weights = Weights(tensors)
        weights.check()
        if not tensor.numel():
            continue
        with torch.inference_mode(tensor.is_inference()):
            tensor.fill_(7)
        with pytest.raises(StalePlanError, match=name):
            weights.check()


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = model_of()
        plan = plan_of(model)
        wanted = model(torch.from_numpy(IMAGE)[None])[0].numpy()
    np.testing.assert_allclose(plan.run(IMAGE).original, wanted, atol=1e-5)


def test_a_deep_plan_is_pickled():
    layers = [layer for _ in range(200) for layer in (nn.Conv2d(1, 1, 1), nn.Sigmoid())]
    model = nn.Sequential(nn.Conv2d(3, 1, 1), *layers, nn.Flatten()).eval()
    plan = plan_of(model)
    found = pickle.loads(pickle.dumps(plan))
    assert found.logical.roots == plan.logical.roots
    assert dict(found.logical.origins) == {
        node: origin
        for node, origin in plan.logical.origins.items()
        if node in set(plan.logical.nodes())
    }


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(1).sort(1).values


def test_a_plan_with_a_part_that_torch_runs_is_pickled():
    torch.manual_seed(0)
    plan = plan_of(Sorted().eval())
    found = pickle.loads(pickle.dumps(plan))
    np.testing.assert_array_equal(found.run(IMAGE).scores, plan.run(IMAGE).scores)


def test_a_plan_refuses_to_run_once_its_model_was_moved_to_shared_memory() -> None:
    model = model_of()
    plan = plan_of(model)
    plan.run(IMAGE)
    model.share_memory()
    with pytest.raises(StalePlanError, match="moved to shared memory"):
        plan.run(IMAGE)
    again = plan_of(model)  # compiled from where it is now
    again.run(IMAGE)
    again.run(IMAGE)


def test_weights_that_were_replaced_by_others_do_not_matter() -> None:
    model = model_of()
    plan = plan_of(model)
    wanted = plan.run(IMAGE).scores
    model[4].weight.data = torch.zeros_like(model[4].weight)
    np.testing.assert_array_equal(plan.run(IMAGE).scores, wanted)


def test_weights_in_channels_last_are_looked_at_in_one_run_of_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    model = model.to(memory_format=torch.channels_last)
    dense, part = model[0].weight, model[0].weight[:, ::2]
    weights = Weights({"dense": dense, "part": part})
    steps = [each.step for each in weights._tensors]
    assert steps[0] > 0 and steps[1] == 0
    weights.check()
    for changed in (dense, part):
        weights = Weights({"dense": changed})
        changed.data.add_(1.0)
        with pytest.raises(StalePlanError, match="dense was changed in place"):
            weights.check()

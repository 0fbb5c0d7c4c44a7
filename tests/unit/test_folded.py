"""Releasable constants are not kept once steps have kernels, and are the same when asked again."""

import gc
import json
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.bench.memory import resident
from kqo.errors import KqoError, PlanFileError, StalePlanError
from kqo.ir.folded import RELEASED, Constants, Releasable, releasable
from kqo.runtime import planfile, tensors
from kqo.runtime.heap import LARGE, give_back
from kqo.runtime.workspace import Workspace

IMAGE = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)


def model_of() -> nn.Module:
    """Two convolutions with kernels that are worth releasing once batch norms are folded in."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    for norm in model:
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model.eval()


def plan_of(model: nn.Module) -> kqo.CompiledPlan:
    return kqo.compile(model, (torch.zeros(1, 3, 8, 8),), kqo.Occlusion(2, 2))


def contents(path: Path) -> tuple[object, bytes]:
    """Header, whose fields have no order, and values of a plan file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def large(plan: kqo.CompiledPlan) -> list[str]:
    """Names of folded constants that are worth releasing."""
    constants = plan.logical.constants
    found = [n for n in constants if "#" in n and constants[n].nbytes >= RELEASED]
    assert len(found) == 2
    return found


def test_a_run_leaves_no_folded_kernels_that_steps_do_not_read() -> None:
    plan = plan_of(model_of())
    names = large(plan)
    kept = {name: plan.logical.constants[name].copy() for name in names}
    alive = [weakref.ref(plan.logical.constants[name]) for name in names]
    assert all(each() is not None for each in alive)
    first = plan.run(IMAGE).scores
    gc.collect()
    assert [each() for each in alive] == [None, None]
    for name, value in kept.items():
        assert plan.logical.constants[name].tobytes() == value.tobytes()
    np.testing.assert_array_equal(plan.run(IMAGE).scores, first)


def test_what_is_made_of_a_plan_after_a_run_is_as_before(tmp_path) -> None:
    plan = plan_of(model_of())
    plan.save(tmp_path / "before.kqo")
    wanted = plan.run(IMAGE, verify=3).scores
    plan.save(tmp_path / "after.kqo")
    assert contents(tmp_path / "before.kqo") == contents(tmp_path / "after.kqo")
    for other in (
        kqo.load(tmp_path / "after.kqo"),
        pickle.loads(pickle.dumps(plan)),
        plan.approximated(tau=1.0),
    ):
        np.testing.assert_array_equal(other.run(IMAGE).scores, wanted)
    spread = np.where(np.arange(8) == 3, np.nan, IMAGE)  # direct forms, so another engine
    assert np.isnan(plan.run(spread).scores).any()


@pytest.mark.parametrize("possible", [True, False])
def test_constants_of_a_file_s_plan_are_read_again(
    possible: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planfile, "POSSIBLE", possible and tensors.POSSIBLE)
    plan = plan_of(model_of())
    path = tmp_path / "plan.kqo"
    plan.save(path)
    wanted = contents(path)
    loaded = kqo.load(path)
    scores = loaded.run(IMAGE, verify=2).scores
    np.testing.assert_array_equal(scores, plan.run(IMAGE).scores)
    assert released(loaded) == (2 if possible and tensors.POSSIBLE else 0)
    loaded.save(tmp_path / "again.kqo")
    assert contents(tmp_path / "again.kqo") == wanted
    plan_of(model_of().double().float().apply(doubled)).save(path)  # takes the name only
    loaded.save(tmp_path / "again.kqo")
    assert contents(tmp_path / "again.kqo") == wanted != contents(path)
    path.unlink()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loaded)).run(IMAGE).scores, scores)


def doubled(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        module.weight.data *= 2


def released(plan: kqo.CompiledPlan) -> int:
    held = plan.logical.constants._held.values()
    return sum(isinstance(each, Releasable) and each._value is None for each in held)


@pytest.mark.skipif(not tensors.POSSIBLE, reason="files are read once")
def test_a_file_that_was_written_over_in_place_is_noticed(tmp_path: Path) -> None:
    plan = plan_of(model_of())
    path = tmp_path / "plan.kqo"
    plan.save(path)
    loaded = kqo.load(path)
    wanted = loaded.run(IMAGE).scores
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(-200_000, 2)
        file.write(bytes(150_000))
    with pytest.raises(PlanFileError, match=r"plan\.kqo: '.*' was changed in the file after"):
        loaded.save(tmp_path / "again.kqo")
    assert not (tmp_path / "again.kqo").exists()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PlanFileError, match="damaged: it ends early"):
        loaded.save(tmp_path / "again.kqo")
    np.testing.assert_array_equal(loaded.run(IMAGE).scores, wanted)
    path.write_bytes(data)
    loaded.save(tmp_path / "again.kqo")
    assert contents(path) == contents(tmp_path / "again.kqo")


def test_training_in_place_that_nothing_else_notices_is_noticed_when_kernels_are_folded() -> None:
    model = model_of()
    plan = plan_of(model)
    wanted = plan.run(IMAGE).scores
    gc.collect()
    model[3].weight.data.view(-1)[1] += 1  # .data: no new version, and not an element compared
    np.testing.assert_array_equal(plan.run(IMAGE).scores, wanted)
    changed, same = sorted(large_names(plan), key=lambda name: not name.startswith("3."))
    with pytest.raises(StalePlanError, match=r"3\..*folded from was changed in place"):
        plan.logical.constants[changed]
    with pytest.raises(StalePlanError):
        pickle.dumps(plan)
    assert plan.logical.constants[same].size


def large_names(plan: kqo.CompiledPlan) -> list[str]:
    return [n for n, v in plan.logical.constants._held.items() if isinstance(v, Releasable)]


def test_several_threads_are_given_equal_values() -> None:
    made = []

    def again() -> np.ndarray:
        made.append(1)
        return np.arange(40_000, dtype=np.float32)

    folded = Releasable("kernel", again(), again, KqoError)
    folded.release()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: folded.value(), range(50)))
    assert all(np.array_equal(each, found[0]) for each in found)
    assert 1 < len(made) < 10
    assert folded.value() is found[-1]  # while somebody holds it there is one
    folded.release()  # a second time changes nothing
    assert folded.value() is found[-1]


def test_constants_share_what_is_folded_and_compute_nothing_unasked() -> None:
    count = []

    def again() -> np.ndarray:
        count.append(1)
        return np.ones(RELEASED, dtype=np.float32)

    value = releasable("b", again(), again, KqoError)
    assert isinstance(value, Releasable)
    first = Constants({"a": np.zeros(1), "b": value, "c": np.zeros(2)})
    some = Constants(first, {"c": np.ones(2), "d": np.ones(3)}, names={"b", "c"})
    first.release()
    del value
    gc.collect()
    assert len(count) == 1
    assert list(some) == ["b", "c"]
    assert "b" in some and "a" not in some and len(some) == 2
    assert repr(some) == "Constants(b, c)"
    assert len(count) == 1
    assert some["c"].sum() == 2
    assert some["b"].sum() == RELEASED
    assert len(count) == 2
    copied = pickle.loads(pickle.dumps(some))
    assert copied["b"].tobytes() == some["b"].tobytes()


def test_only_what_frees_memory_is_released() -> None:
    def again() -> np.ndarray:
        raise AssertionError

    small, whole = np.ones(10, np.float32), np.ones(1 << 17, np.float32)
    assert releasable("k", small, again, KqoError) is small
    view = whole[1:]
    assert releasable("k", view, again, KqoError) is view
    del view
    made = releasable("k", whole, again, KqoError)
    assert isinstance(made, Releasable)
    reader = whole.reshape(2, -1).T  # as steps read large kernels
    del whole
    made.release()
    assert made._value is made.value() is reader.base


def test_scratch_that_grows_gives_back_what_it_had() -> None:
    if resident() is None:
        pytest.skip("this system does not tell resident memory")
    workspace = Workspace(np.float32)
    sizes = [LARGE * n for n in (1, 2, 4, 8, 16)]
    give_back()
    before = resident()
    for size in sizes:
        workspace.array("x", (size,))[:] = 1
        workspace.filled(2.0, workspace.array("x", (size,)))
    assert workspace.nbytes == 2 * 4 * sizes[-1]
    grown = resident() - before
    assert grown < 1.2 * workspace.nbytes
    assert (workspace.filled(2.0, np.empty(9)) == 2).all()
    del workspace
    assert resident() - before < 0.2 * grown

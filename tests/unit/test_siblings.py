"""Products over the same rows that are computed as one: which ones, their answers, EXPLAIN."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kqo
from kqo.explain import document
from kqo.ir.nodes import Const, Physical
from kqo.planner import share, siblings
from kqo.planner.choose import Chooser
from kqo.planner.cost import work
from kqo.planner.rates import REFERENCE
from kqo.planner.siblings import joint
from kqo.runtime.functions import side_by_side
from tests.property.layers import Apply

GOLDEN = Path(__file__).parents[1] / "golden" / "siblings"
WINOGRAD = ("WinogradProduct", "WinogradProductBy2", "WinogradProductBy6")
SCHEMA = json.loads(Path(document.__file__).with_name("explain.schema.json").read_text())
EXTENT = 24


class Block(nn.Module):
    """A block of an Inception: of its four 1x1 convolutions three read the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 48, 3, padding=1)
        self.one = nn.Conv2d(48, 16, 1)
        self.three_1, self.three_2 = nn.Conv2d(48, 24, 1), nn.Conv2d(24, 32, 3, padding=1)
        self.five_1 = nn.Conv2d(48, 8, 1, bias=False)
        self.five_2 = nn.Conv2d(8, 16, 5, padding=2)
        self.pooled = nn.Conv2d(48, 16, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).relu()
        three = self.three_2(self.three_1(x).relu())
        five = self.five_2(self.five_1(x))
        pooled = self.pooled(nn.functional.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x).relu(), three.relu(), five.relu(), pooled], 1)


def _branches(join: Callable[..., Tensor], *inner: nn.Module) -> nn.Module:
    """Some rows, and layers that read them."""
    return nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), Apply("branches", join, *inner))


def _compiled(model: nn.Module, window: int = 6, **options: Any) -> kqo.CompiledPlan:
    given = kqo.Options(**{"threads": 1, "reinference": "never", **options})
    image = torch.zeros(1, 3, EXTENT, EXTENT, dtype=next(model.parameters()).dtype)
    return kqo.compile(model.eval(), (image,), kqo.Occlusion(window, 3), given)


def _groups(plan: kqo.CompiledPlan) -> list[list[str]]:
    """Kernels of the products that are one, by their layers; of delta rows."""
    return [
        [_layer(member.node) for member in step.members]
        for step in plan.physical.steps
        if step.siblings and step.delta
    ]


def _layer(node: object) -> str:
    assert isinstance(node, Physical) and isinstance(node.weight, Const)
    return node.weight.name.split(".weight")[0].rpartition(".")[2]


def _apart(model: nn.Module, **options: Any) -> kqo.CompiledPlan:
    """The plan whose products are each computed by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, "_pays", lambda *_: False)
        plan = _compiled(model, **options)
        assert not _groups(plan)  # which plans it
    return plan


def test_convolutions_that_read_the_same_rows_are_siblings() -> None:
    torch.manual_seed(0)
    plan = _compiled(Block())
    (found,) = _groups(plan)
    assert sorted(found) == ["five_1", "one", "three_1"]  # `pooled` reads other rows
    leaders = [step for step in plan.physical.steps if step.siblings]
    assert [step.delta for step in leaders] == [False, True]
    assert leaders[0].writes == leaders[1].writes  # one kernel for the view and the delta rows
    steps = plan.physical.steps
    for leader in leaders:
        at = steps.index(leader)
        assert steps[at + 1 : at + 3] == leader.siblings
        assert all(step.leader == leader.table for step in leader.siblings)
        assert all(plan.physical.tables[t].name != "pooled" for t in leader.writes)


def _side_by_side(x: Tensor, *inner: nn.Module) -> Tensor:
    return torch.cat([layer(x) for layer in inner], 1)


def _channels_last(x: Tensor, *inner: nn.Module) -> Tensor:
    return _side_by_side(x.permute(0, 2, 3, 1), *inner)


def _conv(wide: int, stride: int = 1, **about: object) -> nn.Conv2d:
    return nn.Conv2d(48, wide, 1, stride, **about)  # type: ignore[arg-type]


def _sum_of(x: Tensor, a: nn.Module, b: nn.Module, *others: nn.Module) -> Tensor:
    return torch.cat([b(x) + a(x), *(layer(x).relu() for layer in others)], 1)


def _of_other_rows(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    return a(x)[:, :, 4:12, 4:12] + b(nn.functional.max_pool2d(x, 3))


# What reads the rows of one layer, and how many products are computed as one.
CASES: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "linear": (lambda: _branches(_channels_last, *(nn.Linear(48, 24) for _ in range(3))), [3]),
    "strided": (lambda: _branches(_side_by_side, _conv(8, 2), _conv(16, 2)), [2]),
    "other strides": (
        lambda: _branches(lambda x, a, b: a(x)[:, :, ::2, ::2] + b(x), _conv(8), _conv(8, 2)),
        [],
    ),
    "other rows": (lambda: _branches(_of_other_rows, _conv(8), _conv(8)), []),
    # The sum is an epilogue of the one of them that is computed last.
    "reads a sibling": (lambda: _branches(_sum_of, _conv(8), _conv(8)), []),
    "two of three": (lambda: _branches(_sum_of, _conv(8), _conv(8), _conv(24)), [2]),
    "groups": (lambda: _branches(_side_by_side, _conv(8, groups=2), _conv(8, groups=2)), []),
    "windows": (lambda: _branches(_side_by_side, *(nn.Conv2d(48, 8, 3, 2) for _ in range(2))), []),
}


@pytest.mark.parametrize("name", CASES)
def test_which_products_can_be_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, wanted = CASES[name]
    torch.manual_seed(0)
    model = make().double()
    monkeypatch.setattr(siblings, "_pays", lambda *_: True)
    plan = _compiled(model)
    assert [len(group) for group in _groups(plan)] == wanted
    _agree(plan, _apart(model))


def _agree(plan: kqo.CompiledPlan, other: kqo.CompiledPlan) -> None:
    dtype = plan.physical.dtype
    most = 1e-10 if dtype == "float64" else 1e-4
    for seed in range(2):
        image = np.random.default_rng(seed).normal(size=(3, EXTENT, EXTENT)).astype(dtype)
        found, wanted = (next(iter(p.run(image).outputs.values())) for p in (plan, other))
        assert np.abs(found - wanted).max() <= most * np.abs(wanted).max()


@pytest.mark.parametrize("without", ["delta", "batch"])
@pytest.mark.parametrize("batch", [1, 7, 20])
def test_full_rows_and_views_of_each_batch(without: str, batch: int) -> None:
    """Without delta rules there are no views; without batch rules they are computed per batch."""
    torch.manual_seed(0)
    model = Block().double()
    plan = _compiled(model, without=(without,), batch=batch)
    assert [len(group) for group in _groups(plan)] == [3]
    assert all(not step.once for step in plan.physical.steps if step.siblings)
    _agree(plan, _apart(model, without=(without,), batch=batch))


def test_views_are_computed_by_several_threads() -> None:
    torch.manual_seed(0)
    model = Block().double()
    one, two = (_compiled(model, threads=threads) for threads in (1, 2))
    assert _groups(two)
    _agree(two, one)


def test_heads_of_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers behind the last window run for several batches at once."""
    torch.manual_seed(0)
    monkeypatch.setattr(siblings, "_pays", lambda *_: True)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(4), nn.Conv2d(8, 1024, 5), nn.Flatten())
    heads = [nn.Linear(1024, 1500) for _ in range(3)]
    model = nn.Sequential(*body, Apply("heads", _side_by_side, *heads))
    plan = _compiled(model, batch=5)
    assert [len(group) for group in _groups(plan)] == [3] and plan.engine.group > 1
    _agree(plan, _apart(model, batch=5))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), min_size=2, max_size=4),
    st.integers(0, 99),
)
@settings(max_examples=8)
def test_any_widths_and_epilogues(layers: list[tuple[int, bool, bool]], seed: int) -> None:
    torch.manual_seed(seed)
    parts = [
        nn.Sequential(_conv(wide, bias=bias), nn.SiLU() if curved else nn.Identity())
        for wide, bias, curved in layers
    ]
    model = _branches(_side_by_side, *parts).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, "_pays", lambda *_: True)
        plan = _compiled(model)
        assert [len(group) for group in _groups(plan)] == [len(layers)]
    _agree(plan, _apart(model))


def test_rows_that_are_computed_once_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that compute distinct rows have each its own."""
    assert _groups(_compiled(Block(), window=15))
    monkeypatch.setattr(share, "pays", lambda *_: True)
    monkeypatch.setattr(share, "never_pays", lambda *_: False)
    plan = _compiled(Block(), window=15)
    assert any(step.shared for step in plan.physical.steps) and not _groups(plan)


def test_regions_that_values_cut_are_left_alone() -> None:
    plan = _compiled(Block(), threshold=0.1)
    assert plan.subject().cut and not _groups(plan)


def test_what_a_gpu_runs_has_none() -> None:
    """All targets choose alike; what is one product is found behind that, for NumPy."""
    by = _compiled(Block()).subject().chooser
    changed = {name: boxes.select(np.arange(49)) for name, boxes in by.changed.items()}
    again = Chooser(by.plan, by.memo, changed, REFERENCE)
    assert not any(step.siblings for step in again.choose().steps)


def test_large_kernels_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "LARGE_KERNEL", 48 * 20 * 8)
    monkeypatch.setattr(siblings, "_pays", lambda *_: True)
    (found,) = _groups(_compiled(Block()))
    assert sorted(found) == ["five_1", "one"]  # three_1 has 24 columns


def test_the_cost_model_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a machine multiplies by wide kernels no faster, products stay apart."""
    flat = replace(REFERENCE, gemm=((100e9,) * 4,) * 6)
    monkeypatch.setattr(kqo.api, "current_rates", lambda: flat)
    assert not _groups(_compiled(Block()))


def test_the_work_of_a_group_is_that_of_its_members() -> None:
    (leader,) = [s for s in _compiled(Block()).physical.steps if s.siblings and s.delta]
    apart = [work(step.form, step.node, 1000) for step in leader.members]
    found = joint(leader.members, 1000)
    assert found.flops == sum(w.flops for w in apart) and found.wide == 48
    assert found.macs == sum(w.macs for w in apart) == 1000 * 48 * 48
    assert found.pairs == sum(w.pairs for w in apart) + 1000 * 48  # through scratch


def test_a_strided_product_gathers_its_rows_once() -> None:
    plan = _compiled(CASES["strided"][0]())
    (leader,) = [s for s in plan.physical.steps if s.siblings and s.delta]
    assert joint(leader.members, 1000).gather_rows == 1000


def test_a_plan_file_is_planned_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = _compiled(Block())
    plan.save(tmp_path / "block.kqo")
    loaded = kqo.load(tmp_path / "block.kqo")
    assert _groups(loaded) == _groups(plan) and loaded.source == plan.source
    _agree(loaded, plan)


def test_the_product_is_counted_in_a_budget() -> None:
    plan = _compiled(Block(), memory="8MB")
    assert _groups(plan)
    plan.run(np.zeros((3, EXTENT, EXTENT), dtype=np.float32))
    assert plan.engine.nbytes <= plan.engine.planned_bytes <= 8 << 20


def test_explain_says_what_computes_them(update_golden: bool) -> None:
    torch.manual_seed(0)
    plan = _compiled(Block(), without=WINOGRAD)
    text = plan.explain()
    path = GOLDEN / "explain.txt"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")


def test_explain_has_figures_for_the_leader_alone() -> None:
    torch.manual_seed(0)
    plan = _compiled(Block())
    found = json.loads(plan.explain(format="json", analyze=True))
    jsonschema.validate(found, SCHEMA)
    (leader,) = [s for s in found["steps"] if "siblings" in s and s["kind"] == "delta"]
    led = [s for s in found["steps"] if s.get("leader") == leader["table"] and s["kind"] == "delta"]
    assert [s["table"] for s in led] == leader["siblings"] and len(led) == 2
    assert leader["macs"] == leader["rows"] * 48 * 48 and leader["measured_seconds"] > 0
    for step in led:
        assert step["rows"] == leader["rows"] and step["macs"] == step["bytes"] == 0
        assert step["seconds"] == step["measured_seconds"] == 0 and not step["off"]
    apart = _apart(Block())
    assert plan.subject().multiply_adds == apart.subject().multiply_adds
    lines = plan.explain(analyze=True).splitlines()
    assert sum("of the same GEMM" in line and " us" not in line for line in lines) == 3
    assert "by the step of five_1" in plan.explain(format="dot")


def test_kernels_side_by_side_are_contiguous() -> None:
    parts = [np.arange(6.0).reshape(2, 3).T, np.ones((3, 1))]
    found = side_by_side(*parts)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, [[0, 3, 1], [1, 4, 1], [2, 5, 1]])

"""Regions that are cut while a plan runs: what hardly changed behind a stage is dropped."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.approximate.settle import settle
from kqo.errors import ArgumentError, PlanError
from kqo.ir.interpret import interpret
from kqo.ir.magnitude import noticed
from kqo.ir.schema import Axis
from kqo.ir.text import format_plan, parse_plan
from kqo.runtime import footprint
from kqo.runtime.engine import Engine
from kqo.runtime.rows import Region
from kqo.runtime.shrink import Moving, shrinking_of

EXTENT = 20
ASKED = kqo.Occlusion(5, 4)


class Block(nn.Module):
    """A residual block, whose sum is followed by an activation where it is given one."""

    def __init__(self, channels: int, stride: int = 1, activated: bool = True) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, stride, 1)
        self.two = nn.Conv2d(channels, channels, 3, 1, 1)
        self.skip = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()
        self.end = nn.ReLU() if activated else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.two(torch.relu(self.one(x))) + self.skip(x))


class Branches(nn.Module):
    """Two poolings of one relation, of one shape, whose results are put side by side."""

    def __init__(self, named: bool = True) -> None:
        super().__init__()
        self.most, self.mean = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.named = named
        self.conv = nn.Conv2d(6, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.named:
            both = [self.most(x), self.mean(x)]
        else:
            both = [nn.functional.max_pool2d(x, 2), nn.functional.avg_pool2d(x, 2)]
        return self.conv(torch.cat(both, 1)).flatten(1)


class Logarithm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x)


def _model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    if kind == "pooled":
        more = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
        layers = [*stem, *more, nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(100, 3)]
    elif kind == "residual":
        blocks = [Block(3), Block(3, 2), Block(3, 1, False), nn.Conv2d(3, 3, 3)]
        layers = [*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)]
    elif kind in ("branches", "alike"):
        layers = [*stem[:2], Branches(kind == "branches"), nn.Linear(4 * 64, 3)]
    elif kind == "logarithm":
        layers = [Logarithm(), *stem, nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(192, 3)]
    else:  # with layers that are run for several batches at once
        head = [nn.Flatten(), nn.Linear(3 * 25, 2048), nn.ReLU(), nn.Linear(2048, 2100)]
        layers = [*stem, nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *head]
    return nn.Sequential(*layers).double().eval()


def _plan(kind: str, asked: object = ASKED, **options: object) -> kqo.api.CompiledPlan:
    given = {"batch": 7, "threads": 2, "progress": False, "reinference": "never", **options}
    image = torch.zeros(1, 3, EXTENT, EXTENT, dtype=torch.float64)
    return kqo.compile(_model(kind), (image,), asked, kqo.Options(**given))  # type: ignore[arg-type]


def _image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, EXTENT, EXTENT))


def _meant(plan: kqo.api.CompiledPlan, image: np.ndarray) -> np.ndarray:
    """What the chosen delta plan means, whose overlays say what is measured."""
    boxes = plan.placed.boxes(plan.scan.axes)
    regions = [
        [list(zip(lo, hi, strict=True)) for lo, hi in zip(low, high, strict=True)]
        for low, high in zip(boxes.lo.tolist(), boxes.hi.tolist(), strict=True)
    ]
    (found,) = interpret(
        plan.subject().plan("delta"), {plan.scan.name: image}, {plan.scan.name: regions}
    ).values()
    return found


@pytest.mark.parametrize("threshold", [0.3, 1e9])
@pytest.mark.parametrize("kind", ["pooled", "residual", "branches"])
def test_what_is_dropped_is_what_the_plan_means(kind: str, threshold: float) -> None:
    plan = _plan(kind, threshold=threshold)
    found = plan.run(_image())
    np.testing.assert_allclose(found.outputs["output"], _meant(plan, _image()), atol=1e-9)
    off = np.abs(found.outputs["output"] - _plan(kind).run(_image()).outputs["output"]).max()
    assert off > 1e-6
    if threshold == 1e9:  # nothing is left of any change
        np.testing.assert_allclose(found.heatmap(0), float(found.original[0]), atol=1e-9)


@pytest.mark.parametrize("kind", ["pooled", "residual", "branches", "tail"])
def test_batches_threads_and_earlier_images_do_not_matter(kind: str) -> None:
    wanted = _plan(kind, threshold=0.3, batch=1, threads=1).run(_image()).outputs["output"]
    for batch, threads in ((3, 1), (7, 2)):
        plan = _plan(kind, threshold=0.3, batch=batch, threads=threads)
        for image in (_image(1), _image(), _image()):
            found = plan.run(image).outputs["output"]
        np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())
        assert (kind == "tail") == (plan.engine.group > 1)  # type: ignore[union-attr]


def test_several_boxes_of_a_query() -> None:
    boxes = [[((0, 3), (0, 3)), ((14, 18), (12, 17))], [((4, 9), (4, 9))], [((0, 20), (7, 9))]]
    plan = _plan("residual", kqo.Regions(boxes), threshold=0.2, batch=2)
    found = plan.run(_image()).outputs["output"]
    np.testing.assert_allclose(found, _meant(plan, _image()), atol=1e-9)


@pytest.mark.parametrize("kind", ["pooled", "residual", "branches", "tail"])
def test_a_tiny_threshold_drops_nothing_that_counts(kind: str) -> None:
    found = _plan(kind, threshold=1e-9).run(_image(), verify=3).outputs["output"]
    np.testing.assert_allclose(found, _plan(kind).run(_image()).outputs["output"], atol=1e-6)


def test_thresholds_by_layer() -> None:
    every = _plan("pooled", threshold=0.3)
    measured = shrinking_of(every.physical)
    assert measured is not None
    layers = [region.layer for region in measured.measured.values()]
    assert len(layers) == 2
    one = _plan("pooled", threshold={layers[0]: 0.3, layers[1]: 0.0})
    said = one.explain().splitlines()[0]
    assert f"(ClipByMagnitude: threshold = {layers[0]} 0.3)" in said
    assert f"cut as it runs, behind {layers[0]}; figures" in one.explain()
    found = one.run(_image()).outputs["output"]
    np.testing.assert_allclose(found, _meant(one, _image()), atol=1e-9)
    assert np.abs(found - every.run(_image()).outputs["output"]).max() > 1e-6
    document = json.loads(one.explain(format="json"))
    assert document["approximations"] == {"threshold": {layers[0]: 0.3, layers[1]: 0.0}}
    with pytest.raises(ArgumentError, match=r"layer 'no layer'; accepted: poolings.*: 2, 5"):
        _plan("pooled", threshold={"no layer": 0.3})


def test_two_poolings_that_cannot_be_told_apart_are_left_alone() -> None:
    assert "ClipByMagnitude" in _plan("branches", threshold=0.3).explain()
    plan = _plan("alike", threshold=0.3)
    assert shrinking_of(plan.physical) is None and plan.explain().startswith("EXACT")
    found, wanted = plan.run(_image()), _plan("alike").run(_image())
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6)


def test_plans_keep_their_threshold(tmp_path) -> None:
    plan = _plan("residual", threshold=0.3)
    assert "(ClipByMagnitude: threshold = 0.3)" in plan.explain().splitlines()[0]
    wanted = plan.run(_image())
    assert wanted.expected_quality is None
    plan.save(tmp_path / "plan.kqo")
    for other in (kqo.load(tmp_path / "plan.kqo"), pickle.loads(pickle.dumps(plan))):
        assert other.options.threshold == 0.3
        assert other.explain().splitlines()[0] == plan.explain().splitlines()[0]
        np.testing.assert_allclose(other.run(_image()).scores, wanted.scores, atol=1e-9)
    delta = plan.subject().plan("delta")
    text = format_plan(delta)
    assert "Shrink(of: @" in text and parse_plan(text, delta.constants).roots == delta.roots
    assert plan.approximated(threshold=0.1).options.threshold == 0.1
    assert plan.approximated().explain().startswith("EXACT")


def test_a_step_with_nothing_behind_it_is_not_measured() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(243, 2))
    image = torch.zeros(1, 3, EXTENT, EXTENT)
    plan = kqo.compile(nn.Sequential(*layers).eval(), (image,), ASKED, kqo.Options(threshold=0.5))
    assert shrinking_of(plan.physical) is None


def test_what_is_not_a_number_is_not_dropped() -> None:
    given = {"threshold": 1e9}, {}
    image = np.abs(_image()) + 0.1
    plans = [_plan("logarithm", **options) for options in given]
    found, wanted = (plan.run(image).outputs["output"] for plan in plans)
    assert not np.isfinite(wanted).all()
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))


def test_the_measured_part_of_a_region() -> None:
    """By hand: two features at four places, one of the three that may change does enough."""
    old = np.array([[[0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]]])  # variance 1
    new = old + np.array([0.1, 0.6, 0.2, 9.0])
    wide = np.zeros((1, 2, 4), dtype=bool)
    wide[:, :, :3] = True
    axes = (Axis("c", 2), Axis("y", 4))
    assert noticed(wide, old, new, axes, 0.5)[0].tolist() == [[False, True, False, False]] * 2
    assert noticed(wide, old, new, axes, 0.15)[0].tolist() == [[False, True, True, False]] * 2
    assert not noticed(wide, old, new, axes, 0.7).any()


@pytest.mark.parametrize("given", [-0.1, np.nan, np.inf, "0.1", True, {"a": -1}, {1: 0.5}])
def test_thresholds_that_are_not_accepted(given: object) -> None:
    with pytest.raises(ArgumentError, match=r"threshold.*a number from 0"):
        kqo.Options(threshold=given)  # type: ignore[arg-type]


def test_a_gpu_is_refused() -> None:
    plan, options = _plan("pooled"), kqo.Options(threshold=0.1, target="cuda")
    with pytest.raises(ArgumentError, match="'cuda' with a threshold; accepted: 'numpy'"):
        settle(options, plan.logical, plan.workload, plan.placed)


BOXES = (
    (((0, 2), (0, 6), (2, 4)), ((8, 9), (3, 5)), ((1, 2), (4, 9), (2, 4)), ((6, 7), (0, 1))),
    (((0, 1), (1, 8), (2, 4)), ((0, 1), (2, 5), (3, 4)), ((1, 2), (2, 9), (0, 4))),
    (((7, 8), (1, 5)), ((3, 6), (1, 2)), ((2, 9), (2, 5)), ((3, 7), (1, 2))),
    (((7, 9), (3, 4)), ((5, 8), (3, 4)), ((1, 2), (3, 8), (4, 5)), ((2, 8), (4, 5))),
    (((1, 2), (4, 5), (1, 2)), ((8, 9), (1, 5)), ((1, 2), (2, 5), (3, 5))),
)


def test_rows_that_are_bound_batch_by_batch_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may take a hull where all queries together take boxes: 2 % more rows, at most."""
    counts: dict[int, int] = {}
    kept = Moving.out

    def out(self: Moving, number: int, last: Region | None) -> Region:
        found = kept(self, number, last)
        table = self.about.plan.steps[number].table
        counts[table] = max(counts.get(table, 0), found.count)
        return found

    monkeypatch.setattr(Moving, "out", out)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(2, 1, (1, 3), (2, 2), (1, 0), (1, 1)), nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((3, 5)), nn.Conv2d(1, 3, 2, padding=(3, 2), bias=False),
        nn.Conv2d(3, 3, 2, (1, 2), (2, 2), groups=3, padding_mode="replicate"),
        nn.GroupNorm(1, 3, eps=0.01), nn.AdaptiveAvgPool2d((3, 5)), nn.Flatten(),
    ).double().eval()  # fmt: skip
    options = kqo.Options(threads=3, batch=5, threshold=1e-13)
    asked = kqo.Regions(boxes=BOXES)
    plan = kqo.compile(model, (torch.zeros(1, 2, 9, 5),), asked, options)
    image = torch.randn(2, 9, 5, dtype=torch.float64)
    scores = plan.run(image.numpy()).scores
    engine = plan.engine
    assert isinstance(engine, Engine)
    held = engine._footprint.capacities(engine.batches, engine.group)
    monkeypatch.setattr(footprint, "LOOSE", 1.0)
    exact = engine._footprint.capacities(engine.batches, engine.group)
    assert all(count <= held[table] for table, count in counts.items())
    assert any(count > exact[table] for table, count in counts.items())
    again = kqo.compile(model, (torch.zeros(1, 2, 9, 5),), asked, options)
    with pytest.raises(PlanError, match="rows in a batch, and there is memory for"):
        again.run(image.numpy())  # which wrote over other tables' rows
    boxes = plan.placed.boxes(plan.scan.axes)
    for query, found in enumerate(scores):
        changed = image.clone()
        for lo, hi in zip(boxes.lo[query], boxes.hi[query], strict=True):
            changed[tuple(slice(int(a), int(z)) for a, z in zip(lo, hi, strict=True))] = 0
        with torch.no_grad():
            np.testing.assert_allclose(found, model(changed[None])[0], rtol=1e-9, atol=1e-9)

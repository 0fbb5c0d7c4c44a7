"""Rows that are equal in several queries of a batch: found, computed once, copied, explained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.explain.text import saved_rows
from kqo.ir.boxes import Boxes
from kqo.ir.schema import Axis
from kqo.planner import share
from kqo.planner.distinct import Seen, distinct, seen
from kqo.planner.rates import REFERENCE
from kqo.planner.reach import Along, Reach
from kqo.runtime.sharing import copied_from
from kqo.workloads.changed import fill_values

GOLDEN = Path(__file__).parents[1] / "golden" / "sharing"
AXES = ("z", "y", "x")


def _questions(rank: int, seed: int) -> tuple[Boxes, Boxes, Reach]:
    """Random windows, regions that hold all that they reach, and a receptive field."""
    generator = np.random.default_rng(seed)
    own = AXES[-rank:]
    along, rows_lo, rows_hi, ends_lo, ends_hi = [], [], [], [], []
    queries = int(generator.integers(1, 12))
    for axis in own:
        extent = int(generator.integers(12, 30))
        stride = int(generator.integers(1, 3))
        lo = -int(generator.integers(0, 4))
        hi = lo + int(generator.integers(0, 6))
        count = (extent - 1) // stride + 1
        first, end = -(lo // stride), (extent - 1 - hi) // stride + 1
        along.append(Along(axis, stride, lo, hi, max(0, first), min(count, end)))
        wide = generator.choice([2, 6, 9], queries)
        at = generator.integers(0, 4, queries) * int(generator.integers(1, 4))
        ends_lo.append(np.minimum(at, extent - wide))
        ends_hi.append(ends_lo[-1] + wide)
        # The region may hold rows that see nothing of the change, as hulls do.
        more = int(generator.integers(0, 2))
        rows_lo.append(np.clip((ends_lo[-1] - hi) // stride - more, 0, count))
        rows_hi.append(np.clip((ends_hi[-1] - lo) // stride + 1 + more, 0, count))
    features = np.zeros(queries, dtype=np.int64), np.full(queries, 3)
    if generator.integers(3) == 0:
        features = features[0], generator.integers(1, 4, queries)
    changed = Boxes(
        ("c", *own),
        np.stack([features[0], *ends_lo], axis=1)[:, None],
        np.stack([features[1], *ends_hi], axis=1)[:, None],
    )
    rows = Boxes(own, np.stack(rows_lo, axis=1)[:, None], np.stack(rows_hi, axis=1)[:, None])
    return rows, changed, Reach((Axis("c", 3),), tuple(along), bool(generator.integers(2)))


def _sights(rows: Boxes, changed: Boxes, reach: Reach) -> list[tuple[Any, ...]]:
    """By definition what decides the value of each row: where it lies, and what part of its field
    is changed; of a constant fill nothing where all of it is, and no padding is read."""
    found: list[tuple[Any, ...]] = []
    for query in range(rows.queries):
        lo, hi = rows.lo[query, 0], rows.hi[query, 0]
        low, high = changed.lo[query, 0], changed.hi[query, 0]
        for offset in np.ndindex(*(hi - lo)):
            at = lo + np.array(offset, dtype=np.int64)
            sight, inside = [], reach.uniform and (low[0], high[0]) == (0, 3)
            for p, a, first, last in zip(at, reach.along, low[1:], high[1:], strict=True):
                field = a.stride * p + a.lo, a.stride * p + a.hi + 1
                part = max(first, field[0]), min(last, field[1])
                sight.append((int(part[0]), int(part[1])) if part[0] < part[1] else None)
                inside = inside and part == field and a.first <= p < a.end
            meets = None not in sight
            key = (tuple(at.tolist()), (low[0], high[0], *sight) if meets else None)
            found.append(("inside",) if inside else key)
    return found


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_row_is_copied_from_one_that_sees_the_same(rank: int) -> None:
    copied = 0
    for seed in range(40):
        rows, changed, reach = _questions(rank, seed)
        found = seen(rows, changed, reach)
        assert found is not None
        made = distinct(found)
        copies = copied_from(found, made)
        sights = _sights(rows, changed, reach)
        filled = (made.hi > made.lo).all(axis=2)
        computed = _sights(
            Boxes(rows.axes, made.lo[filled][:, None], made.hi[filled][:, None]),
            changed.select(np.nonzero(filled)[0]),
            reach,
        )
        assert len(copies) == len(sights) and made.rows == len(computed)
        assert set(copies.tolist()) == set(range(len(computed)))  # none is computed for nothing
        assert [computed[n] for n in copies] == sights
        copied += len(sights) - made.rows
    assert copied > 100


def test_rows_of_several_batches_are_not_shared() -> None:
    rows, changed, reach = _questions(2, 3)
    alone = seen(rows, changed, reach, np.arange(rows.queries))
    together = seen(rows, changed, reach)
    assert alone is not None and together is not None
    single = [seen(rows.select([q]), changed.select([q]), reach) for q in range(rows.queries)]
    assert distinct(alone).rows == sum(distinct(s).rows for s in single if s is not None)
    assert distinct(together).rows < distinct(alone).rows


def test_windows_that_moved_together_are_pieced_together_alike() -> None:
    def moved(y: int, x: int, gap: int = 4) -> Seen:
        starts = np.array([[y, x], [y, x + gap]])
        changed = Boxes(("c", "y", "x"), *(_with_features(starts, e) for e in (0, 16)))
        rows = Boxes(("y", "x"), starts[:, None] - 1, starts[:, None] + 17)
        along = tuple(Along(a, 1, -1, 1, 1, 63) for a in ("y", "x"))
        found = seen(rows, changed, Reach((Axis("c", 3),), along, True))
        assert found is not None
        return found

    assert moved(8, 12).same_but_moved(moved(20, 4))
    assert not moved(8, 12).same_but_moved(moved(8, 12, 5))


def _with_features(starts: np.ndarray, more: int) -> np.ndarray:
    features = np.full((len(starts), 1), 3 if more else 0)
    return np.concatenate([features, starts + more], axis=1)[:, None]


def test_several_windows_of_a_query_are_left_alone() -> None:
    rows, changed, reach = _questions(2, 0)
    two = Boxes(changed.axes, changed.lo.repeat(2, axis=1), changed.hi.repeat(2, axis=1))
    assert seen(rows, two, reach) is None


class Layers(nn.Module):
    """Layers of every form, of 1 to 3 positions, with padding, strides, dilation, and residuals."""

    def __init__(self, rank: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[rank - 1]
        mean = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[rank - 1]
        self.rank = rank
        self.first = conv(3, 8, 3, padding=(2, 1, 0)[seed % 3])
        self.second = conv(8, 8, 3, padding=1)
        self.pool = pool(3, stride=2, padding=1) if seed % 2 else pool(2)
        self.wide = conv(8, 8, 3, padding=2, dilation=2, groups=(1, 2, 8)[seed % 3])
        modes = ("zeros", "reflect", "circular", "replicate")
        mode = modes[seed % 4] if rank < 3 else "zeros"
        self.other = conv(8, 8, 3, padding=1, padding_mode=mode)
        self.mean = mean(3, stride=2, padding=1, count_include_pad=bool(seed % 2))
        self.last = conv(8, 4, 3, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image).relu()
        x = (self.second(x) + x).relu()
        x = nn.functional.pad(x[..., 6:], (1, 1) * self.rank)  # zeros where the change may be
        x = self.pool(x)
        x = self.other(self.wide(x).relu())
        x = torch.cat([self.mean(x), self.mean(x * 2)], dim=1)[:, 2:10]
        return self.last(x).flatten(1)


@pytest.fixture
def always() -> Iterator[None]:
    """Every step whose receptive field is known computes equal rows once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(share, "pays", lambda *_: True)
        patch.setattr(share, "never_pays", lambda *_: False)
        yield


def _worst(plan: Any, model: nn.Module, image: torch.Tensor, fill: Any) -> float:
    """The largest difference from PyTorch over all queries, relative to the largest output."""
    answers = next(iter(plan.run(image[None]).outputs.values()))
    values = np.broadcast_to(fill_values(fill, image.numpy()), image.shape)
    worst, scale = 0.0, 0.0
    with torch.no_grad():
        for query in range(len(plan.placed)):
            changed = image.numpy().copy()
            mask = plan.placed.mask(query)
            changed[mask] = values[mask]
            wanted = model(torch.from_numpy(changed)[None])[0].numpy()
            worst = max(worst, float(np.abs(answers[query] - wanted).max()))
            scale = max(scale, float(np.abs(wanted).max()))
    return worst / scale


def _shared(plan: Any) -> int:
    return sum(step.shared for step in plan.physical.steps)


def _array(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape)


FILLS: dict[str, Callable[[tuple[int, ...]], Any]] = {
    "number": lambda shape: 0.5,
    "channels": lambda shape: _array(shape[:1]),
    "array": _array,
    "mean": lambda shape: "mean",
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_answers_are_those_of_pytorch(always: None, rank: int, fill: str) -> None:
    extents = {1: (90,), 2: (44, 38), 3: (20, 18, 19)}[rank]
    seed = rank + 4 * list(FILLS).index(fill)
    model = Layers(rank, seed).double().eval()
    image = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, *extents)))
    given = FILLS[fill]((3, *extents))
    workload = kqo.Occlusion({1: 30, 2: (20, 17), 3: (9, 8, 10)}[rank], 3 + rank, fill=given)
    options = kqo.Options(threads=1, batch=7, reinference="never")
    plan = kqo.compile(model, image[None], workload, options)
    assert _shared(plan) >= 3 and saved_rows(plan.subject())
    assert _worst(plan, model, image, given) < 1e-9


def test_some_of_the_channels_and_other_images(always: None) -> None:
    model = Layers(2, 1).double().eval()
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 40, 40)))
    options = kqo.Options(threads=1, batch=9, reinference="never")
    plan = kqo.compile(model, image[None], kqo.Occlusion((2, 24, 20), (1, 8, 5)), options)
    assert _shared(plan) >= 3
    for _ in range(2):
        assert _worst(plan, model, image, 0.0) < 1e-9
        image = image.flip(-1) * 1.5


def test_windows_of_several_sizes_share_their_ends(always: None) -> None:
    model = Layers(2, 2).double().eval()
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 40, 40)))
    small, large = (kqo.Occlusion(size, 8).regions((3, 40, 40)) for size in (16, 24))
    options = kqo.Options(threads=1, batch=16, reinference="never")
    plan = kqo.compile(model, image[None], small + large, options)
    assert _shared(plan) >= 3
    assert _worst(plan, model, image, 0.0) < 1e-9


def test_several_regions_of_a_query_are_computed_for_each(always: None) -> None:
    model = Layers(2, 2).double().eval()
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 40, 40)))
    boxes = [[[(y, y + 9), (2, 12)], [(y, y + 9), (20, 33)]] for y in range(0, 28, 4)]
    options = kqo.Options(threads=1, reinference="never")
    plan = kqo.compile(model, image[None], kqo.Regions(boxes), options)
    assert _shared(plan) == 0
    assert _worst(plan, model, image, 0.0) < 1e-9


@pytest.mark.parametrize("given", [{"approximations": {"tau": 0.7}}, {"threshold": 0.1}])
def test_regions_that_were_cut_are_left_alone(always: None, given: dict[str, Any]) -> None:
    """What a row reads beyond such a region depends on more than what it sees of the window."""
    model = Layers(2, 1).eval()
    options = kqo.Options(threads=1, **given)
    plan = kqo.compile(model, torch.zeros(1, 3, 40, 40), kqo.Occlusion(24, 4), options)
    assert plan.subject().approximate and _shared(plan) == 0


def _stack(size: int, patch: int) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
    ).eval()
    options = kqo.Options(threads=1, batch=16, reinference="never")
    return kqo.compile(model, torch.zeros(1, 3, size, size), kqo.Occlusion(patch, 4), options)


@pytest.mark.parametrize(("name", "patch"), [("fires", 48), ("does_not_pay", 8)])
def test_golden_plan(
    monkeypatch: pytest.MonkeyPatch, update_golden: bool, name: str, patch: int
) -> None:
    monkeypatch.setattr(kqo.api, "current_rates", lambda: REFERENCE)
    plan = _stack(112, patch)
    assert plan.subject().reinference is not None
    lines = []
    for number, step in enumerate(plan.physical.steps):
        if step.delta:
            kind = "distinct rows" if step.shared else "all rows"
            lines.append(f"{number} {step.form} {step.rule or '-'}: {kind}")
    text = "\n".join([*lines, *saved_rows(plan.subject())]) + "\n"
    path = GOLDEN / f"{name}.txt"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_explain_counts_what_is_saved(always: None) -> None:
    plan = _stack(64, 32)
    found = json.loads(plan.explain(format="json"))
    steps = [step for step in found["steps"] if "distinct_rows" in step]
    assert steps and all(step["distinct_rows"] <= step["rows"] for step in steps)
    saved = sum(step["rows"] - step["distinct_rows"] for step in steps)
    assert found["run"]["saved_rows"] == saved > 0
    for text in (plan.explain(), plan.explain(analyze=True)):
        last = next(line for line in text.splitlines() if line.startswith("    in all"))
        assert f"({saved / sum(step['rows'] for step in steps):.0%})" in last


def test_the_copies_need_memory_that_is_counted(always: None) -> None:
    plan = _stack(64, 32)
    engine = plan.engine
    shares = engine._footprint.distinct
    assert set(shares) == set(engine.distinct) and all(0 < s <= 1 for s in shares.values())
    engine.run({plan.scan.name: np.zeros((3, 64, 64), dtype=np.float32)})
    assert engine.nbytes <= engine._footprint.needed(engine.batch, engine.group) * 1.1

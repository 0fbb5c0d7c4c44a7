"""What a GPU's additive linear layers are predicted to take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.ir.boxes import Boxes
from kqo.ir.schema import Axis
from kqo.lang.ruleset import rules_for
from kqo.planner.additive import left_out, shares, union_share
from kqo.planner.choose import Chooser
from kqo.planner.cost import Work, work
from kqo.planner.cuda_rates import GpuRates, cuda_rates
from kqo.planner.estimate import predict
from kqo.planner.rates import Rates
from kqo.rewrite.memo import explore

Y, X = Axis("y", 4), Axis("x", 5)


def boxes(*corners: tuple[int, int, int, int]) -> Boxes:
    found = np.array(corners, dtype=np.int64)[:, None]
    return Boxes(("y", "x"), found[..., :2], found[..., 2:])


def test_the_share_that_a_block_changes():
    some = boxes((0, 0, 2, 2), (1, 1, 3, 3), (0, 0, 4, 5), (2, 2, 2, 2))
    assert union_share(some, (Y, X), 1) == pytest.approx((4 + 4 + 20 + 0) / 4 / 20)
    assert union_share(some, (Y, X), 2) == pytest.approx((7 + 20) / 2 / 20)
    assert union_share(some, (Y, X), 3) == pytest.approx((3 * 20 + 0) / 4 / 20)
    assert union_share(some, (X, Y), 2) == union_share(some, (Y, X), 2)


def step_seconds(features: int, rates: Rates) -> tuple[float, float]:
    """What the chooser and the prediction say of a linear layer over 8 x 8 positions."""
    model = nn.Sequential(nn.Conv2d(1, features, 3, padding=1), nn.Flatten())
    model.append(nn.Linear(features * 64, 64)).eval()
    plan = kqo.compile(model, (torch.zeros(1, 1, 8, 8),), kqo.Occlusion(2, 1))
    overlaid = plan.workload.apply(plan.logical)
    memo = explore(overlaid, rules_for(plan.options), {})
    changed = {plan.scan.name: plan.placed.boxes(plan.scan.axes)}
    chooser = Chooser(overlaid, memo, changed, rates)
    physical = chooser.choose()
    found = {
        t.id: chooser.boxes(n) for n, i in chooser._built.items() for t in [physical.tables[i]]
    }
    steps = predict(physical, found, len(plan.placed), batch=7, workers=1, rates=rates).steps
    last = max(i for i, step in enumerate(physical.steps) if step.delta)
    root = dict(overlaid.roots)["output"]
    return chooser.cost(root)[0], steps[last].seconds


@pytest.mark.parametrize("features", [32, 48])
def test_positions_that_no_query_of_a_block_changes_are_not_priced(monkeypatch, features):
    monkeypatch.setattr(GpuRates, "linear_block", 4)
    gpu = replace(cuda_rates("float32"), gemm=((1e11,) * 4,) * 6)  # products are what counts
    plain = Rates.from_dict(gpu.to_dict())
    both = zip(step_seconds(features, gpu), step_seconds(features, plain), strict=True)
    for by_block, every in both:
        if features % 32:
            assert by_block == every  # no whole slices of features
        else:
            assert 0.2 * every < by_block < 0.9 * every


def test_the_kernel_of_shares_is_read_once():
    product = Work(flops=640, inner=8, wide=4)
    assert shares(product, product) == Work()
    assert shares(product, product._replace(flops=320)) == Work(panels=8 * 4 * 4)


def test_other_forms_are_priced_as_they_were():
    plan = kqo.compile(nn.Conv2d(1, 32, 3).eval(), (torch.zeros(1, 1, 8, 8),), kqo.Occlusion(2, 1))
    step = next(s for s in plan.physical.steps if s.delta and s.form != "patch")
    counted = work(step.form, step.node, 10)
    changed = boxes((0, 0, 2, 2))
    rates = cuda_rates("tf32")
    assert left_out(counted, step.form, step.node, 10, changed, (Y, X), rates) is counted

"""A network from PyTorch to SQL: DuckDB's answers are PyTorch's, before and after delta rules."""

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.errors import ArgumentError
from kqo.prove.duck import run_sql


class Residual(nn.Module):
    """conv-BN-ReLU-pool, a residual block, a concatenation and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(8 * 5 * 5, 5)

    def forward(self, x):
        x = self.pool(torch.relu(self.norm(self.stem(x))))
        y = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.last(torch.cat([y, x], 1).flatten(1))


SHAPE = (3, 10, 10)


@pytest.fixture(scope="module")
def case():
    """The network with statistics that are not trivial, an image, and the plan for a grid."""
    torch.manual_seed(0)
    model = Residual().eval()
    with torch.no_grad():
        for values in (model.norm.running_mean, model.norm.weight, model.norm.bias):
            values.copy_(torch.randn(4))
        model.norm.running_var.copy_(torch.rand(4) + 0.5)
    image = torch.randn(1, *SHAPE)
    return (
        model,
        image,
        kqo.compile(model, (image,), kqo.Occlusion(3, 2, fill=0.5), name="residual"),
    )


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("stage", ["logical", "normalized"])
def test_the_logical_plan_gives_pytorchs_answer(case, stage):
    model, image, plan = case
    found = run_sql(plan.subject().plan(stage), {plan.scan.name: image[0].numpy()})
    with torch.no_grad():
        close(found["output"], model(image)[0].numpy())


def test_the_delta_plan_gives_the_answers_of_full_inference(case):
    model, image, plan = case
    boxes = plan.placed.boxes(plan.scan.axes)
    regions = [
        [tuple(zip(map(int, lo), map(int, hi), strict=True)) for lo, hi in zip(*query, strict=True)]
        for query in zip(boxes.lo, boxes.hi, strict=True)
    ]
    delta = plan.subject().plan("delta")
    assert {"Overlay", "Saved", "Slice"} <= {node.op for node in delta.nodes()}
    scans = {plan.scan.name: image[0].numpy()}
    found = run_sql(delta, scans, {plan.scan.name: regions})["output"]
    occluded = image.repeat(len(regions), 1, 1, 1)
    for query, starts in enumerate(plan.placed.starts):
        y, x = starts[-2:]
        occluded[query, :, y : y + 3, x : x + 3] = 0.5
    with torch.no_grad():
        wanted = model(occluded).numpy()
    assert len(np.unique(wanted.round(4), axis=0)) > 10
    close(found, wanted)


def test_sql_is_what_explain_prints(case):
    plan = case[2]
    assert plan.explain(format="sql") == plan.explain(format="sql", stage="logical")
    assert plan.explain(format="sql", stage="delta").count("changed_") == 1
    for stage in ("physical", "source"):
        with pytest.raises(ArgumentError, match="as SQL; accepted: logical, normalized or delta"):
            plan.explain(format="sql", stage=stage)

"""A step whose rows are more than there is memory for is an error: it would write over others'."""

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.errors import PlanError
from kqo.runtime.footprint import Footprint

IMAGE = np.random.default_rng(0).normal(size=(2, 12, 12)).astype(np.float32)


def plan_of(**options: object) -> kqo.CompiledPlan:
    """Delta rows that are gathered, read in place, and of products, windows and linear layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1),
        nn.Softmax(1), nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5),
    ).eval()  # fmt: skip
    return kqo.compile(
        model, (torch.zeros(1, 2, 12, 12),), kqo.Occlusion(4, 2), kqo.Options(**options)
    )


@pytest.mark.parametrize("options", [{}, {"threads": 1, "batch": 4}])
def test_one_row_less_is_noticed_whichever_table_lacks_it(
    options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    capacities = Footprint.capacities
    tables = plan_of(**options).engine.boxes
    assert len(tables) > 3
    for table in tables:

        def less(self: Footprint, *given: object, table: int = table) -> dict[int, int]:
            found = capacities(self, *given)
            return found | {table: found[table] - 1}

        monkeypatch.setattr(Footprint, "capacities", less)
        plan = plan_of(**options)
        with pytest.raises(PlanError, match=r"^step \S+ has \d+ rows in a batch, and there is"):
            plan.run(IMAGE)
    monkeypatch.undo()
    assert np.isfinite(plan_of(**options).run(IMAGE).scores).all()

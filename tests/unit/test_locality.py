"""EXPLAIN says where locality ends, why, and what that costs."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import kqo
from tests import models
from tests.asking import assert_answers
from tests.unit.lowering import noise, randomized


def explained(model: nn.Module, *shape: int) -> str:
    window = (4,) * (len(shape) - 1)
    plan = assert_answers(model.double(), (noise(1, *shape),), kqo.Occlusion(window, stride=window))
    return plan.explain()


class SpaceNorm(nn.Module):
    """Layer norm over channels and space, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm((4, 12, 12))
        self.after = nn.Conv2d(4, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.norm(self.before(x)))


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (models.build("efficientnet"), (3, 24, 24), r"at features.1.se: .*avgpool, the mean over"),
        (models.build("volume"), (1, 9, 8, 10), r"at norm1: it reads norm1, .* all of z, y, x"),
        (randomized(SpaceNorm()), (3, 12, 12), r"at norm: it reads norm, the mean over .*y, x"),
    ],
)
def test_global_context_is_exact_and_explained(model, shape, says) -> None:
    text = explained(model, *shape)
    assert re.search(f"locality ends {says}", text)
    assert re.search(r"\d+ steps compute every position for every query, in \d+% of the", text)


def test_a_local_model_has_nothing_to_say() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    assert "locality ends" not in explained(model, 3, 12, 12)

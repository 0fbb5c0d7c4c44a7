"""Winograd's form of windows that have one tap along an axis."""

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from tests.property.asked import random_costs


@pytest.mark.parametrize("kernel", [(3, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("costs", range(8))
def test_one_tap_along_an_axis(kernel: tuple[int, int], costs: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, kernel), nn.ReLU(), nn.Conv2d(4, 3, kernel))
    model = model.double().eval()
    image = torch.randn(1, 2, 11, 12, dtype=torch.float64)
    options = kqo.Options(without=("DropUnitTaps",))
    with random_costs(costs):
        plan = kqo.compile(model, (image,), kqo.Occlusion(window=3, stride=2), options)
    result = plan.run(image[0])
    (found,), (first,) = result.outputs.values(), result.originals.values()
    with torch.inference_mode():
        dense = model(image)[0].numpy()
        changed = image[0].clone()
        changed[:, :3, :3] = 0
        second = model(changed[None])[0].numpy()
    np.testing.assert_allclose(first, dense, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.reshape(-1, *dense.shape)[0], second, rtol=0, atol=1e-12)

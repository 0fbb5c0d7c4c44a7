"""Layers behind the last window, run for several batches at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kqo
from kqo.runtime.tail import QUERIES

EXTENT = 24


def _model(wide: int, ends_in_map: bool = False) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    if ends_in_map:
        return nn.Sequential(*body, nn.Conv2d(8, 4, 1)).eval()
    head = [nn.Flatten(), nn.Linear(8 * 144, wide), nn.ReLU(), nn.Linear(wide, 5)]
    return nn.Sequential(*body, *head).eval()


def _plan(model: nn.Module, **options: int) -> kqo.CompiledPlan:
    image = torch.zeros(1, 3, EXTENT, EXTENT)
    return kqo.compile(model, (image,), kqo.Occlusion(6, 2), kqo.Options(**options))


def _dense(model: nn.Module, image: np.ndarray) -> np.ndarray:
    places = range(0, EXTENT - 5, 2)
    images = np.repeat(image[None], len(places) ** 2, axis=0)
    for number, (y, x) in enumerate((y, x) for y in places for x in places):
        images[number, :, y : y + 6, x : x + 6] = 0
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 7, 16])
def test_batches_share_the_last_layers(batch: int, threads: int) -> None:
    model = _model(4096)
    image = np.random.default_rng(0).standard_normal((3, EXTENT, EXTENT)).astype(np.float32)
    plan = _plan(model, batch=batch, threads=threads)
    wanted = _dense(model, image)
    for _ in range(2):
        found = plan.run(image).scores
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert 1 < plan.engine.group <= QUERIES // plan.engine.batch


def test_a_refined_heatmap_is_the_plans_own() -> None:
    model = _model(4096)
    image = np.random.default_rng(1).standard_normal((3, EXTENT, EXTENT)).astype(np.float32)
    plan = _plan(model, batch=4)
    *_, last = plan.refine(image, step=3)
    assert last.complete and plan.engine.group > 1
    scores = plan.run(image).scores[:, last.target]
    np.testing.assert_allclose(last.heatmap.ravel(), scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [_model(16), _model(16, ends_in_map=True)])
def test_small_kernels_and_maps_have_no_tail(model: nn.Module) -> None:
    assert _plan(model, batch=4).engine.group == 1


def test_memory_bounds_the_group() -> None:
    small = _plan(_model(4096), batch=4, memory=4 << 20).engine.group
    assert small < _plan(_model(4096), batch=4).engine.group

"""The built-in models on a photograph: sampled outputs are those of PyTorch's full re-inference."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import kqo
from kqo import zoo
from kqo.workloads import changed_inputs

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOLERANCE = 1e-5  # of the largest output
SMALL = {"resnet18": 112, "mobilenet_v2": 96, "vgg16": 64}


def photograph(height: int, width: int) -> np.ndarray:
    """scikit-learn's picture of a flower, resized, in the units that the models see."""
    pixels = Image.fromarray(load_sample_image("flower.jpg")).resize((width, height))
    values = (np.asarray(pixels, dtype=np.float64) / 255 - MEAN) / STD
    return values.transpose(2, 0, 1).astype(np.float32)


def check(model: torch.nn.Module, image: np.ndarray, count: int) -> None:
    """Patch 16, stride 4: the outputs at random positions of the grid, and for the photograph."""
    shape = image.shape
    whole = kqo.Occlusion(window=16, stride=4).resolve(shape)
    chosen = np.random.default_rng(0).permutation(len(whole))[:count]
    workload = kqo.Occlusion(window=16, stride=4, positions=whole.starts[np.sort(chosen)])
    result = kqo.compile(model, (torch.from_numpy(image)[None],), workload).run(image)
    inputs = np.concatenate([changed_inputs(workload, image, np.arange(count)), image[None]])
    # By PyTorch in float64: rounding of its own in float32 takes most of the tolerance elsewhere.
    exact = copy.deepcopy(model).double()
    with torch.inference_mode():
        parts = torch.from_numpy(inputs).double().split(8)
        wanted = np.concatenate([exact(x).numpy() for x in parts])
    most = TOLERANCE * np.abs(wanted).max()
    np.testing.assert_allclose(result.scores, wanted[:-1], rtol=0, atol=most)
    np.testing.assert_allclose(result.original, wanted[-1], rtol=0, atol=most)
    changes = np.abs(wanted[:-1] - wanted[-1]).max(axis=1)
    assert (changes > 10 * most).all(), "a change that is lost in rounding would prove nothing"


@pytest.mark.parametrize("name", SMALL)
def test_a_few_positions_of_narrow_models(name: str) -> None:
    model = zoo.build(name, width=0.25, num_classes=20)
    check(model, photograph(SMALL[name], SMALL[name]), count=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NAMES)
def test_zoo_model_at_random_positions(name: str) -> None:
    check(zoo.build(name), photograph(*zoo.input_shape(name)[1:]), count=64)

"""The evaluation's tasks: images, masks, and the networks trained on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kqo.bench.tasks import photographs
from kqo.bench.tasks.networks import (
    NETWORKS,
    build,
    load_network,
    save_network,
    weights_path,
    widened,
)
from kqo.bench.tasks.task import SIZE, TASKS, task_named
from kqo.bench.tasks.train import (
    accuracy,
    augmented,
    finished,
    make_samples,
    prepared,
    train,
)
from kqo.demo.fit import crop_start
from kqo.errors import ArgumentError, KqoError


@pytest.mark.parametrize("name", TASKS)
def test_equal_seeds_give_equal_images_and_sets_differ(name):
    task = TASKS[name]
    first, again = (task.generate(3, held_out=True) for _ in range(2))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert first.image.shape == (SIZE, SIZE, 3) and first.image.dtype == np.uint8
    assert not np.array_equal(first.image, task.generate(3, held_out=False).image)
    assert not np.array_equal(first.image, task.generate(7, held_out=True).image)


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_balanced_and_masks_hold_the_object(name):
    samples = [TASKS[name].generate(seed, held_out=False) for seed in range(8)]
    assert sorted(s.label for s in samples) == sorted(2 * list(range(4)))
    for sample in samples:
        assert sample.mask.shape == (SIZE, SIZE)
        assert sample.mask.any() == (sample.label != 0)
        assert sample.mask.mean() < 0.25


def test_held_out_pixels_are_never_trained_on():
    whole = photographs.BACKGROUNDS[0]
    trained, held_out = (photographs.picture(*whole, held_out=h) for h in (False, True))
    assert trained.shape[0] == held_out.shape[0] == 427
    assert trained.shape[1] + held_out.shape[1] == 640 and trained.shape[1] == 448


def test_the_mask_is_where_the_material_is(monkeypatch):
    """With another texture pasted, the image differs inside of the mask and nowhere far from it."""
    sample = photographs.generate(1, "gravel")
    material = photographs.material
    monkeypatch.setattr(photographs, "material", lambda *given: 0.5 * material(*given))
    other = photographs.generate(1, "gravel")
    change = np.abs(sample.image.astype(int) - other.image.astype(int)).max(axis=2)
    assert change[sample.mask].mean() > 20
    rows, columns = np.nonzero(sample.mask)
    far = np.ones_like(sample.mask)
    far[
        max(0, rows.min() - 12) : rows.max() + 13, max(0, columns.min() - 12) : columns.max() + 13
    ] = 0
    assert not change[far].any()


def test_arguments_that_are_refused():
    with pytest.raises(ArgumentError, match="seed"):
        photographs.generate(-1)
    with pytest.raises(ArgumentError, match="label"):
        photographs.generate(0, "water")
    with pytest.raises(ArgumentError, match="surface, photographs"):
        task_named("faces")
    with pytest.raises(KqoError, match="no_such_package"):
        photographs.picture("no_such_package", "x.png", held_out=False)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_widened_network_computes_the_same(network):
    torch.manual_seed(0)
    narrow = build(network, 4).eval()
    for value in narrow.buffers():
        if value.dtype == torch.float32:
            value.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, SIZE, SIZE)
    wide = widened(narrow, network)
    with torch.inference_mode():
        expected, found = narrow(images), wide(images)
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
    convolutions = [m for m in wide.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions[-1].out_channels == 512 and convolutions[0].out_channels == 64


def test_folding_batch_norms_keeps_the_function():
    torch.manual_seed(0)
    trained = prepared("vgg16", 4)
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = trained.eval()(images)
        folded = finished("vgg16", trained, 4)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        assert (folded(images) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("seed", range(4))
def test_crops_hold_the_object(seed):
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    mask[50:110, 130:200] = seed != 0
    top, left = crop_start(np.random.default_rng(seed), mask, 128)
    assert 0 <= top <= SIZE - 128 and 0 <= left <= SIZE - 128
    assert mask[top : top + 128, left : left + 128].sum() == mask.sum()


def test_targets_are_distributions():
    task = TASKS["photographs"]
    samples = make_samples(task, 8, held_out=False)
    inputs, targets = next(augmented(task, samples).batches(np.random.default_rng(0), 8, 128))
    assert inputs.shape == (8, 3, 128, 128)
    assert np.allclose(targets.sum(axis=1), 1) and targets.min() >= 0


def test_training_learns_and_its_weights_come_back(tmp_path, capsys):
    task = TASKS["surface"]
    samples = make_samples(task, 8, held_out=False)
    trained = train(
        task, "resnet18", samples, stages=((128, 4), (SIZE, 1)), batch=8, rate=5e-3, bfloat16=False
    )
    losses = [float(x.split("loss ")[1].split()[0]) for x in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5 and min(losses[2:]) < losses[0]
    save_network(trained, task, "resnet18", tmp_path)
    loaded = load_network(task, "resnet18", tmp_path)
    images = torch.from_numpy(task.preprocess(samples[0].image))
    with torch.inference_mode():
        expected = trained(images)
        assert (loaded(images) - expected).abs().max() < 0.02 * expected.abs().max()
    with pytest.raises(ArgumentError, match="metadata"):
        (tmp_path / "surface_resnet18.safetensors").rename(
            tmp_path / "photographs_resnet18.safetensors"
        )
        load_network(TASKS["photographs"], "resnet18", tmp_path)
    with pytest.raises(ArgumentError, match=r"kqo\.bench\.tasks\.train surface vgg16"):
        load_network(task, "vgg16", tmp_path)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", TASKS)
def test_shipped_networks_are_small_and_right_on_images_that_nobody_looked_at(name, network):
    """Seeds past those on which the training's accuracy was printed."""
    task = TASKS[name]
    assert weights_path(task, network).stat().st_size < 2 << 20
    samples = [task.generate(seed, held_out=True) for seed in range(5000, 5048)]
    assert accuracy(load_network(task, network), task, samples)[-1] >= 0.9

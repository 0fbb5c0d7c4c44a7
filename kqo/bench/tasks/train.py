"""Train the evaluation's networks: ``python -m kqo.bench.tasks.train TASK NETWORK``.

Training goes as that of the demonstration's model (:mod:`kqo.demo.fit`). Its first part sees crops.
VGG16 is trained with a batch norm after each convolution, which is folded into it at the end: the
network has the zoo's layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kqo.bench.tasks.networks import NETWORKS, WEIGHTS, build, load_network, save_network
from kqo.bench.tasks.sample import Sample
from kqo.bench.tasks.task import SIZE, TASKS, Task, task_named
from kqo.demo.fit import Augmented, fit
from kqo.demo.train import score

Stages = Sequence[tuple[int, int]]

STAGES = {
    "surface": ((64, 30), (128, 6), (SIZE, 4)),
    "photographs": ((96, 16), (160, 5), (SIZE, 4)),
}
"""Side of the crops, in pixels, and epochs of the parts of the training, by task.

An object that is small in the image is found sooner in small crops, which also cost less.
"""

DROPOUT = 0.2
"""Share of hidden units dropped; the zoo's 0.5 is meant for 32 times as many."""


def _sample(name: str, held_out: bool, seed: int) -> Sample:
    return task_named(name).generate(seed, held_out=held_out)


def make_samples(task: Task, count: int, *, held_out: bool, processes: int = 1) -> list[Sample]:
    """The first images of a set, made by several processes."""
    make = partial(_sample, task.name, held_out)
    if processes == 1:
        return [make(seed) for seed in range(count)]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(make, range(count), chunksize=64))


def augmented(task: Task, samples: Sequence[Sample]) -> Augmented:
    """The samples as the training sees them."""
    return Augmented(samples, len(task.classes), task.preprocess, hidden=0.6)


def prepared(network: str, classes: int) -> nn.Module:
    """A fresh network for training: with batch norms where it has none, and little dropout."""
    model = build(network, classes)
    if network == "vgg16":
        layers: list[nn.Module] = []
        for layer in model.features:  # type: ignore[union-attr]
            layers.append(layer)
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                layers.append(nn.BatchNorm2d(layer.out_channels))
        model.features = nn.Sequential(*layers)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    return model


def finished(network: str, trained: nn.Module, classes: int) -> nn.Module:
    """A trained network in eval mode with the zoo's layers: batch norms of VGG16 are folded."""
    trained.eval()
    if network != "vgg16":
        return trained
    layers = list(trained.features)  # type: ignore[arg-type]
    kept = [
        fuse_conv_bn_eval(layer, layers[number + 1]) if isinstance(layer, nn.Conv2d) else layer
        for number, layer in enumerate(layers)
        if not isinstance(layer, nn.BatchNorm2d)
    ]
    model = build(network, classes).eval()
    model.features = nn.Sequential(*kept)
    model.classifier = trained.classifier
    return model


def train(
    task: Task,
    network: str,
    samples: Sequence[Sample],
    *,
    stages: Stages,
    seed: int = 0,
    batch: int = 32,
    rate: float = 2e-3,
    bfloat16: bool = True,
) -> nn.Module:
    """A network trained by AdamW with a one-cycle schedule; returned in eval mode.

    Args:
        task: what to learn.
        network: a name from :data:`~kqo.bench.tasks.networks.NETWORKS`.
        samples: training images.
        stages: side of the crops and number of epochs, one after the other.
        seed: of weights and augmentation.
        batch: images per step.
        rate: peak learning rate.
        bfloat16: compute in bfloat16 where that is safe.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = prepared(network, len(task.classes))
    crops = [crop for crop, epochs in stages for _ in range(epochs)]
    fit(
        model,
        augmented(task, samples),
        crops,
        rng,
        batch=batch,
        rate=rate,
        bfloat16=bfloat16,
        most_gradient=1.0,
    )
    return finished(network, model, len(task.classes))


def accuracy(model: nn.Module, task: Task, samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Fraction of the samples that the model classifies correctly, per class and, last, of all."""
    labels = np.array([sample.label for sample in samples])
    found = score(model, task.preprocess(np.stack([sample.image for sample in samples]))).argmax(1)
    shares = [np.mean(found[labels == c] == c) for c in range(len(task.classes))]
    return np.array([*shares, np.mean(found == labels)])


def _stages(texts: Sequence[str]) -> Stages:
    pairs = [text.split(":") for text in texts]
    return [(int(crop), int(epochs)) for crop, epochs in pairs]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a network for a task, write its weights, and print its held-out accuracy."""
    parser = argparse.ArgumentParser(
        prog="python -m kqo.bench.tasks.train", description=main.__doc__
    )
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument("--images", type=int, default=6000, help="number of training images")
    parser.add_argument("--held-out", type=int, default=800, help="number of held-out images")
    parser.add_argument(
        "--stages", nargs="+", metavar="CROP:EPOCHS", help="such as 64:30 128:6 224:4"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--float32", action="store_true", help="train in float32, not bfloat16")
    given = parser.parse_args(arguments)

    torch.set_num_threads(given.threads)
    began = time.perf_counter()
    task = task_named(given.task)
    samples = make_samples(task, given.images, held_out=False, processes=given.threads)
    print(f"{len(samples)} training images in {time.perf_counter() - began:.0f} s", flush=True)
    model = train(
        task,
        given.network,
        samples,
        stages=STAGES[task.name] if given.stages is None else _stages(given.stages),
        seed=given.seed,
        batch=given.batch,
        rate=given.rate,
        bfloat16=not given.float32,
    )
    path = save_network(model, task, given.network, given.output)
    loaded = load_network(task, given.network, given.output)
    held_out = make_samples(task, given.held_out, held_out=True, processes=given.threads)
    shares = accuracy(loaded, task, held_out)
    print(f"held-out accuracy {shares[-1]:.4f} on {len(held_out)} images")
    for name, share in zip(task.classes, shares[:-1], strict=True):
        print(f"  {name:8} {share:.4f}")
    print(f"{time.perf_counter() - began:.0f} s in all; weights in {path}")


if __name__ == "__main__":
    main()

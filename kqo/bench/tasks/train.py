"""Train the evaluation's networks: ``python -m kqo.bench.tasks.train TASK NETWORK``.

Images are mirrored and turned, and partly hidden behind flat patches; the target is the share of
the object in sight, as in the demonstration's training (:mod:`kqo.demo.train`), so that the score
of the class falls where the object is hidden. The first part of the training sees crops. VGG16 is
trained with a batch norm after each convolution, which is folded into it at the end: the network
has the zoo's layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
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
from kqo.demo.train import occlude, score

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]
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


def crop_start(rng: np.random.Generator, mask: NDArray[np.bool_], crop: int) -> tuple[int, int]:
    """Top and left of a random crop that holds the whole object, if there is one."""
    rows, columns = np.nonzero(mask)
    start = []
    for at in (rows, columns):
        last = SIZE - crop
        low, high = (max(0, at.max() + 1 - crop), min(at.min(), last)) if at.size else (0, last)
        start.append(int(rng.integers(min(low, high), max(low, high) + 1)))
    return start[0], start[1]


def batches(
    rng: np.random.Generator, task: Task, samples: Sequence[Sample], size: int, crop: int
) -> Iterator[Batch]:
    """One epoch of augmented batches: inputs (size, 3, crop, crop), targets (size, classes).

    A target is a distribution over the classes.
    """
    order = rng.permutation(len(samples))
    for first in range(0, len(order) - size + 1, size):
        inputs = np.empty((size, 3, crop, crop), dtype=np.float32)
        targets = np.zeros((size, len(task.classes)), dtype=np.float32)
        for row, index in enumerate(order[first : first + size]):
            sample = samples[index]
            top, left = crop_start(rng, sample.mask, crop)
            cut = np.s_[top : top + crop, left : left + crop]
            image = task.preprocess(sample.image[cut])[0]
            seen = occlude(rng, image, sample.mask[cut]) if rng.random() < 0.6 else 1.0
            targets[row, sample.label] += seen
            targets[row, 0] += 1 - seen
            turned = np.rot90(image, int(rng.integers(4)), axes=(1, 2))
            inputs[row] = turned[:, :, ::-1] if rng.random() < 0.5 else turned
        yield inputs, targets


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
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    crops = [crop for crop, epochs in stages for _ in range(epochs)]
    steps = len(crops) * (len(samples) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for epoch, crop in enumerate(crops):
        began, total, right, count = time.perf_counter(), 0.0, 0, 0
        model.train()
        for inputs, targets in batches(rng, task, samples, batch, crop):
            x = torch.from_numpy(inputs).to(memory_format=torch.channels_last)
            y = torch.from_numpy(targets)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(x)
            loss = loss_of(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(y)
            right += int((logits.argmax(1) == y.argmax(1)).sum())
            count += len(y)
        seconds = time.perf_counter() - began
        print(
            f"epoch {epoch + 1}/{len(crops)}  {crop}x{crop}  loss {total / count:.4f}"
            f"  accuracy {right / count:.3f}  {count / seconds:.0f} images/s",
            flush=True,
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

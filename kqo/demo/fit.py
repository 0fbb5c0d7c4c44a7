"""What training the demonstration's model and the evaluation's networks have in common.

Images are mirrored and turned at random, cropped, and partly hidden behind flat patches; the target
is the share of the object in sight: hiding a third of it moves a third of the probability to the
class ``none``, which is the first, and hiding anything else moves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


class Labelled(Protocol):
    """What a sample of either task has."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """RGB, (H, W, 3)."""

    @property
    def label(self) -> int:
        """Number of its class."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels of what the label names, (H, W)."""


def occlude(rng: np.random.Generator, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Hide a random square of a preprocessed image (3, H, W) in place.

    Three in five of the squares are placed on the defect, where there is one. Most squares have the
    mean colour, the others any flat colour.

    Returns:
        The fraction of the defect that is still in sight; 1 where there is none.
    """
    rows, columns = np.nonzero(mask)
    if rows.size and rng.random() < 0.6:
        if rng.random() < 0.5:
            cy, cx = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
        else:
            pick = rng.integers(rows.size)
            cy, cx = rows[pick], columns[pick]
        extent = int(max(np.ptp(rows), np.ptp(columns)))
        side = int(rng.integers(8, extent + 14))
    else:
        cy, cx = rng.integers(0, mask.shape[0], 2)
        side = int(rng.integers(8, 56))
    top, left = max(0, int(cy) - side // 2), max(0, int(cx) - side // 2)
    rectangle = np.s_[top : top + side, left : left + side]
    fill = np.zeros(3) if rng.random() < 0.7 else rng.uniform(-1.5, 1.5) + rng.normal(0, 0.2, 3)
    image[:, rectangle[0], rectangle[1]] = fill.astype(np.float32)[:, None, None]
    return 1 - np.count_nonzero(mask[rectangle]) / rows.size if rows.size else 1.0


def crop_start(rng: np.random.Generator, mask: NDArray[np.bool_], crop: int) -> tuple[int, int]:
    """Top and left of a random crop of a square that holds the whole object, if there is one."""
    rows, columns = np.nonzero(mask)
    start = []
    for at in (rows, columns):
        last = len(mask) - crop
        low, high = (max(0, at.max() + 1 - crop), min(at.min(), last)) if at.size else (0, last)
        start.append(int(rng.integers(min(low, high), max(low, high) + 1)))
    return start[0], start[1]


@dataclass(frozen=True)
class Augmented:
    """Batches of training images, each epoch others.

    Attributes:
        samples: the images.
        classes: number of classes.
        preprocess: images (H, W, 3) to inputs (1, 3, H, W).
        hidden: share of the images that a patch is laid on.
    """

    samples: Sequence[Labelled]
    classes: int
    preprocess: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    hidden: float

    def batches(self, rng: np.random.Generator, size: int, crop: int) -> Iterator[Batch]:
        """One epoch: inputs (size, 3, crop, crop), targets (size, classes).

        A target is a distribution over the classes.
        """
        order = rng.permutation(len(self.samples))
        for first in range(0, len(order) - size + 1, size):
            inputs = np.empty((size, 3, crop, crop), dtype=np.float32)
            targets = np.zeros((size, self.classes), dtype=np.float32)
            for row, index in enumerate(order[first : first + size]):
                sample = self.samples[index]
                top, left = crop_start(rng, sample.mask, crop)
                cut = np.s_[top : top + crop, left : left + crop]
                image = self.preprocess(sample.image[cut])[0]
                seen = occlude(rng, image, sample.mask[cut]) if rng.random() < self.hidden else 1.0
                targets[row, sample.label] += seen
                targets[row, 0] += 1 - seen
                turned = np.rot90(image, int(rng.integers(4)), axes=(1, 2))
                inputs[row] = turned[:, :, ::-1] if rng.random() < 0.5 else turned
            yield inputs, targets


def fit(
    model: nn.Module,
    data: Augmented,
    crops: Sequence[int],
    rng: np.random.Generator,
    *,
    batch: int,
    rate: float,
    bfloat16: bool,
    most_gradient: float | None = None,
) -> None:
    """Train a network in place by AdamW with a one-cycle schedule, and print each epoch's loss.

    Args:
        model: the network.
        data: what it learns.
        crops: side of the crops, for each epoch.
        rng: of the augmentation.
        batch: images per step.
        rate: peak learning rate.
        bfloat16: compute in bfloat16 where that is safe.
        most_gradient: norm that gradients are cut to; None for any.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    steps = len(crops) * (len(data.samples) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for epoch, crop in enumerate(crops):
        began, total, right, count = time.perf_counter(), 0.0, 0, 0
        model.train()
        for inputs, targets in data.batches(rng, batch, crop):
            x = torch.from_numpy(inputs).to(memory_format=torch.channels_last)
            y = torch.from_numpy(targets)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(x)
            loss = loss_of(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            if most_gradient is not None:
                nn.utils.clip_grad_norm_(model.parameters(), most_gradient)
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

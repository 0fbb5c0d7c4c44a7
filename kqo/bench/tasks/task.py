"""The tasks of the evaluation, by name: images, labels, masks and preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kqo.bench.tasks import photographs
from kqo.bench.tasks.sample import Sample
from kqo.demo import preprocessing, surface
from kqo.errors import ArgumentError

SIZE = 224
"""Height and width of every image, in pixels."""

Moments = tuple[float, float, float]


@dataclass(frozen=True)
class Task:
    """A classification task whose true masks are known.

    Attributes:
        name: of the task.
        classes: names of the labels, by number; the first one is ``none``, which has no mask.
        mean: per channel, of values in [0, 1].
        std: the same.
        make: from a seed and whether it is held out to an image.
    """

    name: str
    classes: tuple[str, ...]
    mean: Moments
    std: Moments
    make: Callable[[int, bool], Sample]

    def generate(self, seed: int, *, held_out: bool) -> Sample:
        """The image of a seed, from the training set or from the held-out one."""
        return self.make(seed, held_out)

    def preprocess(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """From uint8 (H, W, 3) or (N, H, W, 3) to what models see: float32 (N, 3, H, W)."""
        return preprocessing.preprocess(images, self.mean, self.std)


def _surface(seed: int, held_out: bool) -> Sample:
    first = surface.HELD_OUT_SEED if held_out else surface.TRAINING_SEED
    found = surface.generate(first + seed, size=SIZE)
    return Sample(found.image, found.label, found.mask)


def _photographs(seed: int, held_out: bool) -> Sample:
    return photographs.generate(seed, held_out=held_out)


TASKS = {
    "surface": Task("surface", surface.CLASSES, preprocessing.MEAN, preprocessing.STD, _surface),
    "photographs": Task(
        "photographs", photographs.CLASSES, (0.43, 0.37, 0.34), (0.27, 0.25, 0.25), _photographs
    ),
}
"""Every task, by name."""


def task_named(name: str) -> Task:
    """A task; ArgumentError for a name that there is not."""
    if name not in TASKS:
        raise ArgumentError("task", repr(name), ", ".join(TASKS))
    return TASKS[name]

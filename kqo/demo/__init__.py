"""The embedded demonstration: a surface-inspection task, a trained network, a few images.

Importing this package does not import torch; :func:`load_model` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kqo.demo.images import DemoImage, load_images
from kqo.demo.preprocessing import MEAN, STD, preprocess
from kqo.demo.surface import CLASSES, SIZE, Sample, generate

if TYPE_CHECKING:
    from kqo.demo.model import SurfaceNet

__all__ = [
    "CLASSES",
    "MEAN",
    "SIZE",
    "STD",
    "DemoImage",
    "Sample",
    "generate",
    "load_images",
    "load_model",
    "preprocess",
]


def load_model() -> SurfaceNet:
    """The trained network in eval mode: float32 (N, 3, 160, 160) to logits (N, 4).

    The outputs are in the order of :data:`CLASSES`; :func:`preprocess` makes the input.
    """
    from kqo.demo.model import load_model as load

    return load()

"""The surface-inspection task: photographs of surfaces with at most one defect, made from a seed.

The task exists for the demonstration: it is small, it needs no download, and the true place of each
defect is known, so that a heatmap can be held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kqo.demo.defects import DEFECTS, Mask
from kqo.demo.textures import TEXTURES, Array, smooth_noise
from kqo.errors import ArgumentError

SIZE = 160
"""Height and width of every image, in pixels."""

CLASSES = ("none", "scratch", "dent", "stain")
"""Names of the labels, by number."""

TRAINING_SEED = 0
HELD_OUT_SEED = 1_000_000
SHIPPED_SEED = 2_000_200
FRESH_SEED = 3_000_000
"""First seeds of the ranges from which training, held-out, shipped and test images are drawn."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of the task.

    Attributes:
        image: uint8 (size, size, 3), RGB.
        label: number of the class in :data:`CLASSES`.
        mask: bool (size, size), the pixels of the defect; empty for the class ``none``.
        texture: name of the surface.
    """

    image: NDArray[np.uint8]
    label: int
    mask: Mask
    texture: str


def _illuminate(rng: np.random.Generator, albedo: Array, light: float) -> Array:
    """Uneven light, exposure and the camera's noise: (H, W, 3), not clipped."""
    steps = np.linspace(-1, 1, albedo.shape[0])
    y, x = steps[:, None], steps[None, :]
    gain = 1 + rng.uniform(0.0, 0.25) * (np.cos(light) * x + np.sin(light) * y)
    gain = gain * (1 - rng.uniform(0.0, 0.15) * (x**2 + y**2))
    gain = gain + 0.03 * smooth_noise(rng, albedo.shape[0], 40.0, 40.0)
    lit = albedo * (gain * rng.uniform(0.8, 1.2))[:, :, None] * rng.uniform(0.96, 1.04, 3)
    return np.asarray(lit + rng.uniform(0.004, 0.018) * rng.standard_normal(lit.shape))


def generate(
    seed: int, label: str | None = None, texture: str | None = None, size: int = SIZE
) -> Sample:
    """The image of a seed.

    Args:
        seed: a number >= 0; equal seeds give equal images.
        label: a name from :data:`CLASSES`; by default the seed modulo 4 tells it, so that any run
            of consecutive seeds is balanced.
        texture: a name from :data:`~kqo.demo.textures.TEXTURES`; by default at random.
        size: height and width of the image in pixels; defects keep their sizes in pixels.

    Raises:
        ArgumentError: for a name that does not exist, a negative seed, or a size below 96.
    """
    if seed < 0:
        raise ArgumentError("seed", seed, "a number >= 0")
    if size < 96:
        raise ArgumentError("size", size, "at least 96 pixels")
    name = CLASSES[seed % len(CLASSES)] if label is None else label
    if name not in CLASSES:
        raise ArgumentError("label", repr(label), ", ".join(CLASSES))
    if texture is not None and texture not in TEXTURES:
        raise ArgumentError("texture", repr(texture), ", ".join(TEXTURES))
    rng = np.random.default_rng(seed)
    drawn = tuple(TEXTURES)[rng.integers(len(TEXTURES))]
    kind = drawn if texture is None else texture
    surface = TEXTURES[kind](rng, size)
    light = rng.uniform(0, 2 * np.pi)
    albedo, mask = surface.albedo, np.zeros((size, size), dtype=np.bool_)
    if name in DEFECTS:
        albedo, mask = DEFECTS[name](rng, surface, light)
    pixels = np.clip(np.rint(255 * _illuminate(rng, albedo, light)), 0, 255)
    return Sample(pixels.astype(np.uint8), CLASSES.index(name), mask, kind)

"""From the task's images to the tensor that the demonstration's model sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError

MEAN = (0.56, 0.49, 0.42)
STD = (0.16, 0.14, 0.15)
"""Per-channel mean and deviation of the task's images, red, green and blue, in units of 1/255."""


def preprocess(
    image: NDArray[np.uint8],
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> NDArray[np.float32]:
    """Scale to [0, 1], subtract the mean, divide by the deviation.

    Args:
        image: uint8 (H, W, 3), or (N, H, W, 3) for several.
        mean: per channel, of the scaled values.
        std: the same.

    Returns:
        float32 (1, 3, H, W), or (N, 3, H, W).

    Raises:
        ArgumentError: for another shape or dtype.
    """
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
        given = f"{image.dtype} of shape {image.shape}"
        raise ArgumentError("image", given, "uint8 of shape (H, W, 3) or (N, H, W, 3)")
    pixels = image[None] if image.ndim == 3 else image
    centre, spread = np.array(mean, np.float32), np.array(std, np.float32)
    scaled = (pixels.astype(np.float32) / np.float32(255) - centre) / spread
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

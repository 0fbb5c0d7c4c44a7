"""Preprocessing: from pixels to the tensor that a model sees, a value stored with a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = ("rgb", "bgr", "gray")
OUTPUTS = ("logits", "probabilities")
LARGEST = 1 << 16
"""Pixels: a size from a file must not fill the memory."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input, and how the model's output is to be read.

    The image is scaled so that its shorter side is ``resize``, its centre is cut out at ``size``,
    and each channel becomes ``(pixel * scale - mean) / std``.

    Attributes:
        size: (height, width) of the model's input, in pixels.
        resize: shorter side before cutting, in pixels. None: the smallest at which ``size`` fits
            in.
        mean: of each channel, in the order of ``channels``, after scaling; one number for all.
        std: deviation of each channel, above 0; one number for all.
        channels: ``"rgb"``, ``"bgr"`` or ``"gray"``.
        scale: factor on pixels of 0 to 255.
        classes: names of the classes, in the order of the outputs; may be empty.
        outputs: whether the model gives ``"logits"`` or ``"probabilities"``.

    Raises:
        ArgumentError: for a value that is not accepted.
    """

    size: tuple[int, int]
    resize: int | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: str = "rgb"
    scale: float = 1 / 255
    classes: tuple[str, ...] = ()
    outputs: str = "logits"

    def __post_init__(self) -> None:
        accepted = f"(height, width), whole numbers from 1 to {LARGEST}"
        size = _numbers("size", self.size, (2,), accepted)
        if not all(1 <= n <= LARGEST and n == int(n) for n in size):
            raise ArgumentError("size", self.size, accepted)
        object.__setattr__(self, "size", tuple(map(int, size)))
        resize = self.resize
        if resize is not None and not (isinstance(resize, int) and 1 <= resize <= LARGEST):
            accepted = f"a whole number from 1 to {LARGEST}, or None"
            raise ArgumentError("resize", repr(resize), accepted)
        if self.channels not in CHANNELS:
            raise ArgumentError("channels", repr(self.channels), ", ".join(CHANNELS))
        count = 1 if self.channels == "gray" else 3
        accepted = f"1 or {count} numbers"
        object.__setattr__(self, "mean", _numbers("mean", self.mean, (1, count), accepted))
        std = _numbers("std", self.std, (1, count), accepted)
        if min(std) <= 0:
            raise ArgumentError("std", self.std, "numbers above 0")
        object.__setattr__(self, "std", std)
        (scale,) = _numbers("scale", (self.scale,), (1,), "a finite number other than 0")
        if scale == 0:
            raise ArgumentError("scale", self.scale, "a finite number other than 0")
        names = self.classes
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ArgumentError("classes", repr(names), "a tuple of names")
        object.__setattr__(self, "classes", tuple(names))
        if self.outputs not in OUTPUTS:
            raise ArgumentError("outputs", repr(self.outputs), ", ".join(OUTPUTS))

    @classmethod
    def imagenet(cls, size: tuple[int, int] = (224, 224)) -> Preprocess:
        """The usual preprocessing of ImageNet models: shorter side 8/7 of the crop, normalized."""
        return cls(size, resize=round(min(size) * 8 / 7), mean=IMAGENET_MEAN, std=IMAGENET_STD)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of what it gives."""
        return (1 if self.channels == "gray" else 3, *self.size)

    def apply(self, image: Image) -> NDArray[np.float32]:
        """The model's input for an image, float32 (C, H, W)."""
        from PIL.Image import Resampling

        height, width = self.size
        # A crop that reaches beyond the resized image would have to invent pixels.
        fit = max(height / image.height, width / image.width)
        factor = max(fit, (self.resize or 0) / min(image.height, image.width))
        scaled = (
            max(width, round(image.width * factor)),
            max(height, round(image.height * factor)),
        )
        if scaled != image.size:
            image = image.resize(scaled, Resampling.BILINEAR)
        top, left = (scaled[1] - height) // 2, (scaled[0] - width) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32)
        if self.channels == "gray":
            pixels = pixels[:, :, None]
        elif self.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        mean, std = self._moments()
        values = (pixels * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)

    def picture(self, tensor: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The picture (H, W, 3), RGB, that an input (C, H, W) shows: the inverse of apply;
        black where the input is NaN."""
        mean, std = self._moments()
        pixels = tensor.transpose(1, 2, 0) * std + mean
        pixels = np.clip(np.rint(pixels / np.float32(self.scale)), 0, 255)
        pixels = np.nan_to_num(pixels).astype(np.uint8)
        if self.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def _moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Preprocessing from plain values; ArgumentError for what is not accepted."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ArgumentError("preprocess", repr(name), ", ".join(known))
        if "size" not in values:
            raise ArgumentError("preprocess", "no size", "at least a size, (height, width)")
        return cls(**values)


def _numbers(
    name: str, given: Sequence[float], counts: tuple[int, ...], accepted: str
) -> tuple[float, ...]:
    right = isinstance(given, (tuple, list)) and len(given) in counts
    if not right or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in given
    ):
        raise ArgumentError(name, repr(given), accepted)
    return tuple(map(float, given))

"""The demonstration's model: a small VGG-style network, and its trained weights.

Nine 3x3 convolutions, each with batch norm and ReLU, in five blocks that end in a 2x2 max pool;
then a global average and a linear layer. The design follows Simonyan and Zisserman, *Very Deep
Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015, with fewer channels and the
global average in place of the large linear layers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kqo.demo.preprocessing import MEAN, STD
from kqo.demo.surface import CLASSES, SIZE
from kqo.errors import ArgumentError

BLOCKS = ((16, 16), (32, 32), (64, 64), (96, 96), (128,))
"""Output channels of the convolutions, block by block."""

WEIGHTS = Path(str(files("kqo.demo"))) / "assets" / "surface.safetensors"
"""The trained weights that ship with kqo."""


class SurfaceNet(nn.Module):
    """Classifier of surface images: float32 (N, 3, H, W) to logits (N, 4)."""

    def __init__(self, blocks: Sequence[Sequence[int]] = BLOCKS, classes: int = len(CLASSES)):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in blocks:
            for width in block:
                layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
                layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 4) of images (N, 3, H, W)."""
        pooled: Tensor = self.pool(self.features(image))
        logits: Tensor = self.classifier(torch.flatten(pooled, 1))
        return logits


def build() -> SurfaceNet:
    """The architecture with fresh weights, in eval mode (a factory for the command line)."""
    return SurfaceNet().eval()


def load_model(path: Path = WEIGHTS) -> SurfaceNet:
    """The trained model, in eval mode.

    Args:
        path: a safetensors file that :func:`save_model` wrote; by default the shipped weights.

    Raises:
        ArgumentError: if the weights are of another task or preprocessing than this code's.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = _metadata()
    if metadata != expected:
        raise ArgumentError("path", f"{path} with metadata {metadata}", f"metadata {expected}")
    model = build()
    model.load_state_dict(state)
    return model


def save_model(model: SurfaceNet, path: Path) -> None:
    """Write the weights, with the class names and the preprocessing as metadata."""
    state = {
        name: value.detach().to(torch.float32).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(state, path, metadata=_metadata())


def _metadata() -> dict[str, str]:
    return {
        "classes": json.dumps(CLASSES),
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "size": json.dumps(SIZE),
    }

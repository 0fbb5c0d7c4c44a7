"""Built-in models whose parameter names match torchvision's, so that its state dicts load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from kqo.errors import ArgumentError
from kqo.zoo.densenet import DenseNet121
from kqo.zoo.inception import InceptionV3
from kqo.zoo.mobilenet import MobileNetV2
from kqo.zoo.resnet import resnet18, resnet50
from kqo.zoo.vgg import VGG16
from kqo.zoo.weights import load_weights, randomize

__all__ = ["NAMES", "build", "input_shape", "load_weights"]

_MODELS: dict[str, Callable[[int, float], nn.Module]] = {
    "vgg16": VGG16,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "inception_v3": InceptionV3,
    "densenet121": DenseNet121,
    "mobilenet_v2": MobileNetV2,
}
NAMES: tuple[str, ...] = tuple(_MODELS)


def build(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int = 1000,
    seed: int = 0,
    width: float = 1.0,
) -> nn.Module:
    """A model of the zoo, in eval mode, float32, on the CPU.

    Args:
        name: one of :data:`NAMES`.
        weights: a file for :func:`load_weights`; without it weights are random (He et al., 2015)
            with batch norms calibrated on noise, so that scores depend on the image.
        num_classes: number of outputs.
        seed: of the random weights.
        width: factor on all numbers of channels, for small variants in tests.

    Raises:
        ArgumentError: unknown name, a value out of range, or weights that do not fit.
    """
    make = _MODELS[_known(name)]
    if num_classes < 1:
        raise ArgumentError("num_classes", num_classes, "at least 1")
    if not width > 0:
        raise ArgumentError("width", width, "above 0")
    with torch.device("meta"):
        model = make(num_classes, width)
    model = _allocated(model).eval()
    if weights is None:
        randomize(model, input_shape(name), seed)
    else:
        for value in model.state_dict().values():
            value.zero_()  # what the file may leave out must not stay uninitialized
        load_weights(model, weights)
    return model


def _allocated(model: nn.Module) -> nn.Module:
    """A model of the device "meta" with memory, not initialized. ``to_empty`` does the same, but
    loads the 500 modules of torch's tracing to ask for the shapes."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            memory = torch.empty(weight.shape, dtype=weight.dtype)
            module.register_parameter(name, nn.Parameter(memory))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model


def input_shape(name: str) -> tuple[int, int, int]:
    """Shape (C, H, W) of the images that a model of the zoo was designed for."""
    return (3, 299, 299) if _known(name) == "inception_v3" else (3, 224, 224)


def _known(name: str) -> str:
    if name not in _MODELS:
        raise ArgumentError("name", repr(name), ", ".join(NAMES))
    return name

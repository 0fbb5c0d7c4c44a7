"""The evaluation's networks: narrow VGG16 and ResNet18, trained, and the same at full width.

A narrow network has the depth and the layer shapes of the zoo's, with fewer channels, so that its
weights stay small. :func:`widened` gives a network of full width that computes the same function:
each channel is repeated and the weights that read it are divided by the number of repetitions
(Chen, Goodfellow and Shlens, *Net2Net: Accelerating Learning via Knowledge Transfer*, ICLR 2016,
section 2.3). So quality and speed at full width are read off one function.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kqo.bench.tasks.task import SIZE, Task
from kqo.errors import ArgumentError
from kqo.zoo.resnet import resnet18
from kqo.zoo.vgg import VGG16

WEIGHTS = Path(str(files("kqo.bench.tasks"))) / "assets"
"""Folder of the trained weights that ship with kqo: ``<task>_<network>.safetensors``."""

NETWORKS = ("vgg16", "resnet18")
"""Names of the networks."""

REPEATS = {"vgg16": 8, "resnet18": 4}
"""How many times narrower than the zoo's each trained network is."""

HIDDEN = 128
"""Width of the narrow VGG16's linear layers, 32 times narrower than the zoo's."""


def build(network: str, classes: int) -> nn.Module:
    """A narrow network with fresh weights: float32 (N, 3, 224, 224) to logits (N, classes).

    Raises:
        ArgumentError: a name that there is not.
    """
    if network == "vgg16":
        return VGG16(classes, 1 / REPEATS[network], HIDDEN)
    if network == "resnet18":
        return resnet18(classes, 1 / REPEATS[network])
    raise ArgumentError("network", repr(network), ", ".join(NETWORKS))


def weights_path(task: Task, network: str, folder: Path = WEIGHTS) -> Path:
    """Where the trained weights of a network for a task lie."""
    return folder / f"{task.name}_{network}.safetensors"


def load_network(task: Task, network: str, folder: Path = WEIGHTS) -> nn.Module:
    """The narrow network trained for a task, in eval mode, float32.

    Raises:
        ArgumentError: there are no such weights, or they are of another task than this code's.
    """
    path = weights_path(task, network, folder)
    model = build(network, len(task.classes)).eval()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError) as error:
        hint = f"python -m kqo.bench.tasks.train {task.name} {network}"
        raise ArgumentError("weights", f"{path} ({error})", "trained weights", hint=hint) from None
    expected = _metadata(task, network)
    if metadata != expected:
        raise ArgumentError("weights", f"{path} with metadata {metadata}", f"metadata {expected}")
    model.load_state_dict(state, strict=False)
    return model


def save_network(model: nn.Module, task: Task, network: str, folder: Path) -> Path:
    """Write the weights in float16, with what they belong to as metadata."""
    state = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = weights_path(task, network, folder)
    save_file(state, path, metadata=_metadata(task, network))
    return path


def _metadata(task: Task, network: str) -> dict[str, str]:
    return {
        "task": task.name,
        "network": network,
        "classes": json.dumps(task.classes),
        "mean": json.dumps(task.mean),
        "std": json.dumps(task.std),
        "size": json.dumps(SIZE),
    }


def widened(narrow: nn.Module, network: str) -> nn.Module:
    """The zoo's network at full width that computes what a narrow one does, in eval mode.

    Raises:
        ArgumentError: a name that there is not.
    """
    classes = next(reversed(narrow.state_dict().values())).shape[0]
    if network == "vgg16":
        wide: nn.Module = VGG16(classes, 1.0)
    elif network == "resnet18":
        wide = resnet18(classes, 1.0)
    else:
        raise ArgumentError("network", repr(network), ", ".join(NETWORKS))
    given = narrow.state_dict()
    state = {
        name: _repeated(given[name], value.shape, 49 if name == "classifier.0.weight" else 1)
        for name, value in wide.state_dict().items()
    }
    wide.load_state_dict(state)
    return wide.eval()


def _repeated(value: Tensor, shape: torch.Size, positions: int) -> Tensor:
    """A parameter whose outputs are repeated, and whose inputs are repeated and shared out.

    Args:
        value: outputs first, then inputs, then taps; or one number per channel, or a counter.
        shape: what it becomes.
        positions: how many inputs in a row belong to one channel.
    """
    if value.dim() == 0:
        return value
    repeated = value.repeat_interleave(shape[0] // value.shape[0], 0)
    if value.dim() == 1:
        return repeated
    times = shape[1] // value.shape[1]
    channels = repeated.reshape(shape[0], -1, positions, *value.shape[2:])
    return channels.repeat_interleave(times, 1).reshape(shape) / times

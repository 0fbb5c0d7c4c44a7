"""Weights of the zoo: seeded random ones that keep signals alive, or a state dict from a file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kqo.errors import ArgumentError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# The first DenseNet checkpoints of torchvision wrote "norm.1" for what is now "norm1".
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


class BranchNorm(nn.BatchNorm2d):
    """The last norm of a residual branch.

    Its random weights are small, as in trained networks, which start from 0 there (Goyal et al.
    2017): with large ones a deep random network amplifies rounding errors from block to block.
    """


def randomize(model: nn.Module, size: tuple[int, ...], seed: int) -> None:
    """Fill a model with seeded random weights under which activations keep a scale of about 1.

    Convolutions and linear layers get He et al.'s uniform initialization (2015, equation 10), batch
    norms the statistics of their own inputs in one forward pass over smooth noise.

    Args:
        model: a model in eval mode whose parameters are allocated, with any content.
        size: shape (C, H, W) of the noise.
        seed: of the generator; equal seeds give equal weights.
    """
    generator = torch.Generator().manual_seed(seed)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            gain = 1.0 if module in last else 2.0
            bound = math.sqrt(3 * gain / module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1, generator=generator)
        elif isinstance(module, _NORMS):
            module.reset_running_stats()
            low, high = (0.2, 0.4) if isinstance(module, BranchNorm) else (0.8, 1.2)
            nn.init.uniform_(module.weight, low, high, generator=generator)
            nn.init.uniform_(module.bias, -0.1, 0.1, generator=generator)
    norms = [m for m in model.modules() if isinstance(m, _NORMS)]
    if norms:
        hooks = [m.register_forward_pre_hook(_measure) for m in norms]
        with torch.no_grad():
            model(smooth_noise((4, *size), generator))
        for hook in hooks:
            hook.remove()


def _measure(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Set a batch norm's running statistics to those of the input it is about to see.

    A channel that hardly varies on the noise is not blown up: another image may well move it.
    """
    (x,) = args
    axes = [0, *range(2, x.dim())]
    variance = x.var(axes, unbiased=False)
    module.running_mean.copy_(x.mean(axes))  # type: ignore[operator]
    module.running_var.copy_(variance.clamp(min=0.1 * float(variance.mean())))  # type: ignore[operator]


def smooth_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise (N, C, H, W), mean 0, deviation 1, in patches of 16 of their own level and texture.

    Some patches are nearly flat: a network that was only calibrated on texture would blow up on a
    plain area, such as the one that occlusion puts into an image.
    """
    n, c, h, w = shape
    blocks = (-(-h // 16), -(-w // 16))
    level = torch.randn((n, c, *blocks), generator=generator)
    texture = torch.rand((n, 1, *blocks), generator=generator) * math.sqrt(3)
    coarse, strength = (
        patch.repeat_interleave(16, 2).repeat_interleave(16, 3)[:, :, :h, :w]
        for patch in (level, texture)
    )
    return (coarse + strength * torch.randn(shape, generator=generator)) / math.sqrt(2)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into a model.

    Args:
        model: the model; its parameter names must be those of the file. Counters of batch norms and
            auxiliary classifiers (``AuxLogits``) may be missing from the file.
        path: a safetensors file, or a file of torch.save, which is read with ``weights_only=True``.

    Raises:
        ArgumentError: the file cannot be read, or names or shapes differ.
    """
    given = {_OLD_DENSENET.sub(r"\1\2.", name): value for name, value in _read(Path(path)).items()}
    wanted = model.state_dict()
    missing = [n for n in wanted if n not in given and not _is_optional(n)]
    unexpected = [n for n in given if n not in wanted]
    wrong = [
        f"{n} {tuple(given[n].shape)} instead of {tuple(wanted[n].shape)}"
        for n in wanted
        if n in given and given[n].shape != wanted[n].shape
    ]
    problems = [
        f"{what} {_listed(found)}"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("shape", wrong))
        if found
    ]
    if problems:
        raise ArgumentError("weights", path, f"a state dict of this model; {'; '.join(problems)}")
    model.load_state_dict(given, strict=False)


def _is_optional(name: str) -> bool:
    return name.endswith("num_batches_tracked") or name.startswith("AuxLogits.")


def _listed(found: list[str], most: int = 3) -> str:
    rest = len(found) - most
    return ", ".join(found[:most]) + (f" and {rest} more" if rest > 0 else "")


def _read(path: Path) -> dict[str, Tensor]:
    reader: Callable[[Path], Any]
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file as reader
    else:
        reader = _read_torch
    try:
        state = reader(path)
    except FileNotFoundError:
        raise ArgumentError("weights", path, "a file that exists") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArgumentError(
            "weights", path, f"a safetensors file or a state dict saved by torch; {reason}"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ArgumentError("weights", path, "a state dict, from names to tensors")
    return state


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)

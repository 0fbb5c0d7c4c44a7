"""A copy of a torch model with its batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-4
"""Relative difference from which on two answers are held not to be of the same function."""


def folded(module: nn.Module, images: torch.Tensor) -> nn.Module | None:
    """A copy that computes the same with fewer operators; None where none can be made.

    What follows what is seen on the images, and the copy's answers are held against the module's,
    so that a use of a convolution's output that the module tree does not show cannot go unnoticed.

    Args:
        module: in eval mode, from one tensor to one tensor. The copy shares its parameters but
            those that folding changed.
        images: (N, ...) float32, finite.
    """
    if any(_hooked(each) for each in module.modules()):
        return None  # they may look at what folding changes
    with torch.inference_mode():
        wanted = module(images)
        try:
            found = copy.deepcopy(module, _shared(module))
        except Exception:  # a module may refuse to be copied in any way
            return None
        for convolution, norm in _pairs(found, images):
            fused = fuse_conv_bn_eval(
                found.get_submodule(convolution),  # type: ignore[type-var]
                found.get_submodule(norm),  # type: ignore[arg-type]
            )
            _put(found, convolution, fused)
            _put(found, norm, nn.Identity())
        given = found(images)
        scale = wanted.abs().max()
        same = given.shape == wanted.shape and (given - wanted).abs().max() <= TOLERANCE * scale
    return found if same else None


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _shared(module: nn.Module) -> dict[int, Any]:
    """Tensors for ``copy.deepcopy`` to take in place of copies of the module's."""
    memo: dict[int, Any] = {}
    for tensor in module.parameters():
        memo[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach()
    return memo


def _pairs(module: nn.Module, images: torch.Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that read them, where each ran once."""
    made: dict[int, tuple[str, torch.Tensor]] = {}
    calls: Counter[str] = Counter()
    pairs: list[tuple[str, str]] = []

    def after(name: str, _module: nn.Module, _given: Any, output: torch.Tensor) -> None:
        made[id(output)] = name, output  # held, so that no other tensor gets its id
        calls[name] += 1

    def before(name: str, _module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        calls[name] += 1
        if len(given) == 1 and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], name))

    handles = []
    for name, each in module.named_modules():
        if _computes_as(each, CONVOLUTIONS):
            handles.append(each.register_forward_hook(partial(after, name)))
        elif _computes_as(each, NORMS) and each.running_mean is not None:
            handles.append(each.register_forward_pre_hook(partial(before, name)))
    module(images)
    for handle in handles:
        handle.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _computes_as(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is of one of these kinds, or of a class that inherits what it computes."""
    return any(isinstance(module, k) and type(module).forward is k.forward for k in kinds)


def _put(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, new)

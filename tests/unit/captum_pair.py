"""kqo's Occlusion and Captum's, asked the same."""

from __future__ import annotations

import warnings
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

from kqo.captum import DenseFallbackWarning, Occlusion


def ask(forward: Any, inputs: Any, window: Any, **kwargs: Any) -> tuple[Any, Any, list[str]]:
    """What kqo gives, what Captum gives, and the reasons why kqo used no plan."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        own = Occlusion(forward).attribute(inputs, window, **kwargs)
    said = [str(w.message) for w in caught if issubclass(w.category, DenseFallbackWarning)]
    other = captum.attr.Occlusion(forward).attribute(inputs, window, **kwargs)
    return own, other, said


def agree(own: Any, other: Any, tolerance: float = 2e-5) -> None:
    """Same structure, shapes and types, and values within float32 tolerance."""
    assert isinstance(own, tuple) == isinstance(other, tuple)
    pairs = zip(own, other, strict=True) if isinstance(own, tuple) else [(own, other)]
    for found, wanted in pairs:
        assert isinstance(found, Tensor)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        assert found.requires_grad == wanted.requires_grad
        scale = float(wanted[wanted.isfinite()].abs().max()) if wanted.isfinite().any() else 1.0
        bound = tolerance * max(scale, 1.0)
        torch.testing.assert_close(found, wanted, rtol=0, atol=bound, equal_nan=True)


def incremental(forward: Any, inputs: Any, window: Any, **kwargs: Any) -> Any:
    """That both agree, and that kqo used a plan."""
    own, other, said = ask(forward, inputs, window, **kwargs)
    assert not said, said
    agree(own, other)
    return own


def dense(forward: Any, inputs: Any, window: Any, reason: str, **kwargs: Any) -> Any:
    """That both agree, and that kqo used no plan, for this reason."""
    own, other, said = ask(forward, inputs, window, **kwargs)
    assert len(said) == 1, said
    assert reason in said[0]
    agree(own, other, 0.0)
    return own


def classifier(channels: int = 3, size: int = 10, classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * (size // 2 - 2) ** 2, classes),
    ).eval()


def images(count: int = 2, *shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *(shape or (3, 10, 10)), generator=generator)

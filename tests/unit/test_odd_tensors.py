"""Weights and results that are views of complex numbers, and tensors that are not dense."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.errors import ArgumentError, UnsupportedOperator

IMAGE = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)


class Scaled(nn.Module):
    """Features that are scaled by a buffer."""

    def __init__(self, buffer: Tensor, use: Callable[[Tensor], Tensor] = lambda w: w) -> None:
        super().__init__()
        self.conv, self._use = nn.Conv2d(3, 4, 3), use
        self.register_buffer("scale", buffer)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) * self._use(self.scale)).mean((2, 3))


class Filtered(nn.Module):
    """Kernels that are the imaginary part of conjugated numbers."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.randn(4, 3, 3, 3, dtype=torch.complex64)
        self.register_buffer("kernel", numbers.conj().imag)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, self.kernel).mean((2, 3))


class Spectrum(nn.Module):
    """Imaginary parts of a conjugated spectrum, which torch computes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x).conj().imag.flatten(1)


def compiled(model: nn.Module, reinference: str = "never") -> kqo.CompiledPlan:
    options = kqo.Options(reinference=reinference)
    return kqo.compile(model.eval(), (torch.zeros(1, 3, 8, 8),), kqo.Occlusion(3, 2), options)


def complex_scale() -> Tensor:
    return torch.randn(4, 1, 1, dtype=torch.complex64, generator=torch.manual_seed(0))


@pytest.mark.parametrize(
    "model",
    [
        lambda: Scaled(complex_scale().conj().imag),
        lambda: Scaled(complex_scale().conj(), lambda w: w.imag),
        lambda: Scaled(complex_scale().conj(), lambda w: w.real),
        Filtered,
        Spectrum,
    ],
)
def test_views_of_conjugated_numbers_are_weights_and_results(
    model: Callable[[], nn.Module],
) -> None:
    made = model().eval()
    with torch.no_grad():
        expected = made(torch.from_numpy(IMAGE)[None]).resolve_neg().numpy()[0]
    for reinference in ("never", "auto"):
        result = compiled(made, reinference).run(IMAGE)
        np.testing.assert_allclose(result.original, expected, rtol=1e-4, atol=1e-4)


def test_complex_weights_are_no_real_ones() -> None:
    with pytest.raises(UnsupportedOperator, match="has no relational form"):
        _ = compiled(Scaled(complex_scale())).source


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    ("buffer", "shown"),
    [
        (lambda: torch.ones(4, 1, 1).to_sparse(), "scale as torch.sparse_coo"),
        (
            lambda: torch._empty_affine_quantized([4, 1, 1], scale=1.0, dtype=torch.qint8),
            "scale as torch.qint8",
        ),
        (lambda: torch.ones(4, 1, 1, device="meta"), "scale on the meta device"),
    ],
)
def test_tensors_that_are_not_dense_are_named(buffer: Callable[[], Tensor], shown: str) -> None:
    with pytest.raises(ArgumentError, match=shown):
        compiled(Scaled(buffer()))

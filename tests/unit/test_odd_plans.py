"""Plans that random networks found: what they hold is odd, and right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo


def check(model: nn.Module, shape: tuple[int, ...], **options: object) -> None:
    torch.manual_seed(0)
    model = model.double().eval()
    image = torch.randn(*shape, dtype=torch.float64)
    plan = kqo.compile(model, (image[None],), kqo.Occlusion(2, 2), kqo.Options(**options))
    result = plan.run(image.numpy())
    lo = plan.placed.starts
    for at, found in zip(lo, result.scores, strict=True):
        changed = image.clone()
        changed[(slice(None), *(slice(int(a), int(a) + 2) for a in at[-(len(shape) - 1) :]))] = 0
        with torch.no_grad():
            np.testing.assert_allclose(found, model(changed[None])[0], atol=1e-12)


class EdgesOfOneRow(nn.Module):
    """Replicates the edges of a relation with one row, whose key then does not vary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, (4, 3), padding=(0, 1))
        self.second = nn.Conv2d(3, 2, 2, padding=2, padding_mode="replicate", dilation=(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).flatten(1)


def test_a_key_that_does_not_vary() -> None:
    check(EdgesOfOneRow(), (2, 4, 8))


class Edges(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 4), mode="circular").amax(1)


@pytest.mark.parametrize("without", [("DropIdentityJoin",), ("DropIdentityJoin", "delta")])
def test_a_join_with_one_empty_key_reads_no_rows(without: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.MaxPool1d(4), Edges(), nn.Flatten())
    check(model, (2, 16), without=without)


class PaddedChannels(nn.Module):
    """Pads the channels before a convolution that keeps them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, (0, 0, 1, 0, 1, 1))).flatten(1)


def test_padded_channels_that_the_kernel_has_too() -> None:
    check(PaddedChannels(), (2, 6, 6))

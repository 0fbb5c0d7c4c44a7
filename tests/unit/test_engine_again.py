"""A second run of an engine gives what the first gave: no step reads rows that it left behind."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import kqo


class Padded(nn.Module):
    """Pads below what a convolution gave: the padded relation has more rows than what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.pad(self.first(x), (0, 0, 0, 2)))


def test_padding_reads_no_rows_of_an_earlier_run() -> None:
    model = Padded().eval()
    images = torch.randn(2, 2, 8, 9, generator=torch.Generator().manual_seed(0))
    plan = kqo.compile(model, (images[:1],), kqo.Occlusion(window=3, stride=2))
    first = plan.run(images[0])
    plan.run(images[1])
    again = plan.run(images[0])
    assert np.array_equal(first.scores, again.scores)
    with torch.inference_mode():
        dense = model(images[:1])[0].numpy()
    assert np.abs(again.original - dense).max() < 1e-5

"""Occlusion of a time series: which stretch of a signal a 1-D network looks at.

``kqo bench docs/examples/time_series.py:ResNet1d --shape 12,10000 --window 100 --stride 25`` times
it at full width, on a signal such as an ECG of twelve leads, beside PyTorch.
"""

import torch
from torch import Tensor, nn

import kqo


class Block(nn.Module):
    """Two convolutions and what goes around them."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(channels, out, 7, stride=stride, padding=3, bias=False),
            nn.BatchNorm1d(out),
            nn.ReLU(inplace=True),
            nn.Conv1d(out, out, 7, padding=3, bias=False),
            nn.BatchNorm1d(out),
        )
        self.around = nn.Identity()
        if stride > 1 or channels != out:
            self.around = nn.Sequential(
                nn.Conv1d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm1d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.around(x))


class ResNet1d(nn.Module):
    """Stands for your model: (N, leads, samples) to scores."""

    def __init__(self, leads: int = 12, classes: int = 5, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(leads, width, 15, stride=2, padding=7, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(3, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(
            Block(width, width, 1),
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 2 * width, 1),
            Block(2 * width, 4 * width, 2),
            Block(4 * width, 4 * width, 1),
        )
        self.classify = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.blocks(self.stem(x)).mean(2))


def main() -> None:
    """Heatmaps of a short signal of two leads."""
    torch.manual_seed(0)
    model = ResNet1d(leads=2, classes=3, width=8).eval()
    signal = torch.randn(1, 2, 2000)

    # All leads at once, in stretches of 100 samples that move by 25.
    plan = kqo.compile(model, (signal,), kqo.Occlusion(window=100, stride=25, fill="mean"))
    result = plan.run(signal, verify=8)
    heatmap = result.heatmap()
    print("stretches:", heatmap.shape, "the one that matters most:", int(heatmap.argmin()) * 25)

    # Every class from the same run, and each lead by itself.
    drops = [result.drops(target=c).max() for c in range(3)]
    print("largest drop of each class:", [round(float(drop), 4) for drop in drops])
    one = kqo.Occlusion(window=(1, 100), stride=(1, 25), fill="mean")
    print("by lead:", kqo.compile(model, (signal,), one).run(signal).heatmap().shape)


if __name__ == "__main__":
    main()

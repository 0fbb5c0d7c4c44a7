"""Occlusion of a volume: which part of a scan a 3-D ResNet-18 in MONAI's style looks at.

``kqo bench docs/examples/volume.py:ResNet3d --shape 1,96,96,96 --window 16 --stride 8`` times the
network at half of MONAI's width beside PyTorch.
"""

import torch
from torch import Tensor, nn

import kqo


class Block(nn.Module):
    """Two convolutions and what goes around them."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(out),
            nn.ReLU(inplace=True),
            nn.Conv3d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm3d(out),
        )
        self.around = nn.Identity()
        if stride > 1 or channels != out:
            self.around = nn.Sequential(
                nn.Conv3d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm3d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.around(x))


class ResNet3d(nn.Module):
    """Stands for your model: (N, 1, D, H, W) to scores."""

    def __init__(self, classes: int = 2, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(1, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, stride=2, padding=1),
        )
        stages = []
        for number, channels in enumerate((width, 2 * width, 4 * width, 8 * width)):
            before = max(width, channels // 2)
            stages += [Block(before, channels, 2 if number else 1), Block(channels, channels, 1)]
        self.blocks = nn.Sequential(*stages)
        self.classify = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.blocks(self.stem(x)).mean((2, 3, 4)))


def main() -> None:
    """Heatmaps of a small volume."""
    torch.manual_seed(0)
    model = ResNet3d(width=4).eval()
    volume = torch.randn(1, 1, 32, 32, 32)

    # A cube of 8 elements moves by 4; what it hides is replaced by the volume's mean.
    plan = kqo.compile(model, (volume,), kqo.Occlusion(window=8, stride=4, fill="mean"))
    result = plan.run(volume, verify=4)
    heatmap = result.heatmap(target=1)
    print("cubes:", len(result.workload), "on a grid of", heatmap.shape)
    print("attribution:", result.attribution(target=1).shape)

    # Coarse first, fine where it mattered: two sizes of cubes in one workload.
    corner = result.workload.starts[int(heatmap.argmin())]
    roi = tuple((int(start), int(start) + 8) for start in corner)
    fine = kqo.Occlusion(window=4, stride=2, fill="mean", roi=roi)
    shape = tuple(volume.shape[1:])
    both = kqo.Occlusion(window=8, stride=8, fill="mean").regions(shape) + fine.regions(shape)
    scores = kqo.compile(model, (volume,), both).run(volume).scores
    print("cubes of two sizes:", scores.shape[0], "lowest score:", float(scores[:, 1].min()))


if __name__ == "__main__":
    main()

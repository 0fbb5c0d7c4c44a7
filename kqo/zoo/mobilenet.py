"""MobileNetV2 (Sandler et al., 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from kqo.zoo.weights import BranchNorm
from kqo.zoo.width import scaled

# Expansion, channels, blocks and first stride of each stage (table 2 of the paper).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 that widens, depthwise 3x3, linear 1x1; with a shortcut where the shapes allow it."""

    def __init__(self, channels: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        layers: list[nn.Module] = [] if expand == 1 else [_conv(channels, hidden, 1)]
        layers += [
            _conv(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            BranchNorm(out),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """MobileNetV2 for inputs (N, 3, 224, 224); any size works."""

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        channels = scaled(32, width)
        features: list[nn.Module] = [_conv(3, channels, 3, 2)]
        for expand, wanted, blocks, stride in _STAGES:
            out = scaled(wanted, width)
            for index in range(blocks):
                features.append(InvertedResidual(channels, out, 1 if index else stride, expand))
                channels = out
        last = scaled(1280, width)
        features.append(_conv(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits

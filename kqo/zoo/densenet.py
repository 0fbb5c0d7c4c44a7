"""DenseNet121 (Huang et al., 2017)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from kqo.zoo.width import scaled

_BLOCKS = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """Normalization, 1x1 convolution, normalization, 3x3 convolution: `growth` new channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """New features (N, growth, H, W)."""
        x = self.conv1(self.relu1(self.norm1(x)))
        new: Tensor = self.conv2(self.relu2(self.norm2(x)))
        return new


class DenseBlock(nn.Module):
    """Layers that each read the concatenation of all before them."""

    def __init__(self, layers: int, channels: int, growth: int) -> None:
        super().__init__()
        for index in range(layers):
            layer = DenseLayer(channels + index * growth, growth)
            self.add_module(f"denselayer{index + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels + layers * growth, H, W)."""
        features = [x]
        for layer in self.children():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, 2),
        )
    )


class DenseNet121(nn.Module):
    """DenseNet121 for inputs (N, 3, 224, 224); any size of at least 29 works."""

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        growth, channels = scaled(32, width), scaled(64, width)
        features: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(channels),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        for index, layers in enumerate(_BLOCKS, 1):
            features[f"denseblock{index}"] = DenseBlock(layers, channels, growth)
            channels += layers * growth
            if index < len(_BLOCKS):
                features[f"transition{index}"] = _transition(channels)
                channels //= 2
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(features)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        x = nn.functional.relu(self.features(x), inplace=True)
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits

"""ResNet18 and ResNet50 (He et al., 2016; the stride of a bottleneck is on its 3x3, "v1.5")."""

from __future__ import annotations

from torch import Tensor, nn

from kqo.zoo.weights import BranchNorm
from kqo.zoo.width import scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = BranchNorm(planes)
        self.downsample = _shortcut(channels, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution that widens four times, and a shortcut."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = BranchNorm(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 4 * planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(out)
        return result


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """A ResNet of four stages for inputs (N, 3, 224, 224); any size works."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int,
        width: float,
    ) -> None:
        super().__init__()
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, blocks in enumerate(layers):
            planes = scaled(64 * 2**stage, width)
            made = []
            for index in range(blocks):
                made.append(block(channels, planes, 2 if stage and not index else 1))
                channels = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet18(num_classes: int, width: float) -> ResNet:
    """ResNet18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width)


def resnet50(num_classes: int, width: float) -> ResNet:
    """ResNet50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width)

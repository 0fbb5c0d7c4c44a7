"""Inception v3 (Szegedy et al., 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kqo.zoo.width import scaled

_Size = int | tuple[int, int]


class BasicConv2d(nn.Module):
    """Convolution, batch normalization, ReLU."""

    def __init__(
        self, channels: int, out: int, kernel: _Size, stride: int = 1, padding: _Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionA(nn.Module):
    """Branches of 1x1, 5x5, two 3x3, and average pooling, at 35x35."""

    def __init__(self, channels: int, pool: int, width: float) -> None:
        super().__init__()
        c48, c64, c96 = (scaled(c, width) for c in (48, 64, 96))
        pool = scaled(pool, width)
        self.branch1x1 = BasicConv2d(channels, c64, 1)
        self.branch5x5_1 = BasicConv2d(channels, c48, 1)
        self.branch5x5_2 = BasicConv2d(c48, c64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, c64, 1)
        self.branch3x3dbl_2 = BasicConv2d(c64, c96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(c96, c96, 3, padding=1)
        self.branch_pool = BasicConv2d(channels, pool, 1)
        self.out = 2 * c64 + c96 + pool

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H, W)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, pooled], 1
        )


class InceptionB(nn.Module):
    """Reduction from 35x35 to 17x17."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        c64, c96, c384 = (scaled(c, width) for c in (64, 96, 384))
        self.branch3x3 = BasicConv2d(channels, c384, 3, 2)
        self.branch3x3dbl_1 = BasicConv2d(channels, c64, 1)
        self.branch3x3dbl_2 = BasicConv2d(c64, c96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(c96, c96, 3, 2)
        self.out = channels + c384 + c96

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H / 2, W / 2)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """Branches of 1x7 and 7x1 convolutions, at 17x17."""

    def __init__(self, channels: int, channels_7x7: int, width: float) -> None:
        super().__init__()
        c7, c192 = scaled(channels_7x7, width), scaled(192, width)
        self.branch1x1 = BasicConv2d(channels, c192, 1)
        self.branch7x7_1 = BasicConv2d(channels, c7, 1)
        self.branch7x7_2 = BasicConv2d(c7, c7, (1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(c7, c192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv2d(channels, c7, 1)
        self.branch7x7dbl_2 = BasicConv2d(c7, c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv2d(c7, c7, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = BasicConv2d(c7, c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = BasicConv2d(c7, c192, (1, 7), padding=(0, 3))
        self.branch_pool = BasicConv2d(channels, c192, 1)
        self.out = 4 * c192

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H, W)."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), single, double, pooled], 1)


class InceptionD(nn.Module):
    """Reduction from 17x17 to 8x8."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        c192, c320 = scaled(192, width), scaled(320, width)
        self.branch3x3_1 = BasicConv2d(channels, c192, 1)
        self.branch3x3_2 = BasicConv2d(c192, c320, 3, 2)
        self.branch7x7x3_1 = BasicConv2d(channels, c192, 1)
        self.branch7x7x3_2 = BasicConv2d(c192, c192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(c192, c192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(c192, c192, 3, 2)
        self.out = channels + c320 + c192

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H / 2, W / 2)."""
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """Branches whose 3x3 is split into a 1x3 and a 3x1 side by side, at 8x8."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        c192, c320, c384, c448 = (scaled(c, width) for c in (192, 320, 384, 448))
        self.branch1x1 = BasicConv2d(channels, c320, 1)
        self.branch3x3_1 = BasicConv2d(channels, c384, 1)
        self.branch3x3_2a = BasicConv2d(c384, c384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(c384, c384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(channels, c448, 1)
        self.branch3x3dbl_2 = BasicConv2d(c448, c384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(c384, c384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(c384, c384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(channels, c192, 1)
        self.out = c320 + 4 * c384 + c192

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, out, H, W)."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        singles = torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1)
        doubles = torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1)
        return torch.cat([self.branch1x1(x), singles, doubles, pooled], 1)


class InceptionAux(nn.Module):
    """The auxiliary classifier: its parameters load, but inference does not run it."""

    def __init__(self, channels: int, num_classes: int, width: float) -> None:
        super().__init__()
        c128, c768 = scaled(128, width), scaled(768, width)
        self.conv0 = BasicConv2d(channels, c128, 1)
        self.conv1 = BasicConv2d(c128, c768, 5)
        self.fc = nn.Linear(c768, num_classes)


class InceptionV3(nn.Module):
    """Inception v3 for inputs (N, 3, 299, 299); any size of at least 75 works."""

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        c32, c64, c80, c192 = (scaled(c, width) for c in (32, 64, 80, 192))
        self.Conv2d_1a_3x3 = BasicConv2d(3, c32, 3, 2)
        self.Conv2d_2a_3x3 = BasicConv2d(c32, c32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(c32, c64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = BasicConv2d(c64, c80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(c80, c192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(c192, 32, width)
        self.Mixed_5c = InceptionA(self.Mixed_5b.out, 64, width)
        self.Mixed_5d = InceptionA(self.Mixed_5c.out, 64, width)
        self.Mixed_6a = InceptionB(self.Mixed_5d.out, width)
        self.Mixed_6b = InceptionC(self.Mixed_6a.out, 128, width)
        self.Mixed_6c = InceptionC(self.Mixed_6b.out, 160, width)
        self.Mixed_6d = InceptionC(self.Mixed_6c.out, 160, width)
        self.Mixed_6e = InceptionC(self.Mixed_6d.out, 192, width)
        self.AuxLogits = InceptionAux(self.Mixed_6e.out, num_classes, width)
        self.Mixed_7a = InceptionD(self.Mixed_6e.out, width)
        self.Mixed_7b = InceptionE(self.Mixed_7a.out, width)
        self.Mixed_7c = InceptionE(self.Mixed_7b.out, width)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(self.Mixed_7c.out, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x)).flatten(1))
        return logits

"""Small models in the style of well-known ones, for tests. All take (N, C, ...) and any width.

Layer structure and operators are those of the originals; depth and width are cut.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL_ZOO = {
    "vgg16": (0.04, 32),
    "resnet18": (0.06, 33),
    "resnet50": (0.05, 32),
    "inception_v3": (0.03, 75),
    "densenet121": (0.1, 32),
    "mobilenet_v2": (0.1, 32),
}
"""Width and input size at which a zoo model is small."""


def conv_norm(
    cin: int, cout: int, k: int = 3, s: int = 1, *, groups: int = 1, act: type = nn.ReLU
) -> nn.Module:
    conv = nn.Conv2d(cin, cout, k, s, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), act())


class AlexNet(nn.Module):
    """Krizhevsky et al., 2012, as in torchvision."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, 2 * w, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(2 * w, 6 * w, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2),
            nn.Conv2d(6 * w, 12 * w, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(12 * w, 8 * w, 3, padding=1), nn.ReLU(True),
            nn.Conv2d(8 * w, 8 * w, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(8 * w * 36, 16 * w), nn.ReLU(True), nn.Linear(16 * w, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Inception(nn.Module):
    def __init__(self, cin: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> None:
        super().__init__()
        self.branch1 = conv_norm(cin, a, 1)
        self.branch2 = nn.Sequential(conv_norm(cin, b[0], 1), conv_norm(*b, 3))
        self.branch3 = nn.Sequential(conv_norm(cin, c[0], 1), conv_norm(*c, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_norm(cin, d, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """Szegedy et al., 2015, as in torchvision: ceil-mode pools, four branches."""

    def __init__(self, width: int = 2, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            conv_norm(3, 4 * w, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True),
            conv_norm(4 * w, 4 * w, 1), conv_norm(4 * w, 12 * w),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )  # fmt: skip
        self.inception3a = Inception(12 * w, 4 * w, (6 * w, 8 * w), (w, 2 * w), 2 * w)
        self.inception3b = Inception(16 * w, 8 * w, (8 * w, 12 * w), (2 * w, 6 * w), 4 * w)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception4a = Inception(30 * w, 8 * w, (8 * w, 12 * w), (2 * w, 6 * w), 4 * w)
        self.fc = nn.Linear(30 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inception3b(self.inception3a(self.stem(x)))
        x = F.adaptive_avg_pool2d(self.inception4a(self.pool(x)), 1)
        return self.fc(torch.flatten(x, 1))


class Fire(nn.Module):
    def __init__(self, cin: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(cin, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """Iandola et al., 2016, version 1.1; the classifier is a convolution."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, 4 * w, 3, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(4 * w, w, 4 * w), Fire(8 * w, w, 4 * w), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(8 * w, 2 * w, 8 * w),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(16 * w, classes, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class SqueezeExcite(nn.Module):
    """Hu et al., 2018: channels scaled by a gate of their means."""

    def __init__(self, channels: int, hidden: int, act: type, gate: type) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.act = nn.Conv2d(channels, hidden, 1), act()
        self.fc2, self.gate = nn.Conv2d(hidden, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.fc2(self.act(self.fc1(self.avgpool(x))))) * x


class MBConv(nn.Module):
    """Inverted residual with squeeze-and-excitation."""

    def __init__(
        self, cin: int, cout: int, k: int, s: int, *, expand: int, act: type, gate: type
    ) -> None:
        super().__init__()
        mid = cin * expand
        self.expand = conv_norm(cin, mid, 1, act=act)
        self.depthwise = conv_norm(mid, mid, k, s, groups=mid, act=act)
        self.se = SqueezeExcite(mid, max(2, cin // 4), act, gate)
        self.project = nn.Sequential(nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.shortcut = s == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return x + y if self.shortcut else y


class EfficientNet(nn.Module):
    """Tan and Le, 2019: SiLU, squeeze-and-excitation, 5x5 depthwise kernels."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            conv_norm(3, 2 * w, 3, 2, act=nn.SiLU),
            MBConv(2 * w, 2 * w, 3, 1, expand=1, act=nn.SiLU, gate=nn.Sigmoid),
            MBConv(2 * w, 3 * w, 5, 2, expand=6, act=nn.SiLU, gate=nn.Sigmoid),
            MBConv(3 * w, 3 * w, 5, 1, expand=6, act=nn.SiLU, gate=nn.Sigmoid),
            conv_norm(3 * w, 8 * w, 1, act=nn.SiLU),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(8 * w, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class MobileNetV3(nn.Module):
    """Howard et al., 2019: hard swish and hard sigmoid."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            conv_norm(3, 2 * w, 3, 2, act=nn.Hardswish),
            MBConv(2 * w, 2 * w, 3, 2, expand=2, act=nn.ReLU, gate=nn.Hardsigmoid),
            MBConv(2 * w, 3 * w, 5, 1, expand=3, act=nn.Hardswish, gate=nn.Hardsigmoid),
            conv_norm(3 * w, 8 * w, 1, act=nn.Hardswish),
        )
        self.classifier = nn.Sequential(
            nn.Linear(8 * w, 8 * w), nn.Hardswish(), nn.Dropout(), nn.Linear(8 * w, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class ShuffleUnit(nn.Module):
    """Split channels, convolve one half, concatenate, shuffle."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        half, self.down = channels // 2, down
        cin = channels if down else half
        out = channels if down else half
        self.branch2 = nn.Sequential(
            conv_norm(cin, out, 1),
            nn.Conv2d(out, out, 3, 2 if down else 1, 1, groups=out, bias=False),
            nn.BatchNorm2d(out),
            conv_norm(out, out, 1),
        )
        if down:
            self.branch1 = nn.Sequential(
                nn.Conv2d(cin, cin, 3, 2, 1, groups=cin, bias=False),
                nn.BatchNorm2d(cin),
                conv_norm(cin, out, 1),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            y = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        else:
            a, b = x.chunk(2, dim=1)
            y = torch.cat((a, self.branch2(b)), dim=1)
        n, c, h, w = y.size()
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ShuffleNet(nn.Module):
    """Ma et al., 2018 (version 2)."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(conv_norm(3, 2 * w, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.stage = nn.Sequential(ShuffleUnit(2 * w, True), ShuffleUnit(4 * w, False))
        self.fc = nn.Linear(4 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stage(self.stem(x)).mean([2, 3]))


class RegNetBlock(nn.Module):
    def __init__(self, cin: int, cout: int, s: int, group_width: int) -> None:
        super().__init__()
        self.a = conv_norm(cin, cout, 1)
        self.b = conv_norm(cout, cout, 3, s, groups=cout // group_width)
        self.se = SqueezeExcite(cout, max(2, cin // 4), nn.ReLU, nn.Sigmoid)
        self.c = nn.Sequential(nn.Conv2d(cout, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.proj = nn.Sequential(nn.Conv2d(cin, cout, 1, s, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.proj(x) + self.c(self.se(self.b(self.a(x)))))


class RegNet(nn.Module):
    """Radosavovic et al., 2020 (RegNetY): grouped convolutions and squeeze-and-excitation."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.stem = conv_norm(3, 2 * w, 3, 2)
        self.trunk = nn.Sequential(RegNetBlock(2 * w, 4 * w, 2, w), RegNetBlock(4 * w, 4 * w, 1, w))
        self.fc = nn.Linear(4 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.trunk(self.stem(x)), 1).flatten(1))


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise, channels-last layer norm and linear layers, layer scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(0.5 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return x.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Liu et al., 2022."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(nn.Conv2d(3, w, 4, 4), LayerNorm2d(w))
        self.stage1 = ConvNeXtBlock(w)
        self.down = nn.Sequential(LayerNorm2d(w), nn.Conv2d(w, 2 * w, 2, 2))
        self.stage2 = ConvNeXtBlock(2 * w)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), LayerNorm2d(2 * w), nn.Flatten(1), nn.Linear(2 * w, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.down(self.stage1(self.stem(x)))))


class UNet(nn.Module):
    """Ronneberger et al., 2015: dense output, skips, transposed convolution and resizing."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        w = width
        self.enc1, self.enc2 = conv_norm(3, w), conv_norm(w, 2 * w)
        self.middle = conv_norm(2 * w, 4 * w)
        self.up = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2)
        self.dec2, self.dec1 = conv_norm(4 * w, 2 * w), conv_norm(3 * w, w)
        self.head = nn.Conv2d(w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enc1(x)
        b = self.enc2(F.max_pool2d(a, 2))
        y = self.up(self.middle(F.max_pool2d(b, 2)))
        y = F.pad(y, (0, b.shape[3] - y.shape[3], 0, b.shape[2] - y.shape[2]))
        y = self.dec2(torch.cat([b, y], 1))
        y = F.interpolate(y, a.shape[2:], mode="bilinear", align_corners=True)
        return self.head(self.dec1(torch.cat([a, y], 1)))


class DeepLab(nn.Module):
    """Chen et al., 2017 (version 3): dilated branches, image pooling, two named outputs."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        w = width
        self.backbone = nn.Sequential(conv_norm(3, w, 3, 2), conv_norm(w, 2 * w, 3, 2))
        self.branches = nn.ModuleList(
            nn.Conv2d(2 * w, w, 3, padding=r, dilation=r, bias=False) for r in (1, 2, 4)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * w, w, 1), nn.ReLU())
        self.project = conv_norm(4 * w, w, 1)
        self.head = nn.Conv2d(w, classes, 1)
        self.aux = nn.Conv2d(2 * w, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[-2:]
        features = self.backbone(x)
        pooled = F.interpolate(
            self.pool(features), size=features.shape[-2:], mode="bilinear", align_corners=False
        )
        y = self.project(torch.cat([*(b(features) for b in self.branches), pooled], 1))
        out = F.interpolate(self.head(y), size=size, mode="bilinear", align_corners=False)
        return {"out": out, "aux": F.interpolate(self.aux(features), size=size, mode="nearest")}


class TimeSeries(nn.Module):
    """A residual network over samples (N, C, T), as for time-series classification."""

    def __init__(self, channels: int = 2, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        w = width
        self.conv1 = nn.Conv1d(channels, w, 7, 2, padding=3)
        self.bn1 = nn.BatchNorm1d(w)
        self.conv2 = nn.Conv1d(w, w, 5, padding="same", dilation=2)
        self.norm = nn.InstanceNorm1d(w, affine=True)
        self.conv3 = nn.Conv1d(w, 2 * w, 3, padding=1, padding_mode="replicate")
        self.fc = nn.Linear(2 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = F.relu(x + self.norm(self.conv2(x)))
        x = F.avg_pool1d(F.elu(self.conv3(x)), 2, ceil_mode=True)
        return F.log_softmax(self.fc(x.amax(-1)), 1)


class Volume(nn.Module):
    """A residual network over volumes (N, C, D, H, W), as in medical imaging."""

    def __init__(self, channels: int = 1, width: int = 2, classes: int = 3) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(nn.Conv3d(channels, w, 3, 2, 1), nn.BatchNorm3d(w), nn.PReLU(w))
        self.conv1 = nn.Conv3d(w, w, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(1, w)
        self.conv2 = nn.Conv3d(w, w, (3, 1, 1), padding=(1, 0, 0), groups=w)
        self.fc = nn.Linear(w, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.leaky_relu(x + self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return self.fc(F.adaptive_avg_pool3d(F.max_pool3d(x, 2), 1).flatten(1))


class Fusion(nn.Module):
    """An image and a vector of measurements; returns scores and the features."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.embed = nn.Conv2d(1, width, 3, 2, 1), nn.Linear(5, width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(self.embed(measured))
        features = F.relu(self.conv(image)) * gate[:, :, None, None]
        pooled = features.mean((2, 3))
        return self.head(torch.cat([pooled, gate], 1)), features


MODELS: dict[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "alexnet": (AlexNet, ((3, 63, 63),)),
    "googlenet": (GoogLeNet, ((3, 33, 33),)),
    "squeezenet": (SqueezeNet, ((3, 35, 33),)),
    "efficientnet": (EfficientNet, ((3, 24, 24),)),
    "mobilenet_v3": (MobileNetV3, ((3, 24, 24),)),
    "shufflenet": (ShuffleNet, ((3, 24, 24),)),
    "regnet": (RegNet, ((3, 16, 16),)),
    "convnext": (ConvNeXt, ((3, 32, 32),)),
    "unet": (UNet, ((3, 18, 17),)),
    "deeplab": (DeepLab, ((3, 21, 24),)),
    "time_series": (TimeSeries, ((2, 61),)),
    "volume": (Volume, ((1, 9, 8, 10),)),
    "fusion": (Fusion, ((1, 9, 9), (5,))),
}
"""Model class, and the shape of each of its inputs (without the batch) that suits tests."""


def build(name: str, seed: int = 0) -> nn.Module:
    """A model of :data:`MODELS` in eval mode with seeded weights and non-trivial statistics."""
    make, _ = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().eval()
        with torch.no_grad():
            for key, value in model.named_buffers():
                if "running" in key:
                    value.copy_(torch.rand_like(value) * 0.5 + (0.7 if "var" in key else -0.25))
    return model

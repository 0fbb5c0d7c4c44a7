"""Networks as people write them who never heard of kqo: blocks of papers, in their own idioms."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResponseNorm(nn.Module):
    """Global response normalization of ConvNeXt V2 (Woo et al. 2023), channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1, 1, 1, width))
        self.beta = nn.Parameter(torch.rand(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        ratio = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * ratio) + self.beta + x


class ConvNeXtV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm = nn.LayerNorm(8, eps=1e-6)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.respond = ResponseNorm(32)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(self.respond(F.gelu(self.up(y))))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean([-2, -1]))


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v3 (Chen et al. 2017), with its image branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.rates = nn.ModuleList(
            nn.Conv2d(6, 4, 3, padding=rate, dilation=rate) for rate in (1, 2, 4)
        )
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.ReLU())
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.classes = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = self.stem(x)
        pooled = F.interpolate(
            self.image(x), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        x = torch.cat([*(F.relu(branch(x)) for branch in self.rates), pooled], dim=1)
        x = self.classes(F.dropout(self.project(x), 0.5, self.training))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class UNet3d(nn.Module):
    """A 3-D U-Net (Cicek et al. 2016) with instance norm and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()

        def twice(inside: int, outside: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv3d(inside, outside, 3, padding=1), nn.InstanceNorm3d(outside, affine=True),
                nn.LeakyReLU(0.01, inplace=True),
                nn.Conv3d(outside, outside, 3, padding=1), nn.BatchNorm3d(outside), nn.ReLU(True),
            )  # fmt: skip

        self.first, self.second = twice(1, 4), twice(4, 6)
        self.up = nn.ConvTranspose3d(6, 4, 2, stride=2)
        self.last = twice(8, 4)
        self.out = nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(F.max_pool3d(first, 2))
        return torch.softmax(self.out(self.last(torch.cat([self.up(second), first], 1))), 1)


class InceptionTime(nn.Module):
    """Two blocks of InceptionTime (Fawaz et al. 2020)."""

    class Block(nn.Module):
        def __init__(self, inside: int, width: int = 4) -> None:
            super().__init__()
            self.neck = nn.Conv1d(inside, width, 1, bias=False)
            self.kernels = nn.ModuleList(
                nn.Conv1d(width, width, k, padding="same", bias=False) for k in (39, 19, 9)
            )
            self.pool = nn.Sequential(
                nn.MaxPool1d(3, stride=1, padding=1), nn.Conv1d(inside, width, 1, bias=False)
            )
            self.norm = nn.BatchNorm1d(4 * width)

        def forward(self, x: Tensor) -> Tensor:
            narrow = self.neck(x)
            parts = [kernel(narrow) for kernel in self.kernels]
            return F.relu(self.norm(torch.cat([*parts, self.pool(x)], dim=1)))

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(self.Block(3), self.Block(16))
        self.short = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.blocks(x) + self.short(x))
        return F.log_softmax(self.head(x.mean(dim=-1)), dim=1)


class Ghost(nn.Module):
    """Ghost modules with squeeze-and-excitation (Han et al. 2020)."""

    class Module(nn.Module):
        def __init__(self, inside: int, outside: int, relu: bool = True) -> None:
            super().__init__()
            half = -(-outside // 2)
            self.outside = outside
            self.primary = nn.Sequential(nn.Conv2d(inside, half, 1), nn.BatchNorm2d(half))
            self.cheap = nn.Sequential(
                nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half)
            )
            self.last = nn.ReLU(inplace=True) if relu else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.last(self.primary(x))
            return torch.cat([x, self.last(self.cheap(x))], dim=1)[:, : self.outside, :, :]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.first, self.second = self.Module(6, 15), self.Module(15, 6, relu=False)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(15, 4, 1), nn.ReLU(), nn.Conv2d(4, 15, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.first(x)
        return self.head(x + self.second(y * self.gate(y)))


class Windows(nn.Module):
    """Attention within windows of 4x4, as in a Swin transformer (Liu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.qkv, self.back = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = self.norm(x).view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        q, k, v = self.qkv(y.reshape(-1, 16, c)).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = ((q * 4**-0.5) @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        y = self.back(y.transpose(1, 2).reshape(-1, 16, c))
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return self.head((x + y).mean((1, 2)))


class Recurrent(nn.Module):
    """A convolutional encoder of lines of text, read by a bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d((2, 1)),
        )  # fmt: skip
        self.read = nn.LSTM(6 * 4, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        steps = x.permute(0, 3, 1, 2).flatten(2)
        found, _ = self.read(steps)
        return self.head(found[:, -1])


class TwoHeads(nn.Module):
    """A fully convolutional network with a main output, an auxiliary one and a boxed one."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.PReLU(6))
        self.high = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ELU())
        self.main, self.aux = nn.Conv2d(8, 4, 1), nn.Conv2d(6, 4, 1)
        self.boxes = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[-2:]
        low = self.low(x)
        high = self.high(low)
        main = F.interpolate(self.main(high), size=size, mode="bilinear", align_corners=True)
        aux = F.interpolate(self.aux(low), scale_factor=2, mode="nearest")
        boxes = torch.sigmoid(self.boxes(F.adaptive_max_pool2d(high, 1).flatten(1)))
        return {"out": main, "aux": aux.argmax(1).to(x.dtype) * 0 + aux.amax(1), "boxes": boxes}


class Mixed(nn.Module):
    """What notebooks do: einsum, chunked gates, stacked statistics, reflect padding, a blur."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.register_buffer("blur", torch.tensor([1.0, 2.0, 1.0]).outer(torch.ones(3)) / 12)
        self.mix = nn.Parameter(torch.randn(6, 4))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, dim=1)
        x = a * torch.sigmoid(b)
        x = F.conv2d(x, self.blur.expand(4, 1, 3, 3), padding=1, groups=4)
        x = torch.einsum("nchw,dc->ndhw", x, self.mix)
        x = torch.where(x > 0, x, 0.1 * x)
        return self.head(torch.cat([x.mean((2, 3)), x.std((2, 3))], 1))


STRANGERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "convnext_v2": (ConvNeXtV2, (3, 32, 32), False),
    "aspp": (Pyramid, (3, 20, 24), False),
    "unet3d": (UNet3d, (1, 8, 8, 12), False),
    "inception_time": (InceptionTime, (3, 120), False),
    "ghost": (Ghost, (3, 24, 24), False),
    "windows": (Windows, (3, 16, 16), True),
    "recurrent": (Recurrent, (1, 16, 24), True),
    "two_heads": (TwoHeads, (3, 16, 24), True),
    "mixed": (Mixed, (3, 16, 16), True),
}
"""Class, shape of the input, and whether torch may have to run a part."""

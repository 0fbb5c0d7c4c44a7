"""Random layers of convolutional networks, of one to three dimensions.

Each function draws the arguments of a layer for given channels and spatial extents. A layer that
torch refuses on that shape is left out (:func:`fits`), so that no rule about valid arguments is
written down twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Draw = Callable[[st.SearchStrategy[Any]], Any]
Shape = tuple[int, ...]

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, lambda: nn.GELU("tanh"),
    nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardtanh, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.PReLU,
)  # fmt: skip


class Apply(nn.Module):
    """A function of a tensor and of modules, shown in failures by a text."""

    def __init__(self, text: str, fn: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.text, self.fn = text, fn
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, *self.parts)

    def extra_repr(self) -> str:
        return self.text


def of_rank(name: str, rank: int) -> Any:
    """The variant of a layer for a number of dimensions: ``Conv`` of 2 is ``nn.Conv2d``."""
    return getattr(nn, f"{name}{rank}d")


def one_of(draw: Draw, *values: Any) -> Any:
    return draw(st.sampled_from(values))


def some(draw: Draw, rank: int, *values: int) -> Any:
    """A number for all axes, or one for each."""
    if draw(st.booleans()):
        return one_of(draw, *values)
    return tuple(one_of(draw, *values) for _ in range(rank))


def divisor(draw: Draw, number: int) -> int:
    return int(one_of(draw, *(n for n in range(1, number + 1) if number % n == 0)))


def plain_convolution(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    """3 by 3 or its like, stride 1: what Winograd's method is for."""
    rank = len(extents)
    kernels = {1: (3, 5, 7), 2: (3, 3, (1, 3), (5, 1), 5, (1, 7)), 3: (3,)}[rank]
    kernel: Any = one_of(draw, *kernels)
    padding = kernel // 2 if isinstance(kernel, int) else tuple(k // 2 for k in kernel)
    padding = one_of(draw, padding, 0)
    return of_rank("Conv", rank)(channels, one_of(draw, 1, 4, 8), kernel, padding=padding)


def convolution(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    rank = len(extents)
    groups = divisor(draw, channels)
    stride = some(draw, rank, 1, 1, 2, 3)
    mode = one_of(draw, "zeros", "zeros", "reflect", "replicate", "circular")
    padding = some(draw, rank, 0, 1, 2, 3)
    if draw(st.integers(0, 4)) == 0:
        padding, stride = one_of(draw, "same", "valid"), 1
    return of_rank("Conv", rank)(
        channels,
        groups * one_of(draw, 1, 2, 3),
        some(draw, rank, 1, 2, 3, 4),
        stride=stride,
        padding=padding,
        dilation=some(draw, rank, 1, 1, 2, 3),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )


def pointwise(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    return of_rank("Conv", len(extents))(channels, one_of(draw, 1, 3, 6), 1)


def depthwise(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    kernel = one_of(draw, 2, 3, 5)
    return of_rank("Conv", len(extents))(
        channels,
        channels * one_of(draw, 1, 1, 2),
        kernel,
        stride=one_of(draw, 1, 1, 2),
        padding=one_of(draw, kernel // 2, 0),
        groups=channels,
    )


def transposed(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    rank = len(extents)
    groups = divisor(draw, channels)
    return of_rank("ConvTranspose", rank)(
        channels,
        groups * one_of(draw, 1, 2),
        some(draw, rank, 1, 2, 3),
        stride=some(draw, rank, 1, 2),
        padding=some(draw, rank, 0, 1),
        output_padding=one_of(draw, 0, 0, 1),
        dilation=some(draw, rank, 1, 1, 2),
        groups=groups,
        bias=draw(st.booleans()),
    )


def norm(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    rank = len(extents)
    kind = one_of(draw, "batch", "batch", "batch", "group", "instance", "layer", "channels")
    # Large enough that rounding errors of an almost constant group do not decide its output.
    eps = 1e-2
    if kind == "batch":
        return of_rank("BatchNorm", rank)(channels, eps=1e-3, affine=draw(st.booleans()))
    if kind == "group":
        return nn.GroupNorm(divisor(draw, channels), channels, eps=eps)
    if kind == "instance":
        affine, tracked = draw(st.booleans()), draw(st.booleans())
        make = of_rank("InstanceNorm", rank)
        return make(channels, eps=eps, affine=affine, track_running_stats=tracked)
    if kind == "layer":
        return nn.LayerNorm((channels, *extents), eps=eps)
    return Apply(
        "layer norm of channels",
        lambda x, part: part(x.movedim(1, -1)).movedim(-1, 1),
        nn.LayerNorm(channels, eps=eps),
    )


def activation(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    return one_of(draw, *ACTIVATIONS)()


def max_pool(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    rank = len(extents)
    kernel = some(draw, rank, 2, 3)
    return of_rank("MaxPool", rank)(
        kernel,
        stride=some(draw, rank, 1, 2, 3),
        padding=some(draw, rank, 0, 0, 1),
        dilation=some(draw, rank, 1, 1, 2),
        ceil_mode=draw(st.booleans()),
    )


def mean_pool(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    rank = len(extents)
    more = {}
    if rank > 1 and draw(st.booleans()):
        more["divisor_override"] = one_of(draw, 2, 5)
    return of_rank("AvgPool", rank)(
        one_of(draw, 2, 3),
        stride=one_of(draw, 1, 2, 3),
        padding=one_of(draw, 0, 1),
        ceil_mode=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
        **more,
    )


def adaptive_pool(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    rank = len(extents)
    kind = one_of(draw, "AdaptiveAvgPool", "AdaptiveMaxPool")
    return of_rank(kind, rank)(some(draw, rank, 2, 3, 5))


def norm_pool(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    return of_rank("LPPool", len(extents))(
        2, one_of(draw, 2, 3), stride=one_of(draw, None, 1), ceil_mode=draw(st.booleans())
    )


def squeeze_excitation(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    make = of_rank("Conv", len(extents))
    axes = tuple(range(2, 2 + len(extents)))
    return Apply(
        "x * gate(means of x)",
        lambda x, part: x * part(x.mean(axes, keepdim=True)),
        nn.Sequential(make(channels, 2, 1), nn.ReLU(), make(2, channels, 1), nn.Sigmoid()),
    )


def spatial_gate(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    make = of_rank("Conv", len(extents))
    return Apply(
        "x * gate(channels of x)",
        lambda x, part: x * part(torch.cat([x.mean(1, True), x.amax(1, True)], 1)).sigmoid(),
        make(2, 1, 3, padding=1),
    )


def crop(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    axis = draw(st.integers(1, len(extents)))
    extent = (channels, *extents)[axis]
    start, step = draw(st.integers(0, min(2, extent - 1))), one_of(draw, 1, 1, 2)
    stop = draw(st.integers(start + 1, extent))
    at = (slice(None),) * (axis + 1)
    text = f"slice {start}:{stop}:{step} of axis {axis + 1}"
    return Apply(text, lambda x: x[(*at, slice(start, stop, step))])


def channel_slice(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    start = draw(st.integers(0, channels - 1))
    stop = draw(st.integers(start + 1, channels))
    return Apply(f"channels {start}:{stop}", lambda x: x[:, start:stop])


def pad(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    mode = one_of(draw, "constant", "constant", "reflect", "replicate", "circular")
    low = -1 if mode == "constant" else 0
    widths = [draw(st.integers(low, 2)) for _ in range(2 * len(extents))]
    value = one_of(draw, 0.0, 0.0, 1.5) if mode == "constant" else None
    return Apply(f"pad {widths} {mode} {value}", lambda x: F.pad(x, widths, mode, value))


def upsample(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    mode = one_of(draw, "nearest", "linear", "nearest-exact")
    more: dict[str, Any] = {"mode": mode}
    if mode == "linear":
        more["mode"] = ("linear", "bilinear", "trilinear")[len(extents) - 1]
        more["align_corners"] = draw(st.booleans())
    if draw(st.booleans()):
        more["scale_factor"] = one_of(draw, 2, 1.5)
    else:
        more["size"] = tuple(n + one_of(draw, 0, 1, 3) for n in extents)
    return Apply(f"interpolate {more}", lambda x: F.interpolate(x, **more))


def shuffle(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    groups = divisor(draw, channels)

    def mixed(x: Tensor) -> Tensor:
        n, c, *rest = x.shape
        return x.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)

    return Apply(f"channel shuffle in {groups} groups", mixed)


def arithmetic(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    text, fn = one_of(
        draw,
        ("x * 0.5 - 1", lambda x: x * 0.5 - 1),
        ("1 / (1 + x * x)", lambda x: 1 / (1 + x * x)),
        ("clamp", lambda x: x.clamp(-0.7, 1.1)),
        ("x - mean over space", lambda x: x - x.mean(tuple(range(2, x.dim())), keepdim=True)),
        ("x / norm of channels", lambda x: x / (0.5 + x.square().sum(1, keepdim=True)).sqrt()),
        ("flip", lambda x: x.flip(-1)),
        ("swap the last axes", lambda x: x.transpose(-1, -2) if x.dim() > 3 else x),
        ("softmax over channels", lambda x: x.softmax(1)),
        ("softmax over the last axis", lambda x: x.softmax(-1)),
        ("maximum of shifted", lambda x: torch.maximum(x, x.roll(1, -1))),
    )
    return Apply(text, fn)


LAYERS = (
    plain_convolution, plain_convolution, convolution, convolution, pointwise, depthwise,
    transposed, norm, norm, activation, activation, activation, max_pool, mean_pool,
    adaptive_pool, norm_pool,
    squeeze_excitation, spatial_gate, crop, channel_slice, pad, upsample, shuffle, arithmetic,
)  # fmt: skip


def fits(layer: nn.Module, channels: int, extents: Shape, most: int) -> tuple[int, Shape] | None:
    """Channels and extents after a layer, where torch accepts the shape and it stays small."""
    try:
        with torch.no_grad():
            found = layer.eval()(torch.zeros(2, channels, *extents)).shape[1:]
    except (RuntimeError, ValueError, IndexError):
        return None
    if len(found) != 1 + len(extents) or not 0 < found.numel() <= most:
        return None
    return int(found[0]), tuple(found[1:])

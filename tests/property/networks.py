"""Random convolutional networks: stacks, branches and heads of layers, random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.property.layers import LAYERS, Apply, Draw, Shape, fits, of_rank, one_of

EXTENTS = {1: (6, 24), 2: (5, 12), 3: (3, 6)}
MOST_ELEMENTS = 1500


class Stack(nn.Module):
    """Layers in a row, some of whose results are outputs beside the last; then heads."""

    def __init__(self, body: list[nn.Module], taps: list[int], heads: list[nn.Module]) -> None:
        super().__init__()
        self.body, self.heads = nn.ModuleList(body), nn.ModuleList(heads)
        self.taps = taps

    def outputs(self, x: Tensor) -> Any:
        found = []
        for number, layer in enumerate(self.body):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        found += [head(x) for head in self.heads]
        return found[0] if len(found) == 1 else tuple(found)

    def forward(self, x: Tensor) -> Any:
        return self.outputs(x)


class Merged(nn.Module):
    """Two inputs, joined by an operation, before a stack."""

    def __init__(self, left: nn.Module, right: nn.Module, how: str, stack: Stack) -> None:
        super().__init__()
        self.left, self.right, self.how, self.stack = left, right, how, stack

    def forward(self, a: Tensor, b: Tensor) -> Any:
        x, y = self.left(a), self.right(b)
        if self.how == "cat":
            return self.stack.outputs(torch.cat([x, y], 1))
        return self.stack.outputs(
            {"add": x + y, "mul": x * y, "max": torch.maximum(x, y)}[self.how]
        )


@dataclass(frozen=True)
class Network:
    """A model with the shapes of its inputs (channels first, no batch axis)."""

    model: nn.Module
    shapes: tuple[Shape, ...]
    double: bool

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.double else torch.float32

    def images(self, seed: int) -> tuple[Tensor, ...]:
        """One value per input, representable in float32 so that fills and images are the same."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(s, generator=generator).to(self.dtype) for s in self.shapes)


def _stack(draw: Draw, channels: int, extents: Shape, most: int) -> tuple[nn.Module, int, Shape]:
    """A few layers in a row that keep within the size."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, most))):
        layer = one_of(draw, *LAYERS)(draw, channels, extents)
        after = fits(layer, channels, extents, MOST_ELEMENTS)
        if after is not None:
            layers.append(layer)
            channels, extents = after
    return nn.Sequential(*layers), channels, extents


def _block(draw: Draw, channels: int, extents: Shape) -> tuple[nn.Module, int, Shape]:
    """Layers in a row, a residual block, or a concatenation of branches."""
    kind = one_of(draw, "row", "row", "residual", "concat")
    inner, c, after = _stack(draw, channels, extents, 3)
    if kind == "row":
        return inner, c, after
    if kind == "residual":
        if after != extents:
            return inner, c, after
        if c == channels or 1 in (c, channels):
            made = Apply("x + block(x)", lambda x, part: x + part(x), inner)
            return made, max(c, channels), extents
        matched = of_rank("Conv", len(extents))(channels, c, 1, bias=False)
        made = Apply("shortcut(x) + block(x)", lambda x, a, b: a(x) + b(x), matched, inner)
        return made, c, extents
    other, more, own = _stack(draw, channels, extents, 2)
    if own != after:
        return inner, c, after
    made = Apply("cat", lambda x, a, b: torch.cat([a(x), b(x)], 1), inner, other)
    return made, c + more, after


def _head(draw: Draw, channels: int, extents: Shape) -> nn.Module:
    space = tuple(range(2, 2 + len(extents)))
    flat = channels * math.prod(extents)
    kind = one_of(
        draw, "dense", "linear", "linear", "mean", "mean", "amax", "sum", "pooled", "cell"
    )
    if kind == "dense":
        return Apply("dense", lambda x: x * 1.0)
    if kind == "linear":
        head: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(flat, 3))
    elif kind == "mean":
        head = nn.Sequential(Apply("mean", lambda x: x.mean(space)), nn.Linear(channels, 4))
    elif kind == "amax":
        head = Apply("amax", lambda x: x.amax(space))
    elif kind == "sum":
        head = Apply("sum of the last axis", lambda x: x.sum(-1))
    elif kind == "cell":
        head = Apply("the first cell", lambda x: x.flatten(2)[:, :, 0])
    else:
        cells = of_rank("AdaptiveAvgPool", len(extents))(2)
        count = channels * 2 ** len(extents)
        head = nn.Sequential(cells, nn.Flatten(), nn.Linear(count, 3), nn.ReLU(), nn.Linear(3, 2))
    ending = one_of(draw, None, None, "softmax", "log_softmax")
    if ending is None:
        return head
    return Apply(ending, lambda x, part: getattr(part(x), ending)(1), head)


def _randomize(model: nn.Module, seed: int) -> None:
    """Weights that neither shrink nor blow up signals, and statistics that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            noise = torch.randn(value.shape, generator=generator)
            if not value.is_floating_point():
                continue
            if "running_var" in name:
                value.copy_(0.5 + noise.abs())
            elif value.dim() > 1:
                value.copy_(1.4 * noise / math.sqrt(max(1, value[0].numel())))
            elif name.endswith("weight"):
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_(0.3 * noise)


@st.composite
def networks(draw: Draw, double: bool) -> Network:
    """A random network; every parameter of every layer is drawn."""
    rank = one_of(draw, 1, 2, 2, 2, 3)
    shape = (one_of(draw, 1, 2, 3), *(draw(st.integers(*EXTENTS[rank])) for _ in range(rank)))
    channels, extents = shape[0], shape[1:]
    shapes: tuple[Shape, ...] = (shape,)
    how = one_of(draw, None, None, None, None, "add", "mul", "max", "cat")
    if how is not None:
        second = (one_of(draw, 1, 2), *extents)
        shapes = (shape, second)
        channels = 4
        make = of_rank("Conv", rank)
        left, right = make(shape[0], channels, 3, padding=1), make(second[0], channels, 1)
        channels *= 2 if how == "cat" else 1
    body: list[nn.Module] = []
    taps: list[int] = []
    for number in range(draw(st.integers(1, 4))):
        block, channels, extents = _block(draw, channels, extents)
        body.append(block)
        if draw(st.integers(0, 7)) == 0:
            taps.append(number)
    heads = [_head(draw, channels, extents) for _ in range(one_of(draw, 1, 1, 1, 2))]
    stack = Stack(body, taps, heads)
    model: nn.Module = stack if how is None else Merged(left, right, how, stack)
    _randomize(model, draw(st.integers(0, 2**16)))
    model.eval()
    if double:
        model.double()
    return Network(model, shapes, double)

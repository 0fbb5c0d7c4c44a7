"""In-place operators become functional ones where that is safe; elsewhere torch does it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.frontend.export import export
from kqo.frontend.record import record
from tests.asking import assert_answers

Body = Callable[[nn.Module, Tensor], Tensor]


class InPlace(nn.Module):
    """A convolution, and what is done with its result in place."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv, self.other, self.body = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _plain(m: nn.Module, x: Tensor) -> Tensor:
    return m.conv(x).relu_().mean((2, 3))


def _read_later(m: nn.Module, x: Tensor) -> Tensor:
    """The name that was written by is read again: it has the new value."""
    y = m.conv(x)
    z = y.relu_()
    return (y - 2 * z).mean((2, 3))


def _read_before(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    old = y * 3
    y.add_(m.other(x)).relu_()
    return torch.cat([old, y], 1).mean((2, 3))


def _view_before(m: nn.Module, x: Tensor) -> Tensor:
    """A view sees what is written after it was taken."""
    y = m.conv(x)
    v = y[:, :2]
    y.relu_()
    return v.mean((2, 3))


def _through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    y[:, :2].relu_()
    return y.mean((2, 3))


def _dropout(m: nn.Module, x: Tensor) -> Tensor:
    """What gives its argument back shares its memory, too."""
    y = m.conv(x)
    v = nn.functional.dropout(y, 0.5, training=False)
    y.relu_()
    return v.mean((2, 3))


def _input(m: nn.Module, x: Tensor) -> Tensor:
    z = x * 1
    x.relu_()
    return m.conv(x).mean((2, 3)) + m.conv(z).mean((2, 3))


@pytest.mark.parametrize("body", [_plain, _read_later, _read_before, _dropout])
def test_what_stands_alone_is_rewritten(body: Body) -> None:
    torch.manual_seed(0)
    model = InPlace(body).eval()
    image = torch.randn(1, 3, 8, 8)
    program = record(model, (image.expand(2, 3, 8, 8),))
    assert program is not None
    program.graph.lint()
    names = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert names and not any("_." in name for name in names)
    assert_answers(model, (image,), kqo.Occlusion(3, 2))


@pytest.mark.parametrize("body", [_view_before, _through_a_view, _input])
def test_what_shares_memory_is_left_to_torch(body: Body) -> None:
    torch.manual_seed(0)
    model = InPlace(body).eval()
    image = torch.randn(1, 3, 8, 8)
    assert record(model, (image.expand(2, 3, 8, 8),)) is None
    names = [str(n.target) for n in export(model, (image,)).graph.nodes if n.op == "call_function"]
    assert names and not any("_." in name for name in names)


@pytest.mark.parametrize("body", [_view_before, _through_a_view])
def test_what_shares_memory_is_answered_as_by_pytorch(body: Body) -> None:
    torch.manual_seed(0)
    assert_answers(InPlace(body).eval(), (torch.randn(1, 3, 8, 8),), kqo.Occlusion(3, 2))


def test_a_program_that_is_given_stays_as_it_is() -> None:
    torch.manual_seed(0)
    program = torch.export.export(InPlace(_plain).eval(), (torch.randn(2, 3, 8, 8),))
    before = str(program.graph)
    kqo.compile(program, None, kqo.Occlusion(3, 2))
    assert str(program.graph) == before

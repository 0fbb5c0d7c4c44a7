"""Plans that random networks found: what they hold is odd, and right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.ir.nodes import Rekey, Scan
from kqo.ir.schema import axes_of, positions
from kqo.runtime.plain import moved_columns


def check(model: nn.Module, shape: tuple[int, ...], **options: object) -> None:
    torch.manual_seed(0)
    model = model.double().eval()
    image = torch.randn(*shape, dtype=torch.float64)
    plan = kqo.compile(model, (image[None],), kqo.Occlusion(2, 2), kqo.Options(**options))
    result = plan.run(image.numpy())
    lo = plan.placed.starts
    for at, found in zip(lo, result.scores, strict=True):
        changed = image.clone()
        changed[(slice(None), *(slice(int(a), int(a) + 2) for a in at[-(len(shape) - 1) :]))] = 0
        with torch.no_grad():
            np.testing.assert_allclose(found, model(changed[None])[0], atol=1e-12)


class EdgesOfOneRow(nn.Module):
    """Replicates the edges of a relation with one row, whose key then does not vary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, (4, 3), padding=(0, 1))
        self.second = nn.Conv2d(3, 2, 2, padding=2, padding_mode="replicate", dilation=(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).flatten(1)


def test_a_key_that_does_not_vary() -> None:
    check(EdgesOfOneRow(), (2, 4, 8))


class Edges(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 4), mode="circular").amax(1)


@pytest.mark.parametrize("without", [("DropIdentityJoin",), ("DropIdentityJoin", "delta")])
def test_a_join_with_one_empty_key_reads_no_rows(without: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.MaxPool1d(4), Edges(), nn.Flatten())
    check(model, (2, 16), without=without)


class PaddedChannels(nn.Module):
    """Pads the channels before a convolution that keeps them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, (0, 0, 1, 0, 1, 1))).flatten(1)


def test_padded_channels_that_the_kernel_has_too() -> None:
    check(PaddedChannels(), (2, 6, 6))


class Renumbered(nn.Module):
    """Renumbers keys between two convolutions."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = nn.Conv2d(2, 12, 3, padding=1)
        self.second = nn.Conv2d({"pixels": 3}.get(how, 12), 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        if self.how == "shuffle":
            x = x.view(n, 3, 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        elif self.how == "thrice":
            x = x.view(n, 2, 2, 3, h, w).permute(0, 3, 1, 2, 4, 5).reshape(n, c, h, w)
        elif self.how == "pixels":
            x = nn.functional.pixel_shuffle(x, 2)
        else:
            x = x.transpose(2, 3)
        return self.second(x).flatten(1)


@pytest.mark.parametrize(
    ("how", "whole_rows"), [("shuffle", True), ("thrice", True), ("pixels", False), ("turn", False)]
)
@pytest.mark.parametrize("without", [(), ("delta",)])
def test_renumbered_keys(how: str, whole_rows: bool, without: tuple[str, ...]) -> None:
    check(Renumbered(how), (2, 6, 4), without=without)
    plan = kqo.compile(Renumbered(how).eval(), (torch.zeros(1, 2, 6, 4),), kqo.Occlusion(2, 2))
    nodes = [step.node for step in plan.physical.steps if isinstance(step.node, Rekey)]
    moved = [moved_columns(node) for node in nodes if positions(node.axes)]
    assert moved and all(columns is not None for columns in moved) == whole_rows


def test_columns_of_renumbered_features() -> None:
    source = Scan("x", axes_of(a=2, y=5, b=3))
    turned = Rekey(source, ("b", "a", "y"), axes_of(c=6, y=5))
    columns = moved_columns(turned)
    assert columns is not None and columns.tolist() == [0, 3, 1, 4, 2, 5]
    assert moved_columns(Rekey(source, ("a", "b", "y"), axes_of(c=6, x=5))) is None
    assert moved_columns(Rekey(source, ("a", "y", "b"), axes_of(c=10, d=3))) is None


class Signs(nn.Module):
    """Counts with comparisons."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (x.sign() - 2.0 * (x > 0.3)).flatten(1)


@pytest.mark.parametrize("without", [(), ("physical",), ("delta", "physical")])
def test_signs_are_numbers(without: tuple[str, ...]) -> None:
    check(Signs(), (1, 6, 6), without=without)


class Unfolded(nn.Module):
    """Windows whose elements are kept, and worked on one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.conv(x).unfold(3, 3, 2).unfold(2, 2, 2)
        return torch.cat([windows.exp().sum((-1, -2)).flatten(1), windows.amax(4).flatten(1)], 1)


@pytest.mark.parametrize("without", [(), ("delta",), ("physical",)])
def test_windows_that_are_kept(without: tuple[str, ...]) -> None:
    check(Unfolded(), (2, 6, 7), without=without)


class SomeChannels(nn.Module):
    """A linear layer that reads some channels only, padded: a join with its kernel leaves out the
    others, and is no matrix product of whole rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 6, 1), nn.Linear(3 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(nn.functional.pad(self.conv(x)[:, :3], (2, 1, 1, 1)).flatten(1))


def test_a_kernel_of_some_channels_is_no_matrix_product() -> None:
    model = SomeChannels()
    check(model, (2, 6, 5))
    plan = kqo.compile(model, (torch.zeros(1, 2, 6, 5),), kqo.Occlusion(2, 2))
    assert {s.name for s in plan.physical.steps if s.rule == "GatherProduct"} == {"conv"}

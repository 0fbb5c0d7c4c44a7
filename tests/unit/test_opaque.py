"""What has no relational form: torch runs it, and the rest of the plan goes on around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.errors import ExportError, PlanFileError, UnsupportedOperator
from kqo.frontend import lower
from kqo.ir.nodes import Opaque
from tests.asking import assert_answers
from tests.unit.lowering import Function, noise

OCCLUSION = kqo.Occlusion(window=4, stride=4)


class Spectral(nn.Module):
    """A Fourier transform in the middle, and a sort of which both results are used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.after = nn.Conv2d(4, 2, 3)
        self.scale = nn.Parameter(torch.rand(7))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.conv(x))
        y = torch.fft.irfft2(torch.fft.rfft2(y) * self.scale, s=y.shape[-2:]) + y
        values, order = y.view(y.shape[0], 4, -1).sort(-1)
        z = self.after(y * values.mean(-1)[:, :, None, None])
        return z.mean((2, 3)), order.to(x.dtype).mean(-1)


@pytest.fixture(scope="module")
def spectral() -> nn.Module:
    torch.manual_seed(0)
    return Spectral().double().eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_those_of_the_model(spectral, dtype) -> None:
    model = spectral.to(dtype)
    plan = assert_answers(model, (noise(1, 3, 12, 12).to(dtype),), OCCLUSION)
    found = [n for n in plan.logical.nodes() if isinstance(n, Opaque)]
    assert sorted((n.name, n.index) for n in found) == [
        ("torch__fft_r2c", 0), ("torch_sort", 0), ("torch_sort", 1)
    ]  # fmt: skip
    spectral.double()


def test_without_rules_too(spectral) -> None:
    options = kqo.Options(without=("delta", "batch", "physical", "normalize"))
    assert_answers(spectral, (noise(1, 3, 12, 12),), OCCLUSION, options)


def test_explain_names_operators_layer_and_line() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).sort(-1).values

    model = nn.Sequential(nn.Conv2d(3, 2, 3), Sorted()).eval()
    text = kqo.compile(model, (torch.zeros(1, 3, 9, 9),), OCCLUSION).explain()
    assert "torch runs sort in 1 (test_opaque.py:" in text
    assert "locality ends at 1" in text


def test_strict_is_an_error(spectral) -> None:
    with pytest.raises(UnsupportedOperator, match=r"fft.*test_opaque\.py"):
        kqo.compile(spectral, (noise(1, 3, 12, 12),), OCCLUSION, kqo.Options(strict=True))


def test_a_plan_file_cannot_hold_it(spectral, tmp_path) -> None:
    plan = kqo.compile(spectral, (noise(1, 3, 12, 12),), OCCLUSION)
    with pytest.raises(PlanFileError, match=r"data, and torch runs .*sort"):
        plan.save(tmp_path / "plan.kqo")
    assert not list(tmp_path.iterdir())


def test_before_and_after_do_not_meet_in_one_subgraph() -> None:
    def forward(x: Tensor) -> Tensor:
        a = x.cumsum(-1).sort(-1).values
        b = torch.relu(a)  # has a relational form, between two sorts
        return b.sort(-2).values + a

    lowered = lower(Function(forward).eval(), (noise(1, 2, 5, 4),), strict=False)
    assert len(lowered.opaques) == 2
    assert_answers(Function(forward), (noise(1, 2, 5, 4),), kqo.Occlusion(window=2, stride=2))


def test_integers_and_half_precision() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.sort(1).indices.cumsum(-1).sort(-1).values.to(x.dtype) + x.half().sort(-1).values

    x = torch.randn(1, 3, 5, 4, generator=torch.Generator().manual_seed(1)).half().float()
    plan = kqo.compile(Function(forward).eval(), (x,), kqo.Occlusion(window=2, stride=2))
    with torch.no_grad():
        wanted = Function(lambda v: forward(v).float())(x)[0]
    np.testing.assert_allclose(plan.run(x).original, wanted, rtol=2e-3)


def test_a_subgraph_whose_shapes_hold_the_batch_size() -> None:
    def forward(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows = torch.arange(n)[:, None].expand(n, c).reshape(-1)
        return x.view(n * c, h * w).sort(-1).values.view(n, c, h, w) + 0.0 * rows.sum()

    assert_answers(Function(forward), (noise(1, 2, 4, 4),), kqo.Occlusion(window=2, stride=2))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda x: x.sort(0).values, "images of a batch"),
        (lambda x: x - x.flip(0), "images of a batch"),
        (lambda x: x + torch.rand_like(x), "random"),
        (torch.fft.rfft, "no relational form"),
    ],
)
def test_what_torch_cannot_run_for_one_image(forward, reason) -> None:
    with pytest.raises(UnsupportedOperator, match=reason):
        kqo.compile(Function(forward).eval(), (noise(1, 2, 4, 4),), OCCLUSION)


def branch(x: Tensor) -> Tensor:
    return x if x.mean() > 0 else -x


def loop(x: Tensor) -> Tensor:
    for _ in range(int(x.abs().max())):
        x = x / 2
    return x


def until(x: Tensor) -> Tensor:
    while x.abs().max().item() > 1:
        x = x / 2
    return x


@pytest.mark.parametrize("forward", [branch, loop, until])
def test_control_flow_on_data_is_said_in_plain_words(forward) -> None:
    with pytest.raises(ExportError, match=r"depends? on the values of its input") as error:
        kqo.compile(Function(forward).eval(), (noise(1, 2, 4, 4),), OCCLUSION)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


class Tokens(nn.Module):
    """A convolution whose positions attend to each other, as PyTorch's own layers do it: they mix
    batch and heads in one dimension, which only torch can follow."""

    def __init__(self, encoder: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 9, 8))
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.attend: nn.Module = nn.MultiheadAttention(8, 2, batch_first=True)
        if encoder:
            self.attend = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = encoder
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        y = self.attend(x) if self.encoder else self.attend(x, x, x, need_weights=False)[0]
        return self.head((x + y)[:, 0])


@pytest.mark.parametrize("encoder", [False, True])
def test_attention_of_pytorchs_own_layers(encoder) -> None:
    torch.manual_seed(0)
    model = Tokens(encoder).double().eval()
    plan = assert_answers(model, (noise(1, 3, 12, 12),), OCCLUSION)
    assert any(isinstance(node, Opaque) for node in plan.logical.nodes())


class Folded(nn.Module):
    """Writes into zeros of the input's type, which the exported graph makes on the way."""

    def forward(self, x: Tensor) -> Tensor:
        columns = nn.functional.unfold(x, 2, stride=2)
        return nn.functional.fold(columns.square(), (8, 8), 2, stride=2).flatten(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_have_the_type_that_they_have_in_the_model(dtype) -> None:
    plan = assert_answers(Folded(), (noise(1, 3, 8, 8).to(dtype),), OCCLUSION)
    assert [n.name for n in plan.logical.nodes() if isinstance(n, Opaque)] == ["torch_index_put"]

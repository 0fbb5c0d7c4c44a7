"""Einstein summation and tensordot, against PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kqo
from tests.unit.lowering import Function, check, noise

MATRIX, VECTOR, LONG = noise(3, 5, seed=1), noise(3, seed=2), noise(5, seed=3)
WHOLE, SOME, GROUPED = noise(4, 3, 6, 5, seed=4), noise(3, 2, 6, 4, seed=5), noise(3, 6, 2, seed=6)
PART = noise(3, 6, 5, seed=7)


@pytest.mark.parametrize(
    ("equation", "constants"),
    [
        ("bchw->bwhc", ()),
        ("bchw->bc", ()),
        ("bchw,cd->bdhw", (MATRIX,)),
        ("bchw,cd", (MATRIX,)),
        ("bchw,kchw->bk", (WHOLE,)),
        ("bchw,ckhl->bklw", (SOME,)),
        ("bchw,c->bhw", (VECTOR,)),
        ("bchw,c->bchw", (VECTOR,)),
        ("bchw,chd->bcdw", (GROUPED,)),
        ("bchw,p->bpchw", (VECTOR,)),
        ("bchw,cd,d->bhw", (MATRIX, LONG)),
        ("...w,w->...", (LONG,)),
        ("b...,...->b", (PART,)),
        ("...h, wh -> ...w", (noise(2, 5, seed=8),)),
    ],
)
def test_equations_with_constants(equation, constants) -> None:
    check(lambda x: torch.einsum(equation, x, *constants), noise(2, 3, 6, 5))


def test_equations_of_activations() -> None:
    x = noise(2, 3, 6, 5)
    check(lambda x: torch.einsum("bchw,bdhw->bcd", x, x * x), x)
    check(lambda x: torch.einsum("bchw,bc->bchw", x, x.mean((2, 3))), x)
    check(lambda x: torch.einsum("bchw,bc->bhw", x.mean(1, keepdim=True), x.mean((2, 3))), x)
    check(lambda x: torch.einsum("bchw,cd->bdhw", x.mean(1, keepdim=True), MATRIX), x)
    check(lambda x: torch.einsum("cd,bchw->bdhw", MATRIX, x), x)


def test_tensordot() -> None:
    check(lambda x: torch.tensordot(x, MATRIX, dims=([1], [0])), noise(2, 3, 6, 5))
    check(lambda x: torch.tensordot(x, PART, dims=3), noise(2, 3, 6, 5))


def test_a_kernel_in_an_equation_is_a_matrix_product() -> None:
    """And stays local: it costs what a 1x1 convolution does."""
    kernel = MATRIX.float()
    model = Function(lambda x: torch.einsum("bchw,cd->bdhw", x, kernel).relu()).eval()
    plan = kqo.compile(model, (torch.zeros(1, 3, 16, 16),), kqo.Occlusion(4, 4))
    (step,) = [s for s in plan.physical.steps if s.delta and s.form != "patch"]
    assert step.form == "gather_gemm"
    image = noise(1, 3, 16, 16).float()
    assert plan.run(image, verify=4).facts["error"] < 1e-5


def test_a_diagonal_is_run_by_torch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Function(lambda x: torch.einsum("bcii->bc", x)))
    plan = kqo.compile(model.eval(), (torch.zeros(1, 3, 6, 6),), kqo.Occlusion(2, 2))
    assert "torch runs einsum" in plan.explain()

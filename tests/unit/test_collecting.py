"""The garbage collector is off while plans are made, and then as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import kqo
from kqo.collecting import collecting_paused
from kqo.errors import KqoError


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_as_before(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with collecting_paused():
        assert not gc.isenabled()
        with collecting_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
    with pytest.raises(ValueError), collecting_paused():
        raise ValueError
    assert gc.isenabled() is enabled


SEEN: list[bool] = []


class Sees(nn.Module):
    """Notes whether the collector was on when it was called."""

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(gc.isenabled())
        return x.relu()


def test_it_is_off_while_a_model_is_compiled() -> None:
    gc.enable()
    SEEN.clear()
    model = Sees().eval()
    plan = kqo.compile(model, (torch.zeros(1, 3, 8, 8),), kqo.Occlusion(3, 2))
    assert SEEN == [False]
    assert gc.isenabled()
    assert plan.source
    assert gc.isenabled()


def test_it_is_on_after_an_error() -> None:
    gc.enable()
    with pytest.raises(KqoError):
        kqo.compile(Sees(), (torch.zeros(1, 3, 8, 8),), kqo.Occlusion(3, 2))
    assert gc.isenabled()


def test_only_what_was_made_meanwhile_is_looked_at() -> None:
    gc.enable()
    for _ in range(gc.get_threshold()[1] + 1):  # older objects are due
        gc.collect(0)
    generations: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    gc.callbacks.append(note)
    try:
        with collecting_paused():
            made = [[[]] for _ in range(2 * gc.get_threshold()[0])]
            assert not generations
        assert made
    finally:
        gc.callbacks.remove(note)
    assert generations == [0]

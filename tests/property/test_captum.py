"""kqo's Occlusion gives what Captum's gives, on random inputs, windows and arguments."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.captum_pair import agree, ask

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Net(nn.Module):
    """A convolution for each input, summed up; dense or one value per class; perhaps gated."""

    def __init__(self, rank: int, channels: list[int], dense: bool, stride: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList(
            CONVOLUTIONS[rank](c, 3, 3, stride=stride, padding=1) for c in channels
        )
        self.head = nn.Linear(3, 4)
        self.dense = dense

    def forward(self, *args: Tensor) -> Tensor:
        pairs = zip(self.stems, args, strict=False)
        found = torch.relu(sum(stem(x) for stem, x in pairs))
        for gate in args[len(self.stems) :]:
            found = found * gate
        return found if self.dense else self.head(found.flatten(2).mean(-1))


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """A network, its inputs and every argument of ``attribute``."""
    rank = draw(st.integers(1, 3))
    examples = draw(st.integers(1, 3))
    inputs = draw(st.integers(1, 2))
    extents = [draw(st.integers(3, {1: 12, 2: 7, 3: 4}[rank])) for _ in range(rank)]
    channels = [draw(st.integers(1, 3)) for _ in range(inputs)]
    dense = draw(st.booleans())
    seed = draw(st.integers(0, 10**6))
    torch.manual_seed(seed)
    net = Net(rank, channels, dense, draw(st.integers(1, 2)))
    tensors = tuple(torch.randn(examples, c, *extents) for c in channels)
    windows, strides = [], []
    for tensor in tensors:
        windows.append(tuple(draw(st.integers(1, n)) for n in tensor.shape[1:]))
        strides.append(
            tuple(
                draw(st.integers(max(1, w // 2), w if w < n else n + 1))
                for w, n in zip(windows[-1], tensor.shape[1:], strict=True)
            )
        )
    baselines = tuple(_baseline(draw, x) for x in tensors)
    gate = torch.randn(examples, 1, *(1,) * rank)
    question = {
        "inputs": tensors,
        "sliding_window_shapes": tuple(windows),
        "strides": tuple(strides),
        "baselines": draw(st.sampled_from([baselines, None])),
        "target": _target(draw, examples, rank, dense),
        "additional_forward_args": draw(st.sampled_from([None, gate, (gate,)])),
        "perturbations_per_eval": draw(st.integers(1, 9)),
    }
    if inputs == 1 and draw(st.booleans()):
        for name in ("inputs", "sliding_window_shapes", "strides"):
            question[name] = question[name][0]
        if question["baselines"] is not None:
            question["baselines"] = question["baselines"][0]
    if draw(st.integers(0, 4)) > 0:
        net = net.eval()
    return {"net": net, **question}


def _baseline(draw: st.DrawFn, x: Tensor) -> Any:
    kinds = [0, 0.5, -1.25, torch.randn(()), torch.randn(x.shape[-1]), torch.randn(x.shape[1:])]
    return draw(st.sampled_from([*kinds, torch.randn(1, *x.shape[1:]), torch.randn(x.shape)]))


def _target(draw: st.DrawFn, examples: int, rank: int, dense: bool) -> Any:
    if dense:
        places = [(draw(st.integers(0, 2)), *(0,) * rank) for _ in range(examples)]
        return draw(st.sampled_from([None, 1, places[0], places[0][:1], places]))
    numbers = [draw(st.integers(0, 3)) for _ in range(examples)]
    tensor = torch.tensor(numbers)
    return draw(st.sampled_from([None, numbers[0], numbers, tensor, tensor[:1], (numbers[0],)]))


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(questions())
def test_attributions_are_captums(question: dict[str, Any]) -> None:
    net = question.pop("net")
    windows = question.pop("sliding_window_shapes")
    own, other, said = ask(net, question.pop("inputs"), windows, **question)
    assert bool(said) == net.training, said
    agree(own, other)

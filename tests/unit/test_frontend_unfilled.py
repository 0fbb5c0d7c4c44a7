"""Tensors without values are those that PyTorch's own mode makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kqo.frontend.unfilled import result_of, unfilled

ATEN = torch.ops.aten
SIZES = st.integers(0, 5)
Draw = Callable[[st.SearchStrategy[Any]], Any]


def _known(tensor: Tensor) -> tuple[Any, ...]:
    flags = (tensor.requires_grad, isinstance(tensor, nn.Parameter), type(tensor))
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, *flags


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4),
        torch.zeros(()),
        torch.zeros(0, 2),
        torch.zeros(3, 4).t(),
        torch.zeros(1, 4).expand(3, 4),
        torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.zeros(3, dtype=torch.int64),
        nn.Parameter(torch.zeros(2, 2)),
        nn.Parameter(torch.zeros(2, 2, dtype=torch.float16), requires_grad=False),
        nn.Buffer(torch.zeros(2)),
        torch.eye(3).to_sparse(),
    ],
    ids=lambda tensor: f"{type(tensor).__name__}-{tuple(tensor.shape)}-{tensor.layout}",
)
def test_weights_are_as_pytorch_makes_them(tensor: Tensor) -> None:
    mode = FakeTensorMode()
    made, expected = unfilled(mode, tensor), mode.from_tensor(tensor, static_shapes=True)
    assert type(made) is FakeTensor
    if tensor.layout is torch.strided:
        assert _known(made) == _known(expected)
    else:
        assert made.layout is expected.layout


def _check(func: Any, *args: Any) -> bool:
    """Whether there is a result, which is then that of PyTorch."""
    mode = FakeTensorMode()
    fake = torch.utils._pytree.tree_map_only(Tensor, lambda t: unfilled(mode, t), args)
    with torch.no_grad(), mode:
        found = result_of(func, fake, {})
        try:
            expected = func(*fake)
        except (RuntimeError, IndexError, ValueError):
            assert found is None
            return False
    if found is None:
        return False
    assert _known(found) == _known(expected)
    if func._schema.is_mutable:
        assert found is fake[0]
        assert expected is fake[0]
    return True


@st.composite
def tensors(draw: Draw, *shape: int) -> Tensor:
    """Mostly one type, laid out in order; now and then something else."""
    dtype = draw(st.sampled_from([torch.float32] * 6 + [torch.float64, torch.int32, torch.bool]))
    tensor = torch.zeros(shape, dtype=dtype)
    layout = draw(st.integers(0, 9))
    if layout == 0 and len(shape) == 4:
        return tensor.to(memory_format=torch.channels_last)
    if layout == 1 and len(shape) > 1:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == 2 and shape:
        return tensor.narrow(0, 0, 1).expand(shape) if shape[0] else tensor
    return tensor


SHAPES = st.lists(SIZES, max_size=4)


@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.integers(0, 3))
    batch, inner, features = draw(st.integers(0, 2)), draw(SIZES), draw(SIZES) * (groups or 1)
    rank = draw(st.sampled_from([4, 4, 4, 3]))
    shape = (batch, draw(st.sampled_from([inner * groups, inner])), draw(SIZES), draw(SIZES))
    x = draw(tensors(*shape[-rank:]))
    weight = draw(tensors(features, inner, draw(SIZES), draw(SIZES)))
    bias = draw(st.none() | tensors(draw(st.sampled_from([features, features, 1]))))
    pair = st.tuples(st.integers(-1, 3), st.integers(0, 3)).map(list)
    _check(ATEN.conv2d.default, x, weight, bias, draw(pair), draw(pair), draw(pair), groups)


@given(st.data())
def test_linear_layers(data: st.DataObject) -> None:
    draw = data.draw
    x = draw(tensors(*draw(SHAPES)))
    inner = draw(st.sampled_from([*x.shape[-1:], 3]))
    weight = draw(tensors(*draw(st.sampled_from([(4, inner), (4, inner), (inner,)]))))
    bias = draw(st.none() | tensors(draw(st.sampled_from([4, 1]))))
    _check(ATEN.linear.default, x, weight, bias)


@given(st.data())
def test_concatenations(data: st.DataObject) -> None:
    draw = data.draw
    shape = draw(SHAPES)
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        other = [draw(st.sampled_from([n, n, n, 2])) for n in shape]
        parts.append(draw(tensors(*other[: draw(st.sampled_from([4, 4, 4, 1]))])))
    _check(ATEN.cat.default, parts, draw(st.integers(-4, 4)))


@given(st.data())
def test_values_by_themselves(data: st.DataObject) -> None:
    draw = data.draw
    x = draw(tensors(*draw(SHAPES)))
    func = draw(st.sampled_from([ATEN.relu, ATEN.relu_, ATEN.hardtanh, ATEN.hardtanh_]))
    _check(func.default, x)
    y = draw(tensors(*draw(st.sampled_from([x.shape, x.shape, (1,)]))))
    _check(draw(st.sampled_from([ATEN.add, ATEN.add_])).Tensor, x, y)


def test_the_usual_has_a_result() -> None:
    x, weight, one = torch.zeros(2, 4, 5, 5), torch.zeros(6, 2, 3, 3), torch.zeros(4)
    assert _check(ATEN.conv2d.default, x, weight, torch.zeros(6), [2, 1], [1, 0], [1, 2], 2)
    assert _check(ATEN.conv2d.default, x, torch.zeros(6, 4, 1, 1))
    assert _check(ATEN.linear.default, x, torch.zeros(3, 5), torch.zeros(3))
    assert _check(ATEN.cat.default, [x, torch.zeros(2, 1, 5, 5)], -3)
    assert _check(ATEN.batch_norm.default, x, one, None, one, one, False, 0.1, 1e-5, False)
    assert _check(ATEN.relu_.default, x)
    assert _check(ATEN.relu.default, x)
    assert _check(ATEN.add.Tensor, x, x)
    assert _check(ATEN.add_.Tensor, x, x)
    assert _check(ATEN.hardtanh_.default, x, 0.0, 6.0)


def test_where_gradients_are_asked_for_there_is_none() -> None:
    x = unfilled(FakeTensorMode(), nn.Parameter(torch.zeros(2)))
    with torch.enable_grad():
        assert result_of(ATEN.relu.default, (x,), {}) is None
    with torch.no_grad():
        assert result_of(ATEN.relu.default, (x,), {}) is not None
        assert result_of(ATEN.exp.default, (x,), {}) is None
        assert result_of(ATEN.add.Tensor, (x, x), {"alpha": 2}) is None

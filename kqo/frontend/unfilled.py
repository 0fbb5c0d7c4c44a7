"""Tensors without values: those of weights, and the results of the usual operators.

FakeTensorMode makes them of anything, by decomposing operators and looking at tensors from all
sides. That was nine tenths of the time in which a module was recorded; what most modules consist of
takes a few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

_ATEN = torch.ops.aten


def unfilled(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """What ``mode.from_tensor`` gives for a tensor with values."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return mode.from_tensor(tensor, static_shapes=True)
    empty = torch.empty_strided(
        tensor.shape,
        tensor.stride(),
        dtype=tensor.dtype,
        device="meta",
        requires_grad=tensor.requires_grad,
    )
    made = FakeTensor(mode, empty, tensor.device)
    made._is_param = type(tensor) is nn.Parameter
    return made


def result_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The result of an operator; None where it is not one of the usual, on the usual tensors, or
    has none."""
    find = _RESULTS.get(func)
    return None if find is None or kwargs or torch.is_grad_enabled() else find(*args)


def _new(shape: Sequence[int], like: FakeTensor) -> Tensor:
    with no_dispatch():
        empty = torch.empty(tuple(shape), dtype=like.dtype, device="meta")
    return FakeTensor(like.fake_mode, empty, like.device)


def _is_usual(*tensors: Any) -> bool:
    """Whether all hold floating-point numbers of one type, at least one each, in row-major order.

    Only what is laid out so has results that are laid out so.
    """
    first = tensors[0]
    for tensor in tensors:
        if type(tensor) is not FakeTensor or tensor.dtype is not first.dtype:
            return False
        stride = 1
        for size, found in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
            if found != stride or not size:
                return False
            stride *= size
    return bool(first.dtype.is_floating_point and all(t.device == first.device for t in tensors))


def _batch_norm(x: Tensor, *rest: Any) -> Tensor | None:
    fits = all(p is None or p.shape == x.shape[1:2] for p in rest[:4])
    if not fits or x.dim() < 2:
        return None
    return _new(x.shape, x) if isinstance(x, FakeTensor) and _is_usual(x) else torch.empty_like(x)


def _elementwise(x: Tensor, *numbers: Any) -> Tensor | None:
    if any(isinstance(n, Tensor) for n in numbers) or not _is_usual(x):
        return None
    assert isinstance(x, FakeTensor)
    return _new(x.shape, x)


def _in_place(x: Tensor, *numbers: Any) -> Tensor | None:
    return None if any(isinstance(n, Tensor) for n in numbers) or not _is_usual(x) else x


def _both(x: Any, y: Any) -> Tensor | None:
    return _new(x.shape, x) if _is_usual(x, y) and x.shape == y.shape else None


def _both_in_place(x: Any, y: Any) -> Tensor | None:
    return x if _is_usual(x, y) and x.shape == y.shape else None


def _cat(tensors: Sequence[Any], dim: int = 0) -> Tensor | None:
    if not tensors or not _is_usual(*tensors):
        return None
    shapes = [list(t.shape) for t in tensors]
    if not -len(shapes[0]) <= dim < len(shapes[0]):
        return None
    along = [shape.pop(dim) for shape in shapes if len(shape) == tensors[0].dim()]
    if len(along) < len(shapes) or any(shape != shapes[0] for shape in shapes):
        return None
    whole = list(tensors[0].shape)
    whole[dim] = sum(along)
    return _new(whole, tensors[0])


def _conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor | None:
    given = (x, weight) if bias is None else (x, weight, bias)
    if not _is_usual(*given) or x.dim() != 4 or weight.dim() != 4 or groups < 1:
        return None
    features, inner, *window = weight.shape
    if features % groups or x.shape[1] != inner * groups or min(*stride, *dilation) < 1:
        return None
    if (bias is not None and bias.shape != (features,)) or min(padding) < 0:
        return None
    axes = zip(x.shape[2:], window, stride, padding, dilation, strict=True)
    extents = [(n + 2 * pad - d * (k - 1) - 1) // s + 1 for n, k, s, pad, d in axes]
    return _new((x.shape[0], features, *extents), x) if min(extents) > 0 else None


def _linear(x: Any, weight: Any, bias: Any = None) -> Tensor | None:
    given = (x, weight) if bias is None else (x, weight, bias)
    if not _is_usual(*given) or weight.dim() != 2 or x.shape[-1:] != weight.shape[1:]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return _new((*x.shape[:-1], weight.shape[0]), x)


_RESULTS: dict[Any, Callable[..., Tensor | None]] = {
    _ATEN.batch_norm.default: _batch_norm,
    _ATEN.conv2d.default: _conv2d,
    _ATEN.linear.default: _linear,
    _ATEN.cat.default: _cat,
    _ATEN.relu.default: _elementwise,
    _ATEN.hardtanh.default: _elementwise,
    _ATEN.relu_.default: _in_place,
    _ATEN.hardtanh_.default: _in_place,
    _ATEN.add.Tensor: _both,
    _ATEN.add_.Tensor: _both_in_place,
}

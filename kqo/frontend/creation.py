"""Tensors that only take their shape from the input: constants as far as the plan goes."""

from __future__ import annotations

from typing import Any

import torch

from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.values import Constant, Number, Value


def _filled(at: Context, number: Number) -> Constant:
    value = torch.full((), float(number), dtype=torch.float64)
    return Constant(at.name, value.expand(at.shape))


@lowers("aten.zeros_like.default", "aten.new_zeros.default", kind="constant")
def zeros(at: Context, x: Value, *_: Any, **__: Any) -> Constant:
    """Zeros."""
    return _filled(at, 0)


@lowers("aten.ones_like.default", "aten.new_ones.default", kind="constant")
def ones(at: Context, x: Value, *_: Any, **__: Any) -> Constant:
    """Ones."""
    return _filled(at, 1)


@lowers("aten.full_like.default", kind="constant")
def full_like(at: Context, x: Value, fill_value: Number, **_: Any) -> Constant:
    """One number everywhere."""
    return _filled(at, fill_value)


@lowers("aten.new_full.default", kind="constant")
def new_full(at: Context, x: Value, size: Any, fill_value: Number, **_: Any) -> Constant:
    """One number everywhere."""
    return _filled(at, fill_value)

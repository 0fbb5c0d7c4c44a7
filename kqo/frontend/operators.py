"""Imports every module that lowers operators, so that they register themselves."""

from __future__ import annotations

from kqo.frontend import (
    activations,
    convolution,
    creation,
    einsum,
    elementwise,
    linear,
    normalization,
    padding,
    pooling,
    reductions,
    resize,
    scatter,
    shapes,
    slices,
)

LOADED = (
    activations,
    convolution,
    creation,
    einsum,
    elementwise,
    linear,
    normalization,
    padding,
    pooling,
    reductions,
    resize,
    scatter,
    shapes,
    slices,
)

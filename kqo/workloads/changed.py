"""The inputs of a workload's queries, written out: what full re-inference would be given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kqo.errors import ArgumentError
from kqo.workloads.base import Workload
from kqo.workloads.fill import GIVEN, Fill, aligned, gaussian

Array = NDArray[Any]


def changed_inputs(workload: Workload, image: Array, queries: ArrayLike) -> Array:
    """The input of each of the given queries: the image with the fill in the query's boxes.

    Args:
        workload: what changes.
        image: the untouched input, (C, ...), without a batch axis.
        queries: numbers of queries.

    Returns:
        (queries, C, ...): float64 where the image is, float32 otherwise.

    Raises:
        ArgumentError: where the workload does not fit the image.
    """
    placed = workload.resolve(image.shape)
    values = np.broadcast_to(fill_values(workload.fill, image), image.shape)
    numbers = np.asarray(queries, dtype=np.int64)
    found: Array = np.repeat(image[None].astype(_dtype(image)), len(numbers), axis=0)
    for row, query in zip(found, numbers, strict=True):
        mask = placed.mask(int(query))
        row[mask] = values[mask]
    return found


def fill_values(fill: Fill, image: Array) -> Array:
    """What a fill puts over an image (C, ...): an array that broadcasts to the image's shape."""
    if isinstance(fill, float):
        return np.asarray(fill, dtype=_dtype(image))
    if isinstance(fill, str) and fill == GIVEN:
        raise ArgumentError("fill", repr(fill), "a fill that does not depend on the run")
    if isinstance(fill, str):
        return _mean(image) if fill == "mean" else _blurred(image)
    return aligned(np.asarray(fill, dtype=_dtype(image)), image.shape)


def _dtype(image: Array) -> type:
    return np.float64 if image.dtype == np.float64 else np.float32


def _mean(image: Array) -> Array:
    axes = tuple(range(1, image.ndim))
    return np.asarray(image.mean(axis=axes, keepdims=True, dtype=np.float64), dtype=_dtype(image))


def _blurred(image: Array) -> Array:
    found = image.astype(np.float64)
    for axis in range(1, image.ndim):
        extent = image.shape[axis]
        taps, weight = gaussian(extent)
        tap = np.arange(extent)[None, :] - np.arange(extent)[:, None] + len(taps) // 2
        inside = (tap >= 0) & (tap < len(taps))
        matrix = np.where(inside, taps[np.clip(tap, 0, len(taps) - 1)], 0) / weight[:, None]
        found = np.moveaxis(np.tensordot(matrix, found, axes=(1, axis)), 0, axis)
    return np.asarray(found, dtype=_dtype(image))

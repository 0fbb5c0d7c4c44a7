"""What a :class:`kqo.ir.region.Shrink` means: where a relation changed by more than a threshold."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.keys import Mask
from kqo.ir.schema import Axes, is_position

Values = NDArray[Any]


def noticed(wide: Mask, old: Values, new: Values, axes: Axes, threshold: float) -> Mask:
    """The part of a region within the smallest box of positions around what changed enough.

    A position changed enough where the mean of the squared changes of its features is more than
    ``threshold`` squared times the variance of all old values; one that is not a number always is.

    Args:
        wide: the region, shape (queries, extents of the axes...).
        old: values of the base, which broadcast to that shape; numbers or rationals.
        new: values of the patch, alike.
        axes: key axes without the query.
        threshold: in standard deviations of the old values.
    """
    features = tuple(i + 1 for i, axis in enumerate(axes) if not is_position(axis.name))
    old, new = np.broadcast_to(old, wide.shape), np.broadcast_to(new, wide.shape)
    first = old[0].ravel()
    variance = ((first - first.sum() / first.size) ** 2).sum() / first.size
    squares = np.where(wide, new - old, 0) ** 2
    count = int(np.prod([wide.shape[i] for i in features], dtype=np.int64))
    mean = squares.sum(axis=features, keepdims=True) / count
    factor = Fraction(threshold) if isinstance(variance, Fraction) else threshold
    limit = factor**2 * variance
    found = wide.copy()
    for query in range(len(wide)):
        kept = ~np.asarray(mean[query] <= limit, dtype=bool)
        for i, axis in enumerate(axes):
            if is_position(axis.name):
                others = tuple(j for j in range(len(axes)) if j != i)
                held = np.flatnonzero(kept.any(axis=others))
                along = np.moveaxis(found[query], i, 0)
                along[: held[0] if held.size else len(along)] = False
                along[held[-1] + 1 if held.size else 0 :] = False
    return found

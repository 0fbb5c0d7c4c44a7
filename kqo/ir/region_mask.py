"""What a region means: boolean masks over all keys, by brute force.

This is the definition that :mod:`kqo.ir.boxes`, which computes with boxes, is tested against. It
gives the smallest set; any superset of a region is right as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kqo.errors import ArgumentError, PlanError
from kqo.ir.keys import Mask, key_grid, key_shape, keys_read
from kqo.ir.region import (
    Changed,
    Clip,
    Either,
    Everything,
    Image,
    Region,
    Regroup,
    Shift,
    Shrink,
    walk_regions,
)
from kqo.ir.schema import QUERY_AXIS, Axes, is_position, names

Box = Sequence[tuple[int, int]]
Masked = tuple[Axes, Mask]


def changed_mask(axes: Axes, boxes: Sequence[Sequence[Box]]) -> Mask:
    """The keys in some box, shape (queries, extents of the axes...).

    Args:
        axes: key axes of the base relation, without the query axis.
        boxes: per query a list of boxes; a box is one (lo, hi) per axis, hi exclusive. What lies
            outside the relation is cut off.

    Raises:
        ArgumentError: a box has another number of axes.
    """
    mask = np.zeros(key_shape((QUERY_AXIS, *axes), len(boxes)), dtype=bool)
    for query, some in enumerate(boxes):
        for box in some:
            if len(box) != len(axes):
                raise ArgumentError("boxes", box, f"one (lo, hi) for each axis of {names(axes)}")
            mask[query][tuple(slice(max(lo, 0), max(hi, 0)) for lo, hi in box)] = True
    return mask


def region_mask(
    region: Region,
    changed: Mapping[str, Masked],
    queries: int,
    known: dict[Region, Masked] | None = None,
) -> Masked:
    """The keys of a region, for every query.

    Args:
        region: the expression.
        changed: by base relation, its axes and the mask by :func:`changed_mask`.
        queries: number of queries.
        known: results so far, shared among calls; filled in.

    Returns:
        The region's key axes, without the query axis, and a mask of shape (queries, extents...).

    Raises:
        PlanError: the region relation of a base relation is missing.
    """
    known = {} if known is None else known
    for part in walk_regions(region):
        if part not in known:
            known[part] = _mask(part, changed, queries, known)
    return known[region]


def reorder(mask: Mask, axes: Axes, wanted: Sequence[str]) -> Mask:
    """A mask over (queries, axes...) with the axes put in another order."""
    return mask.transpose([0, *(1 + names(axes).index(name) for name in wanted)])


def _mask(
    region: Region, changed: Mapping[str, Masked], queries: int, known: Mapping[Region, Masked]
) -> Masked:
    if isinstance(region, Changed):
        if region.relation not in changed:
            raise PlanError(f"no boxes are given for the region relation of {region.relation}")
        return changed[region.relation]
    if isinstance(region, Everything):
        return region.into, np.ones(key_shape((QUERY_AXIS, *region.into), queries), dtype=bool)
    if isinstance(region, Either):
        axes, mask = known[region.of[0]]
        for part in region.of[1:]:
            other, more = known[part]
            mask = mask | reorder(more, other, names(axes))
        return axes, mask
    axes, mask = known[region.of]
    if isinstance(region, Image):
        return region.into, _image(region, axes, mask, queries)
    if isinstance(region, Shift):
        found = np.zeros(key_shape((QUERY_AXIS, *region.into), queries), dtype=bool)
        along = 1 + names(region.into).index(region.axis)
        moved = np.moveaxis(reorder(mask, axes, names(region.into)), along, 0)
        np.moveaxis(found, along, 0)[region.offset : region.offset + len(moved)] = moved
        return region.into, found
    if isinstance(region, Regroup):
        ordered = reorder(mask, axes, region.order)
        return region.into, ordered.reshape(key_shape((QUERY_AXIS, *region.into), queries))
    own = reorder(mask, axes, names(region.into))
    return region.into, own if isinstance(region, Shrink) else _clip(region, own)


def _image(region: Image, axes: Axes, mask: Mask, queries: int) -> Mask:
    """Output keys some key of which, over all taps, reads a key of the region."""
    output = (QUERY_AXIS, *region.into, *region.taps)
    bound = {condition.axis for condition in region.on}
    free = tuple(a for a in axes if a.name in bound or a in output)
    lost = tuple(i + 1 for i, a in enumerate(axes) if a not in free)
    index, exists = keys_read((QUERY_AXIS, *free), region.on, key_grid(output, queries), queries)
    reads = exists & np.asarray(mask.any(axis=lost))[index]
    whole = np.broadcast_to(reads, key_shape(output, queries))
    return np.asarray(whole.any(axis=tuple(range(1 + len(region.into), len(output)))))


def _clip(region: Clip, mask: Mask) -> Mask:
    """Cut to max(1, round(tau * extent)) keys of each position axis, around the hull's centre."""
    kept = mask.copy()
    for query in range(mask.shape[0]):
        for i, axis in enumerate(region.into):
            others = tuple(j for j in range(len(region.into)) if j != i)
            held = np.flatnonzero(mask[query].any(axis=others))
            if not is_position(axis.name) or not held.size or axis.extent is None:
                continue
            most = max(1, round(region.tau * axis.extent))
            width = int(held[-1] - held[0] + 1)
            if width > most:
                start = int(held[0]) + (width - most) // 2
                along = np.moveaxis(kept[query], i, 0)
                along[:start] = False
                along[start + most :] = False
    return kept

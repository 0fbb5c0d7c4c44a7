"""The verifier's part on regions: their key axes, and whether they are well formed."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from kqo.errors import PlanError
from kqo.ir.nodes import Node, Scan
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
from kqo.ir.schema import Axes, format_axes, names, size


def varies(region: Region) -> bool:
    """Whether the region differs between queries."""
    return any(isinstance(part, Changed) for part in walk_regions(region))


def region_axes(
    region: Region,
    relations: Mapping[str, Node],
    whole: bool,
    known: dict[Region, Axes | None],
) -> Axes | None:
    """The key axes of a region, checked on the way.

    Args:
        region: the expression.
        relations: base relations by name.
        whole: whether a base relation that is not among them is an error.
        known: results so far; filled in.

    Returns:
        The axes, or None where the region is over a base relation that is not known.

    Raises:
        PlanError: the region is not well formed.
    """
    for part in walk_regions(region):
        if part not in known:
            known[part] = _axes(part, relations, whole, known)
    return known[region]


def _axes(
    region: Region, relations: Mapping[str, Node], whole: bool, known: Mapping[Region, Axes | None]
) -> Axes | None:
    if isinstance(region, Changed):
        relation = relations.get(region.relation)
        if relation is None and not whole:
            return None
        if not isinstance(relation, Scan):
            raise PlanError(f"region of {region.relation}, which is no Scan of the plan")
        return relation.axes
    if isinstance(region, Everything):
        return region.into
    if isinstance(region, Either):
        return _either([known[part] for part in region.of])
    of = known[region.of]
    if of is None:
        return region.into
    if isinstance(region, Image):
        return _image(region, of)
    if isinstance(region, Shift):
        return _shift(region, of)
    if isinstance(region, Regroup):
        return _regroup(region, of)
    return _shrink(region, of) if isinstance(region, Shrink) else _clip(region, of)


def _either(parts: list[Axes | None]) -> Axes | None:
    if not parts:
        raise PlanError("region Either of nothing")
    found = [axes for axes in parts if axes is not None]
    for axes in found:
        if set(axes) != set(found[0]):
            raise PlanError(
                f"region Either: parts over {format_axes(found[0])} and {format_axes(axes)}"
            )
    return found[0] if found else None


def _image(region: Image, of: Axes) -> Axes:
    output = (*region.taps, *region.into)
    if len(set(names(output))) != len(output):
        raise PlanError(f"region Image: an axis occurs twice in {format_axes(output)}")
    bound = {condition.axis for condition in region.on}
    for condition in region.on:
        if condition.axis not in names(of):
            raise PlanError(f"region Image: {condition} binds no axis of {format_axes(of)}")
        for name in condition.reads:
            if name not in names(output):
                raise PlanError(f"region Image: {condition} reads {name}, no axis of the output")
    for axis in output:
        if axis.name in names(of) and axis.name not in bound and axis not in of:
            raise PlanError(f"region Image: axis {axis} of the output is none of {format_axes(of)}")
    return region.into


def _shift(region: Shift, of: Axes) -> Axes:
    extents, source = dict(region.into), dict(of)
    if region.axis not in source or set(extents) != set(source):
        raise PlanError(f"region Shift along {region.axis}: over {format_axes(of)}")
    for name, extent in source.items():
        room = (extents[name] or 0) - (region.offset if name == region.axis else 0)
        fits = room >= (extent or 0) if name == region.axis else room == extent
        if not fits or region.offset < 0:
            raise PlanError(
                f"region Shift by {region.offset} along {region.axis}: {format_axes(of)} does not "
                f"fit {format_axes(region.into)}"
            )
    return region.into


def _regroup(region: Regroup, of: Axes) -> Axes:
    if set(region.source) != set(of):
        raise PlanError(
            f"region Regroup: source {format_axes(region.source)}, the region is over "
            f"{format_axes(of)}"
        )
    if sorted(region.order) != sorted(names(region.source)):
        raise PlanError(f"region Regroup: order is no permutation of {format_axes(region.source)}")
    if size(region.source) != size(region.into):
        raise PlanError(
            f"region Regroup: {format_axes(region.source)} and {format_axes(region.into)} differ "
            "in size"
        )
    return region.into


def _clip(region: Clip, of: Axes) -> Axes:
    if not 0 < region.tau <= 1:
        raise PlanError(f"region Clip: tau {region.tau}; accepted: above 0, at most 1")
    if set(region.into) != set(of):
        raise PlanError(f"region Clip: over {format_axes(of)}, declared {format_axes(region.into)}")
    return region.into


def _shrink(region: Shrink, of: Axes) -> Axes:
    if not 0 <= region.threshold < inf:
        raise PlanError(f"region Shrink: threshold {region.threshold}; accepted: 0 or more")
    if set(region.into) != set(of):
        given = f"over {format_axes(of)}, declared {format_axes(region.into)}"
        raise PlanError(f"region Shrink: {given}")
    return region.into

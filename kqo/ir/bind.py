"""Symbolic regions evaluated, once positions are known."""

from __future__ import annotations

from collections.abc import Mapping

from kqo.errors import PlanError
from kqo.ir.boxes import Boxes, clip, everything, image, project, regroup, shift, union
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
)


class Known(dict[Region, Boxes]):
    """Boxes by region, of one set of positions, one object for equal ones.

    Few of a plan's hundreds of regions differ, and those of thousands of queries take megabytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alike: dict[tuple[object, ...], list[Boxes]] = {}
        self._projected: dict[tuple[Boxes, tuple[str, ...]], Boxes] = {}

    def one(self, boxes: Boxes) -> Boxes:
        """The boxes, or equal ones that were given before."""
        key = (boxes.axes, boxes.lo.shape, int(boxes.lo.sum()), int(boxes.hi.sum()))
        alike = self._alike.setdefault(key, [])
        found = next((other for other in alike if other is boxes or other.same(boxes)), None)
        if found is None:
            alike.append(boxes)
        return found or boxes

    def project(self, boxes: Boxes, axes: tuple[str, ...]) -> Boxes:
        """:func:`kqo.ir.boxes.project`, done once for the same boxes."""
        key = boxes, axes
        if key not in self._projected:
            self._projected[key] = self.one(project(boxes, axes))
        return self._projected[key]

    def clear(self) -> None:
        """Forget all boxes."""
        super().clear()
        self._alike.clear()
        self._projected.clear()


def bind(
    region: Region, changed: Mapping[str, Boxes], known: dict[Region, Boxes] | None = None
) -> Boxes:
    """Evaluate a symbolic region.

    Args:
        region: the expression.
        changed: boxes of each base relation's region relation, over the Scan's axes.
        known: results so far, shared among calls; filled in. Of a :class:`Known`, equal ones are
            one object.

    Raises:
        PlanError: the region relation of a base relation is missing.
    """
    known = {} if known is None else known
    found = known.get(region)
    if found is not None:
        return found
    if isinstance(region, Changed):
        if region.relation not in changed:
            raise PlanError(f"no positions are given for the region relation of {region.relation}")
        found = changed[region.relation]
    elif isinstance(region, Everything):
        queries = next(iter(changed.values())).queries
        found = everything(region.into, queries)
    elif isinstance(region, Either):
        found = union([bind(part, changed, known) for part in region.of])
    else:
        inner = bind(region.of, changed, known)
        if isinstance(region, Image):
            found = image(inner, region.on, region.taps, region.into)
        elif isinstance(region, Shift):
            found = shift(inner, region.axis, region.offset)
        elif isinstance(region, Regroup):
            found = regroup(inner, region.source, region.order, region.into)
        elif isinstance(region, Clip):
            found = clip(inner, region.tau, region.into)
        elif isinstance(region, Shrink):
            found = inner  # all that is known without values
        else:
            raise PlanError(f"unknown region {region!r}")
    known[region] = found = known.one(found) if isinstance(known, Known) else found
    return found

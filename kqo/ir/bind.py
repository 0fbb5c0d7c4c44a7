"""Symbolic regions evaluated, once positions are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
        self._made: dict[tuple[object, ...], Boxes] = {}

    def one(self, boxes: Boxes) -> Boxes:
        """The boxes, or equal ones that were given before."""
        key = (boxes.axes, boxes.lo.shape, int(boxes.lo.sum()), int(boxes.hi.sum()))
        alike = self._alike.setdefault(key, [])
        found = next((other for other in alike if other is boxes or other.same(boxes)), None)
        if found is None:
            alike.append(boxes)
        return found or boxes

    def once(self, make: Callable[..., Boxes], boxes: Boxes, *given: object) -> Boxes:
        """What is made of boxes, made once for the same ones: layers of one kind that read the same
        region have the same regions."""
        key = make, boxes, given
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self.one(make(boxes, *given))
        return found

    def project(self, boxes: Boxes, axes: tuple[str, ...]) -> Boxes:
        """:func:`kqo.ir.boxes.project`, done once for the same boxes."""
        return self.once(project, boxes, axes)

    def clear(self) -> None:
        """Forget all boxes."""
        super().clear()
        self._alike.clear()
        self._made.clear()


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
    one = known.one if isinstance(known, Known) else _as_it_is
    once = known.once if isinstance(known, Known) else _anew
    if isinstance(region, Changed):
        if region.relation not in changed:
            raise PlanError(f"no positions are given for the region relation of {region.relation}")
        found = one(changed[region.relation])
    elif isinstance(region, Everything):
        queries = next(iter(changed.values())).queries
        found = one(everything(region.into, queries))
    elif isinstance(region, Either):
        found = one(union([bind(part, changed, known) for part in region.of]))
    else:
        inner = bind(region.of, changed, known)
        if isinstance(region, Image):
            found = once(image, inner, region.on, region.taps, region.into)
        elif isinstance(region, Shift):
            found = once(shift, inner, region.axis, region.offset)
        elif isinstance(region, Regroup):
            found = once(regroup, inner, region.source, region.order, region.into)
        elif isinstance(region, Clip):
            found = once(clip, inner, region.tau, region.into)
        elif isinstance(region, Shrink):
            found = inner  # all that is known without values
        else:
            raise PlanError(f"unknown region {region!r}")
    known[region] = found
    return found


def _as_it_is(boxes: Boxes) -> Boxes:
    return boxes


def _anew(make: Callable[..., Boxes], boxes: Boxes, *given: object) -> Boxes:
    return make(boxes, *given)

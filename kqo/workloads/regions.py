"""Regions: queries given box by box; what every other workload of fixed places comes down to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kqo.errors import ArgumentError
from kqo.ir.plan import Plan
from kqo.workloads.base import check_input, overlay, pack
from kqo.workloads.fill import Fill, check_fill, check_fill_shape
from kqo.workloads.placed import Placed

Box = tuple[tuple[int, int], ...]
_BOXES = (
    "a sequence of queries, each a sequence of at least one box ((lo, hi), ...) with 0 <= lo < hi"
    " for each of the last axes"
)


@dataclass(frozen=True, eq=False)
class Regions:
    """One query per entry: the elements in all its boxes are replaced by the fill.

    Attributes:
        boxes: for every query its boxes, each ``((lo, hi), ...)`` for the last axes of the input,
            hi exclusive; axes that a box does not name are covered whole. Boxes of one query may
            overlap.
        fill: as in :class:`kqo.workloads.occlusion.Occlusion`.
        input: number or name of the input that changes.

    Raises:
        ArgumentError: for boxes that are empty or malformed; from :meth:`resolve` for those that
            reach beyond the input.
    """

    boxes: Sequence[Sequence[Sequence[tuple[int, int]]]]
    fill: Fill = 0.0
    input: int | str = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", _queries(self.boxes))
        object.__setattr__(self, "fill", check_fill(self.fill))
        object.__setattr__(self, "input", check_input(self.input))

    def _key(self) -> tuple[str, ...]:
        return tuple(repr(value) for value in self.to_dict().values())

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Regions) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __add__(self, other: Regions) -> Regions:
        """The queries of both, those of ``other`` last; they must agree in fill and input."""
        if not isinstance(other, Regions):
            return NotImplemented
        if repr(pack(self.fill)) != repr(pack(other.fill)) or self.input != other.input:
            raise ArgumentError("regions", "two with different fills or inputs", "equal ones")
        return Regions((*self.boxes, *other.boxes), self.fill, self.input)

    def resolve(self, input_shape: tuple[int, ...]) -> Placed:
        """The boxes on an input of this shape (channels first, no batch axis).

        Raises:
            ArgumentError: where a box reaches beyond the input, or the fill does not fit.
        """
        extents = tuple(int(n) for n in input_shape)
        check_fill_shape(self.fill, extents)
        query, lo, hi = [], [], []
        for number, boxes in enumerate(self.boxes):
            for box in boxes:
                whole = [(0, n) for n in extents[: len(extents) - len(box)]] + list(box)
                if len(whole) != len(extents) or any(
                    end > n for (_, end), n in zip(whole, extents, strict=True)
                ):
                    accepted = f"boxes inside an input of shape {extents}"
                    raise ArgumentError("boxes", tuple(box), accepted)
                query.append(number)
                lo.append([start for start, _ in whole])
                hi.append([end for _, end in whole])
        corners = np.array(lo, dtype=np.int64)
        owner = np.array(query, dtype=np.int64)
        starts = np.full((len(self.boxes), len(extents)), np.iinfo(np.int64).max)
        np.minimum.at(starts, owner, corners)
        return Placed(extents, owner, corners, np.array(hi, dtype=np.int64), starts)

    def apply(self, plan: Plan) -> Plan:
        """The plan with the changed input in place of the input, for all its readers."""
        return overlay(plan, self.input, self.fill)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as :func:`kqo.workloads.from_dict` takes them."""
        return {
            "kind": "regions",
            "boxes": self.boxes,
            "fill": pack(self.fill),
            "input": self.input,
        }


def _queries(given: object) -> tuple[tuple[Box, ...], ...]:
    if not isinstance(given, (tuple, list)) or not given:
        raise ArgumentError("boxes", repr(given), _BOXES)
    return tuple(_boxes(boxes) for boxes in given)


def _boxes(given: object) -> tuple[Box, ...]:
    if not isinstance(given, (tuple, list)) or not given:
        raise ArgumentError("boxes", repr(given), _BOXES)
    return tuple(_box(box) for box in given)


def _box(given: object) -> Box:
    try:
        array = np.array(given)
    except (TypeError, ValueError):
        raise ArgumentError("boxes", repr(given), _BOXES) from None
    right = array.ndim == 2 and array.shape[1:] == (2,) and array.dtype.kind in "iu" and len(array)
    if not right or (array[:, 0] < 0).any() or (array[:, 0] >= array[:, 1]).any():
        raise ArgumentError("boxes", repr(given), _BOXES)
    return tuple((int(lo), int(hi)) for lo, hi in array)

"""Occlusion: a window slides over the input; the model is asked again at each position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kqo.errors import ArgumentError
from kqo.ir.plan import Plan
from kqo.workloads.base import check_input, overlay, pack
from kqo.workloads.fill import Fill, check_fill, check_fill_shape
from kqo.workloads.placed import Ints, Placed
from kqo.workloads.regions import Regions

Steps = int | tuple[int, ...]
MOST_WINDOWS = 1 << 24
_STEPS = "a whole number from 1, or a tuple of them, one for each of the last axes"


@dataclass(frozen=True, eq=False)
class Occlusion:
    """One query per window position: the window's elements are replaced by the fill.

    Shapes are those of one input without the batch axis: channels first, then the spatial axes.

    Attributes:
        window: extent of the window in elements. A number applies to every spatial axis; a tuple of
            r numbers to the last r axes, channels included if it reaches them. Axes that it does
            not reach are covered whole.
        stride: distance between window starts, in elements: a number or a tuple, as for ``window``.
            It may be larger than the window. It must be given for each axis that the window does
            not cover whole.
        fill: what stands in the window, in the units of the tensor that the model sees: a number; a
            sequence of one number per channel; an array that broadcasts to the input; ``"mean"``,
            the image's mean per channel; ``"blur"``, the image under a Gaussian of 10 elements; or
            ``"given"``, passed with each image to :meth:`kqo.CompiledPlan.run`.
        positions: integer array (queries, window axes) of window starts, in place of the whole
            grid; a window that reaches beyond the input is clipped.
        roi: ``((lo, hi), ...)`` for the last axes, hi exclusive: a box that window starts must lie
            in.
        input: number or name of the input that is occluded.

    The grid is Captum's: ``ceil((extent - window) / stride) + 1`` window starts per axis from 0,
    the last window clipped at the border; starts that a stride larger than the window would put
    beyond the input are left out. Queries are ordered row-major, the last axis fastest. For
    windows of several sizes in one workload, or several windows in one query, see :meth:`regions`.

    Raises:
        ArgumentError: for values that are not accepted; from :meth:`resolve` and :meth:`apply` for
            those that do not fit the input.
    """

    window: Steps
    stride: Steps
    fill: Fill = 0.0
    positions: ArrayLike | None = None
    roi: tuple[tuple[int, int], ...] | None = None
    input: int | str = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "window", _steps("window", self.window))
        put(self, "stride", _steps("stride", self.stride))
        put(self, "fill", check_fill(self.fill))
        put(self, "input", check_input(self.input))
        if self.roi is not None:
            put(self, "roi", _pairs(self.roi))
        if self.positions is not None:
            put(self, "positions", _starts(self.positions))
            if self.roi is not None:
                raise ArgumentError("roi", repr(self.roi), "either roi or positions, not both")

    def _key(self) -> tuple[Any, ...]:
        return tuple(repr(value) for value in self.to_dict().values())

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Occlusion) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def resolve(self, input_shape: tuple[int, ...]) -> Placed:
        """The windows on an input of this shape (channels first, no batch axis).

        Raises:
            ArgumentError: where the window is larger than the input, a position lies outside of it,
                no window start lies in ``roi``, or the fill does not fit.
        """
        extents = tuple(int(n) for n in input_shape)
        check_fill_shape(self.fill, extents)
        window, stride = self._per_axis(extents)
        moved = extents[len(extents) - len(window) :]
        # A stride above the window's extent could put the last start beyond the input.
        grid = tuple(
            min(-(-(n - w) // s) + 1, -(-n // s))
            for n, w, s in zip(moved, window, stride, strict=True)
        )
        place = self._on_grid if self.positions is None else self._chosen
        starts, cells = place(moved, grid, stride)
        lo = np.zeros((len(starts), len(extents)), dtype=np.int64)
        hi = np.broadcast_to(np.array(extents, dtype=np.int64), lo.shape).copy()
        lo[:, -len(window) :] = starts
        hi[:, -len(window) :] = np.minimum(starts + np.array(window), np.array(moved))
        query = np.arange(len(starts), dtype=np.int64)
        return Placed(extents, query, lo, hi, starts, None if cells is None else grid, cells)

    def apply(self, plan: Plan) -> Plan:
        """The plan with the occluded input in place of the input, for all its readers."""
        return overlay(plan, self.input, self.fill)

    def regions(self, input_shape: tuple[int, ...]) -> Regions:
        """The same queries as explicit regions, which can be added up.

        Two sizes of window in one workload are
        ``Occlusion(8, 4).regions(shape) + Occlusion(16, 8).regions(shape)``.
        """
        placed = self.resolve(input_shape)
        boxes = [
            [list(zip(lo, hi, strict=True))]
            for lo, hi in zip(placed.lo.tolist(), placed.hi.tolist(), strict=True)
        ]
        return Regions(boxes, self.fill, self.input)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as :func:`kqo.workloads.from_dict` takes them."""
        return {
            "kind": "occlusion",
            "window": self.window,
            "stride": self.stride,
            "fill": pack(self.fill),
            "positions": pack(self.positions),
            "roi": self.roi,
            "input": self.input,
        }

    def _per_axis(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Window and stride on each of the last axes, as many as either of them reaches."""
        spatial = len(extents) - 1
        given = [v for v in (self.window, self.stride) if isinstance(v, tuple)]
        if spatial < 1 and not isinstance(self.window, tuple):
            accepted = f"a tuple, since an input of shape {extents} has no spatial axes"
            raise ArgumentError("window", self.window, accepted)
        reach = max([len(v) for v in given], default=spatial)
        if not isinstance(self.window, tuple) or not isinstance(self.stride, tuple):
            reach = max(reach, spatial)
        if reach > len(extents):
            name = "window" if len(extents) < np.size(self.window) else "stride"
            accepted = f"at most {len(extents)} numbers for an input of shape {extents}"
            raise ArgumentError(name, getattr(self, name), accepted)
        moved = extents[len(extents) - reach :]
        windows, strides = [], []
        for axis, extent in enumerate(moved, start=len(extents) - reach):
            window = _on_axis(self.window, axis - len(extents), axis > 0) or extent
            if window > extent:
                accepted = f"at most {extent} on axis {axis} of an input of shape {extents}"
                raise ArgumentError("window", self.window, accepted)
            stride = _on_axis(self.stride, axis - len(extents), axis > 0)
            if stride is None and window < extent:
                accepted = f"a stride for axis {axis} too, where the window is {window} of {extent}"
                raise ArgumentError("stride", self.stride, accepted)
            windows.append(window)
            strides.append(stride or extent)
        return tuple(windows), tuple(strides)

    def _on_grid(
        self, moved: tuple[int, ...], grid: tuple[int, ...], stride: tuple[int, ...]
    ) -> tuple[Ints, Ints | None]:
        if math.prod(grid) > MOST_WINDOWS:
            accepted = f"a stride for at most {MOST_WINDOWS} windows on an input of extents {moved}"
            raise ArgumentError("stride", repr(self.stride), accepted)
        steps = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1)
        starts = steps.reshape(-1, len(grid)).astype(np.int64) * np.array(stride)
        cells = np.arange(len(starts), dtype=np.int64)
        if self.roi is None:
            return starts, cells
        if len(self.roi) > len(grid):
            raise ArgumentError("roi", self.roi, f"at most {len(grid)} pairs, one per window axis")
        low, high = np.array(self.roi).T
        part = starts[:, -len(self.roi) :]
        inside = ((part >= low) & (part < high)).all(axis=1)
        if not inside.any():
            last = tuple((n - 1) * s for n, s in zip(grid, stride, strict=True))
            accepted = f"a box with window starts in it: they are 0 to {last}, every {stride}"
            raise ArgumentError("roi", self.roi, accepted)
        return starts[inside], cells[inside]

    def _chosen(
        self, moved: tuple[int, ...], grid: tuple[int, ...], stride: tuple[int, ...]
    ) -> tuple[Ints, Ints | None]:
        starts = np.asarray(self.positions, dtype=np.int64)
        if starts.shape[1] != len(moved):
            accepted = f"{len(moved)} numbers each, one per window axis"
            raise ArgumentError("positions", f"{starts.shape[1]} numbers each", accepted)
        outside = ((starts < 0) | (starts >= np.array(moved))).any(axis=1)
        if outside.any():
            first = tuple(starts[outside][0].tolist())
            raise ArgumentError("positions", first, f"window starts inside {moved}, from 0")
        steps = starts // np.array(stride)
        if (steps * np.array(stride) != starts).any() or (steps >= np.array(grid)).any():
            return starts, None
        cells: NDArray[np.int64] = np.ravel_multi_index(tuple(steps.T), grid).astype(np.int64)
        return starts, cells


def _on_axis(given: Steps, from_end: int, spatial: bool) -> int | None:
    """What a number or tuple says about one axis, counted from the end; None if nothing."""
    if isinstance(given, tuple):
        return given[from_end] if -from_end <= len(given) else None
    return given if spatial else None


def _whole(given: object) -> int | None:
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        return int(given)
    return None


def _steps(name: str, given: object) -> Steps:
    if (number := _whole(given)) is not None and number >= 1:
        return number
    if isinstance(given, (tuple, list)) and given:
        numbers = [_whole(value) for value in given]
        found = tuple(n for n in numbers if n is not None and n >= 1)
        if len(found) == len(numbers):
            return found
    raise ArgumentError(name, repr(given), _STEPS)


def _pairs(given: object) -> tuple[tuple[int, int], ...]:
    accepted = (
        "((lo, hi), ...) with 0 <= lo < hi, one pair of whole numbers for each of the last axes"
    )
    if not isinstance(given, (tuple, list)) or not given:
        raise ArgumentError("roi", repr(given), accepted)
    pairs = []
    for pair in given:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ArgumentError("roi", repr(given), accepted)
        lo, hi = map(_whole, pair)
        if lo is None or hi is None or not 0 <= lo < hi:
            raise ArgumentError("roi", repr(given), accepted)
        pairs.append((lo, hi))
    return tuple(pairs)


def _starts(given: object) -> Ints:
    accepted = "an integer array (queries, window axes) of window starts, at least one"
    try:
        found = np.array(given)
    except (TypeError, ValueError):
        raise ArgumentError("positions", repr(given), accepted) from None
    if found.ndim != 2 or not found.size or found.dtype.kind not in "iu":
        raise ArgumentError("positions", f"{found.dtype} of shape {found.shape}", accepted)
    starts = found.astype(np.int64)
    starts.setflags(write=False)
    return starts

"""Fills: what stands in place of the part of the input that a window hides, as a relation."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError
from kqo.ir.equations import window
from kqo.ir.nodes import Const, Group, Join, Node, Scan
from kqo.ir.schema import Axis, names, shape

Array = NDArray[np.floating]
Fill = float | str | Array | Sequence[float]

NAMED = ("mean", "blur")
GIVEN = "given"
BLUR_SIGMA = 10.0  # pixels, as in Fong and Vedaldi (ICCV 2017), section 4.2
_ACCEPTED = (
    "a number, one number per channel, an array that broadcasts to the input, 'mean', 'blur' or "
    "'given'"
)


def check_fill(given: object) -> float | str | Array:
    """A fill in its stored form: a float, a name, or a read-only array, of float64 where float32
    would round it.

    Raises:
        ArgumentError: for another name, for text that is no name, and for what is no array of
            numbers.
    """
    if isinstance(given, str):
        if given not in (*NAMED, GIVEN):
            raise ArgumentError("fill", repr(given), _ACCEPTED)
        return given
    try:
        values = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentError("fill", repr(given), _ACCEPTED) from None
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ArgumentError("fill", "a value that is not finite", "finite numbers")
    if values.ndim == 0:
        return float(values)
    found: Array = rounded if (rounded == values).all() else values
    found.setflags(write=False)
    return found


def check_fill_shape(fill: Fill, extents: tuple[int, ...]) -> None:
    """Raises ArgumentError where a fill does not broadcast to an input of the given shape."""
    if not isinstance(fill, (float, str)):
        aligned(np.asarray(fill, dtype=np.float32), extents)


def aligned(fill: Array, extents: tuple[int, ...]) -> Array:
    """The fill with one axis per axis of the input: its own extent, or 1 where it does not vary."""
    rank = len(extents)
    if fill.ndim == 1 and rank > 1:
        # A list is one value per channel, even where the width happens to be the same number.
        fill = fill.reshape(-1, *(1,) * (rank - 1))
    elif fill.ndim == rank + 1 and fill.shape[0] == 1:
        fill = fill[0]
    fill = fill.reshape((1,) * (rank - fill.ndim) + fill.shape)
    fits = fill.ndim == rank and all(
        have in (1, want) for have, want in zip(fill.shape, extents, strict=True)
    )
    if not fits:
        raise ArgumentError(
            "fill",
            f"an array of shape {fill.shape}",
            f"one value per channel ({extents[0]}), or a shape that broadcasts to {extents}",
        )
    return fill


def fill_node(
    fill: Fill, scan: Scan, taken: Collection[str], dtype: str = "float32"
) -> tuple[Node, dict[str, NDArray[np.generic]]]:
    """The fill as a node over the base relation ``scan``, with the constants that it reads.

    A relation lacks the axes that it does not vary along. The named fills are plans over the image:
    ``mean`` is a group by channel, ``blur`` joins each position axis with a Gaussian window. A fill
    that is ``given`` with each image is a base relation of its own.

    Args:
        fill: as :func:`check_fill` returns it.
        scan: the relation that is overlaid; its first axis counts channels.
        taken: names of base relations and constants that are in use already.
        dtype: of the plan.
    """
    if isinstance(fill, str) and fill == GIVEN:
        return Scan(_fresh("fill", taken), scan.axes), {}
    if isinstance(fill, str):
        return _mean(scan) if fill == "mean" else _blur(scan, taken)
    name = _fresh("fill", taken)
    if isinstance(fill, float):
        return Const(name, ()), {name: np.asarray(fill, dtype=dtype)}
    values = aligned(np.asarray(fill, dtype=dtype), shape(scan.axes))
    axes = tuple(a for a, n in zip(scan.axes, values.shape, strict=True) if n > 1)
    return Const(name, axes), {name: values.reshape(shape(axes))}


def _fresh(name: str, taken: Collection[str]) -> str:
    number = 0
    while (found := f"{name}_{number}" if number else name) in taken:
        number += 1
    return found


def _mean(scan: Scan) -> tuple[Node, dict[str, NDArray[np.generic]]]:
    return Group(scan, names(scan.axes)[:1], "mean"), {}


def _blur(scan: Scan, taken: Collection[str]) -> tuple[Node, dict[str, NDArray[np.generic]]]:
    """A separable Gaussian, divided by the weight of the taps that lie inside the input."""
    node: Node = scan
    constants: dict[str, NDArray[np.generic]] = {}
    for axis in scan.axes[1:]:
        taps, inside = gaussian(axis.extent or 1)
        tap = Axis(f"k{axis.name}", len(taps))
        kernel = Const(_fresh(f"fill_taps_{axis.name}", taken), (tap,))
        weight = Const(_fresh(f"fill_weight_{axis.name}", taken), (axis,))
        constants[kernel.name] = taps
        constants[weight.name] = inside
        on = (window(axis.name, tap.name, padding=len(taps) // 2),)
        joined = Join(node, kernel, on, (axis,), "mul")
        node = Join(Group(joined, names(scan.axes), "sum"), weight, (), (), "div")
    return node, constants


def gaussian(extent: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Taps of the blur along an axis, and for each element the weight of those inside the input."""
    radius = min(int(3 * BLUR_SIGMA), extent - 1)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / BLUR_SIGMA) ** 2)
    inside = np.convolve(np.ones(extent), taps)[radius : radius + extent]
    return taps, inside

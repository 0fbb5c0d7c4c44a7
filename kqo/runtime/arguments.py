"""What a run is given: images and fills as arrays, one set of base relations for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError
from kqo.ir.plan import Plan
from kqo.ir.schema import shape
from kqo.runtime.cuda.device import host_array
from kqo.workloads.fill import aligned

Values = NDArray[Any]


def take(
    plan: Plan, given: tuple[Any, ...], stays: Callable[[Any], Any]
) -> tuple[list[dict[str, Values]], bool]:
    """Values of the base relations for each image.

    Args:
        plan: the model's.
        given: for each input of the model an array, with a batch axis or without.
        stays: gives an array that is to stay where it is, on a GPU, or None.

    Returns:
        by name for each image, and whether there is a batch of several.

    Raises:
        ArgumentError: an input is missing, or of another shape or type.
    """
    scans = plan.scans
    inputs = plan.inputs or tuple(s.name for s in scans)
    if len(given) != len(inputs):
        names = ", ".join(inputs)
        raise ArgumentError("inputs", f"{len(given)} inputs", f"{len(inputs)}: {names}")
    arrays: list[Values] = []
    many: set[int | None] = set()
    by_name = dict(zip(inputs, given, strict=True))
    for scan in scans:
        here = stays(by_name[scan.name])
        array = host_array(by_name[scan.name]) if here is None else here
        want = shape(scan.axes)
        if array.shape == want:
            array = array[None]
            many.add(None)
        elif array.shape[1:] == want and array.ndim == len(want) + 1 and len(array):
            many.add(None if len(array) == 1 else len(array))
        else:
            accepted = f"{want} or (N, {', '.join(map(str, want))})"
            raise ArgumentError(scan.name, f"shape {array.shape}", accepted)
        if array.dtype.kind not in "fiub":
            raise ArgumentError(scan.name, f"dtype {array.dtype}", "numbers")
        arrays.append(array.astype(plan.dtype, copy=False))
    counts = many - {None}
    if len(counts) > 1:
        raise ArgumentError("inputs", f"batches of {sorted(counts, key=str)}", "one batch size")
    count = counts.pop() if counts else None
    images = [
        {s.name: a[i if len(a) > 1 else 0] for s, a in zip(scans, arrays, strict=True)}
        for i in range(count or 1)
    ]
    return images, count is not None


def add_fill(plan: Plan, asked: Plan, images: list[dict[str, Values]], given: Any) -> None:
    """Add the values of a fill that is a base relation of its own to each image's inputs.

    Args:
        plan: the model's.
        asked: the same under the workload.
        images: values of the base relations for each image.
        given: an array that broadcasts to the changed input, or one for each image; or None.

    Raises:
        ArgumentError: a fill is missing, or the workload has one already.
    """
    known = {scan.name for scan in plan.scans}
    fills = [scan for scan in asked.scans if scan.name not in known]
    if not fills:
        if given is not None:
            raise ArgumentError("fill", "an array", "None: the workload has a fill already")
        return
    if given is None:
        raise ArgumentError("fill", None, "an array: the workload's fill is 'given'")
    array, want = host_array(given), shape(fills[0].axes)
    each = array.ndim == len(want) + 1 and len(array) == len(images)
    for number, inputs in enumerate(images):
        own = aligned(array[number] if each else array, want)
        inputs[fills[0].name] = np.broadcast_to(own, want).astype(plan.dtype)

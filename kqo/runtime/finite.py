"""NaN and infinity: where a fast form would spread them, a plan falls back to direct forms.

A Winograd tile mixes its inputs, so that one NaN reaches all outputs of the tile; an additive delta
subtracts an old value, and infinity less infinity is NaN; a matrix product meets zeros of padding
with the kernel, and zero times infinity is NaN, as do products over several groups of features with
zeros in place of the weights between them. Direct forms compute each group from its members.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPREADING = ("Winograd", "AddDelta", "GroupedProduct")
"""What the names of rules begin with whose forms spread values that are not finite."""
PADDING_WITH_ZEROS = ("GatherProduct", "TapByTap")
"""Names of rules whose forms multiply zeros of padding by the kernel, which must be finite."""


def is_finite(values: Any) -> bool:
    """Whether no value of a NumPy or CuPy array is NaN or infinite; no copy is made."""
    if not values.size:
        return True
    if isinstance(values, np.ndarray) and values.flags.c_contiguous:
        flat = values.reshape(-1)
        with np.errstate(all="ignore"):
            # One pass; squares of large finite values may overflow, though. CuPy's would need
            # cuBLAS.
            if np.isfinite(np.dot(flat, flat)):
                return True
    # The smallest is NaN where any value is.
    return bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def are_finite(arrays: Iterable[NDArray[Any]]) -> bool:
    """Whether no value of several arrays is NaN or infinite."""
    return all(map(is_finite, arrays))


def spreads(rule: str | None, constants_are_finite: bool) -> bool:
    """Whether the form that a rule of this name adds may spread NaN and infinity."""
    padded = not constants_are_finite and rule in PADDING_WITH_ZEROS
    return rule is not None and (padded or rule.startswith(SPREADING))


def largest_error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference relative to the largest finite value; infinite where NaN or infinity
    are not in the same places."""
    here = np.isfinite(wanted)
    same = np.array_equal(here, np.isfinite(found))
    if not same or not np.array_equal(found[~here], wanted[~here], equal_nan=True):
        return float("inf")
    scale = float(np.abs(wanted[here]).max(initial=0)) or 1.0
    return float(np.abs(found[here] - wanted[here]).max(initial=0)) / scale

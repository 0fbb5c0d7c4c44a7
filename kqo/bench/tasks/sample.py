"""One labelled image with the place of what its label names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a task.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        label: number of the class.
        mask: bool (H, W), the pixels of what the label names; empty for the class ``none``.
    """

    image: NDArray[np.uint8]
    label: int
    mask: NDArray[np.bool_]

"""Width multiplier of the zoo: narrow variants of a model, for tests."""

from __future__ import annotations


def scaled(channels: int, width: float) -> int:
    """The number of channels at a width; at least 2."""
    return max(2, round(channels * width))

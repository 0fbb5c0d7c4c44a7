"""Rates of a machine: what the cost model multiplies counts with. They come in as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """Sustained rates of one core.

    Attributes:
        gemm: floating-point operations per second of a large float32 matrix product.
        gather: bytes per second (read plus write) of gathering rows.
        stream: bytes per second (read plus write) of an elementwise operation in cache.
        call: seconds of one step's fixed cost, per batch.
        source: where they come from: ``reference``, or ``calibrated``.
    """

    gemm: float = 200e9
    gather: float = 25e9
    stream: float = 20e9
    call: float = 20e-6
    source: str = "reference"


REFERENCE = Rates()


def current_rates() -> Rates:
    """The rates of this machine where it was calibrated, else the reference."""
    return REFERENCE

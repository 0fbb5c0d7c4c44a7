"""Rates of a GPU, for planning before anything was measured on it.

They follow the data sheet of an H100 (NVIDIA, "H100 Tensor Core GPU", 2023) at a share that kernels
may hope for; no measurement stands behind them. The planner compares forms by them; predicted times
in seconds are rough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kqo.planner.rates import REFERENCE, Rates

PRODUCTS = {"float32": 25e12, "tf32": 150e12, "float16": 200e12}
"""Floating-point operations per second of large products, by precision."""
MEMORY = 2e12
"""Bytes per second, read plus write."""


@dataclass(frozen=True, slots=True)
class GpuRates(Rates):
    """Sustained rates of a GPU."""

    linear_block: ClassVar[int] = 128


def cuda_rates(precision: str) -> GpuRates:
    """Rates of one GPU with products in a precision.

    Args:
        precision: float32, tf32 or float16.
    """
    product = PRODUCTS[precision]
    # Bytes are counted as of float32; rows of float16 are half as long.
    memory = 2 * MEMORY if precision == "float16" else MEMORY
    table = tuple(tuple(product for _ in row) for row in REFERENCE.gemm)
    # Minimal filtering is emitted in float32 only; elsewhere the product over gathered rows is run.
    return GpuRates(
        REFERENCE.inner,
        REFERENCE.wide,
        table,
        panel=memory,
        batched=PRODUCTS["float32"] if precision == "float32" else product / 16,
        transform=10e12,
        gather_row=1e-12,
        gather=memory,
        scalar=memory / 8,
        vector=memory / 8,
        stream=memory / 12,
        function=5e10,
        memory=1e15,  # all others are of memory already
        call=1e-9,  # one launch does a step, however many blocks of rows it has
        index=1e11,
        bind=5e-6,
    )

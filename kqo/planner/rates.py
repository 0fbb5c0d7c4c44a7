"""Rates of a machine: what the cost model multiplies counts with. They come in as data."""

from __future__ import annotations

import bisect
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from kqo.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Rates:
    """Sustained rates of one core.

    Attributes:
        inner: inner sizes K at which matrix products were timed, ascending.
        wide: numbers of columns N, likewise.
        gemm: floating-point operations per second of ``(M, K) @ (K, N)`` in float32, for each K
            and N, with the cost per product (``panel``) taken out.
        panel: bytes per second at which a product reads and packs its right side.
        batched: floating-point operations per second of Winograd's products.
        transform: floating-point operations per second of Winograd's transforms of tiles.
        gather_row: seconds per row that is gathered.
        gather: bytes per second (read plus write) of gathering rows.
        scalar: elements per second of an elementwise operation with a number.
        vector: elements per second of one with a row that is broadcast.
        stream: elements per second of one on two arrays of equal shape.
        function: elements per second of an exponential or its like.
        memory: bytes per second beyond the caches: of rows that a batch writes, and of kernels that
            it reads for the first time.
        call: seconds of one NumPy call.
        index: row numbers per second.
        bind: seconds of one step's fixed cost, per batch.
        source: where they come from: ``reference``, or ``calibrated``.
        linear_block: queries that share a product over all positions of a feature map, which
            leaves out positions that none of them changes; 0 where nothing is left out.
    """

    linear_block: ClassVar[int] = 0
    inner: tuple[int, ...] = (4, 27, 64, 256, 1024, 4096)
    wide: tuple[int, ...] = (16, 64, 256, 1024)
    gemm: tuple[tuple[float, ...], ...] = (
        (43e9, 51e9, 47e9, 34e9),
        (82e9, 97e9, 99e9, 99e9),
        (93e9, 105e9, 110e9, 112e9),
        (88e9, 105e9, 110e9, 114e9),
        (93e9, 104e9, 109e9, 116e9),
        (88e9, 105e9, 113e9, 118e9),
    )
    panel: float = 40e9
    batched: float = 104e9
    transform: float = 90e9
    gather_row: float = 1.5e-9
    gather: float = 110e9
    scalar: float = 3.0e9
    vector: float = 5.6e9
    stream: float = 17e9
    function: float = 3.2e9
    memory: float = 18e9
    call: float = 1e-6
    index: float = 60e6
    bind: float = 45e-6
    source: str = "reference"

    def product(self, inner: int, wide: int) -> float:
        """Rate of a product with this inner size and number of columns: linear between the
        logarithms of the sizes that were timed, and held beyond them."""
        row, down = _between(self.inner, inner)
        column, across = _between(self.wide, wide)
        low = _mix(self.gemm[row][column], self.gemm[row][column + 1], across)
        high = _mix(self.gemm[row + 1][column], self.gemm[row + 1][column + 1], across)
        return _mix(low, high, down)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as :meth:`from_dict` takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Rates:
        """Rates from plain values.

        Raises:
            ArgumentError: a name that is missing or unknown, or a value that is no positive number.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ArgumentError("rates", sorted(values), f"exactly {', '.join(sorted(names))}")
        plain = {k: v for k, v in values.items() if k not in ("inner", "wide", "gemm", "source")}
        table = [v for row in values["gemm"] for v in row]
        numbers = [*plain.values(), *table, *values["inner"], *values["wide"]]
        if not all(isinstance(v, (int, float)) and 0 < v < math.inf for v in numbers):
            raise ArgumentError("rates", values, "positive numbers")
        gemm = tuple(tuple(row) for row in values["gemm"])
        inner, wide = tuple(values["inner"]), tuple(values["wide"])
        if len(gemm) != len(inner) or any(len(row) != len(wide) for row in gemm):
            raise ArgumentError("rates", values, "a rate for each inner size and number of columns")
        return cls(inner, wide, gemm, **plain, source=str(values["source"]))


def _between(sizes: tuple[int, ...], size: int) -> tuple[int, float]:
    """The entry at or below a size, and how far it lies on the way to the next, in logarithms."""
    at = min(max(bisect.bisect_right(sizes, size) - 1, 0), len(sizes) - 2)
    way = math.log(size / sizes[at]) / math.log(sizes[at + 1] / sizes[at])
    return at, min(max(way, 0.0), 1.0)


def _mix(one: float, other: float, way: float) -> float:
    return one + (other - one) * way


REFERENCE = Rates()

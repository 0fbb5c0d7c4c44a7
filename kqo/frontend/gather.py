"""Windows given by tables: adaptive pooling, resizing, repeated elements, replicated borders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kqo.frontend.algebra import group
from kqo.frontend.context import Context
from kqo.frontend.values import Constant, Value, fresh
from kqo.ir.equations import Ranged
from kqo.ir.nodes import Domain, Group, Join
from kqo.ir.schema import Axis


def monotone(lo: Sequence[int], hi: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tightest ranges around the given ones that grow with the output."""
    low, high = list(lo), list(hi)
    for k in range(len(low) - 2, -1, -1):
        low[k] = min(low[k], low[k + 1])
    for k in range(1, len(high)):
        high[k] = max(high[k], high[k - 1])
    return tuple(low), tuple(high)


def take_each(value: Value, dim: int, index: Sequence[int]) -> Value:
    """Element ``index[k]`` of a dimension at place k; the index must not fall."""
    name = value.dims[dim]
    assert name is not None
    tap = fresh(f"k{name}", value.dims)
    lo = tuple(index)
    on = Ranged(name, name, tap, lo, tuple(k + 1 for k in lo))
    joined = Join(value.node, Domain((Axis(tap, 1),)), (on,), (Axis(name, len(lo)),), "left")
    return Value(group(joined, (tap,), "sum"), value.dims)


def weigh(at: Context, value: Value, dim: int, matrix: Tensor, hits: Tensor) -> Value:
    """A banded matrix (out, in) applied along a dimension: only the band meets the input.

    ``hits`` says which elements the band holds at least, also with weight 0.

    Rows are windows whose ends grow with the row, and a relation of weights has one key per row and
    place in its window.
    """
    name = value.dims[dim]
    assert name is not None
    columns = torch.arange(matrix.shape[1])
    first = torch.where(hits, columns, matrix.shape[1]).amin(1).tolist()
    last = torch.where(hits, columns, -1).amax(1).tolist()
    lo, hi = monotone(first, [k + 1 for k in last])
    width = max(b - a for a, b in zip(lo, hi, strict=True))
    rows = torch.zeros(len(lo), width, dtype=matrix.dtype)
    for k, (a, b) in enumerate(zip(lo, hi, strict=True)):
        rows[k, : b - a] = matrix[k, a:b]
    tap = fresh(f"k{name}", value.dims)
    made = Constant(f"{at.name}.{name}", rows)
    weights = at.const(made, ((name, len(lo)), (tap, width)))
    joined = Join(value.node, weights, (Ranged(name, name, tap, lo, hi),), (), "mul")
    by = tuple(axis.name for axis in value.node.schema)
    return Value(Group(joined, by, "sum"), value.dims)

"""Pooling: joins with a domain of taps, grouped by maximum, sum or mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kqo.frontend.algebra import apply, combine, group
from kqo.frontend.context import Context
from kqo.frontend.convolution import Ints, Window, spread
from kqo.frontend.registry import lowers
from kqo.frontend.values import Constant, Value, fresh, give_axes, position_names
from kqo.ir.equations import Condition, Ranged, window
from kqo.ir.nodes import Domain, Join, Node
from kqo.ir.scalar import V, call
from kqo.ir.schema import Axis


def _windows(
    value: Value,
    rank: int,
    kernel: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    ceil: bool,
) -> tuple[Window, ...]:
    """The window along each of the last dimensions.

    With ceil mode the last window may run over the end, but must start inside the input or the
    padding before it.
    """
    kernels = spread(kernel, rank)
    strides = kernels if stride is None or stride == [] else spread(stride, rank)
    found = []
    options = zip(kernels, strides, spread(padding, rank), spread(dilation, rank), strict=True)
    for d, (k, s, p, r) in enumerate(options, -rank):
        extent = value.extent(d)
        room = extent + 2 * p - r * (k - 1) - 1
        out = (-(-room // s) if ceil else room // s) + 1
        if ceil and (out - 1) * s >= extent + p:
            out -= 1
        found.append(Window(k, s, p, r, out))
    return tuple(found)


def _positioned(value: Value, rank: int) -> Value:
    """The value with an axis for each of the last dimensions."""
    missing = {}
    used = list(value.dims)
    for d, usual in zip(range(len(used) - rank, len(used)), position_names(rank), strict=True):
        if used[d] is None:
            used[d] = missing[d] = fresh(usual, used)
    return give_axes(value, missing)


def _join_taps(value: Value, windows: Sequence[Window]) -> tuple[Node, tuple[str, ...]]:
    """The input joined with the taps of its windows, and the names of the taps."""
    rank = len(windows)
    spatial = [name for name in value.dims[-rank:] if name is not None]
    taps = tuple(f"k{name}" for name in spatial)
    on = tuple(
        window(name, tap, w.stride, w.dilation, w.padding)
        for name, tap, w in zip(spatial, taps, windows, strict=True)
    )
    domain = Domain(tuple(Axis(tap, w.kernel) for tap, w in zip(taps, windows, strict=True)))
    axes = tuple(Axis(name, w.out) for name, w in zip(spatial, windows, strict=True))
    return Join(value.node, domain, on, axes, "left"), taps


def _register_max(rank: int) -> None:
    @lowers(f"aten.max_pool{rank}d.default", kind="max_pool")
    def run(
        at: Context,
        x: Value,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> Value:
        """Join with the taps of the window, and take the maximum."""
        value = _positioned(x, rank)
        windows = _windows(value, rank, kernel_size, stride, padding, dilation, ceil_mode)
        joined, taps = _join_taps(value, windows)
        return Value(group(joined, taps, "max"), value.dims)

    @lowers(f"aten.max_pool{rank}d_with_indices.default", kind="max_pool")
    def run_with_indices(
        at: Context,
        x: Value,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> tuple[Value, None]:
        """Join with the taps of the window, and take the maximum; where it is cannot be said."""
        return run(at, x, kernel_size, stride, padding, dilation, ceil_mode), None


def _register_average(rank: int) -> None:
    @lowers(f"aten.avg_pool{rank}d.default", kind="avg_pool")
    def run(
        at: Context,
        x: Value,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        """Join with the taps of the window, sum, and divide by the window's elements or by those
        within the input."""
        value = _positioned(x, rank)
        windows = _windows(value, rank, kernel_size, stride, padding, 1, ceil_mode)
        joined, taps = _join_taps(value, windows)
        if not count_include_pad and divisor_override is None:
            return Value(group(joined, taps, "mean"), value.dims)
        total = Value(group(joined, taps, "sum"), value.dims)
        if divisor_override is not None:
            return apply(total, call("div", V, divisor_override))
        return _divide_by_counts(at, total, value, windows)


def _divide_by_counts(at: Context, total: Value, source: Value, windows: Sequence[Window]) -> Value:
    """Divide sums by the number of cells of each window, padding included, overrun excluded."""
    rank = len(windows)
    counts = []
    for d, w in enumerate(windows, -rank):
        end = source.extent(d) + w.padding
        starts = [k * w.stride - w.padding for k in range(w.out)]
        counts.append([min(s + w.kernel, end) - s for s in starts])
    if all(n == w.kernel for w, row in zip(windows, counts, strict=True) for n in row):
        return apply(total, call("div", V, math.prod(w.kernel for w in windows)))
    table = torch.ones((), dtype=torch.float64)
    for row in counts:
        table = table[..., None] * torch.tensor(row, dtype=torch.float64)
    return combine(at, "div", total, Constant(f"{at.name}.counts", table))


for _rank in (1, 2, 3):
    _register_max(_rank)
    _register_average(_rank)


def _adaptive(
    at: Context, x: Value, size: Ints | Sequence[int | None], rank: int, agg: str
) -> Value:
    """Pool to a given size: cell k of m covers ``floor(k*n/m)`` to ``ceil((k+1)*n/m)``.

    Along a dimension that is reduced to one cell this is a plain group, where the size divides it
    is a window, otherwise the ends of the windows are a table.
    """
    wanted = (size,) * rank if isinstance(size, int) else tuple(size)
    on: list[Condition] = []
    taps, axes = [], []
    away: list[str] = []
    node, dims = x.node, list(x.dims)
    for d, m in zip(range(len(dims) - rank, len(dims)), wanted, strict=True):
        n, name = x.extent(d), dims[d]
        if m is None or m == n:
            continue
        if m == 1:
            assert name is not None
            away.append(name)
            dims[d] = None
            continue
        if name is None:
            name = dims[d] = fresh(position_names(rank)[d - len(dims)], dims)
            node = give_axes(Value(node, x.dims), {d: name}).node
        tap = f"k{name}"
        if n % m == 0:
            width = n // m
            on.append(window(name, tap, width))
        else:
            lo = tuple(k * n // m for k in range(m))
            hi = tuple(-(-(k + 1) * n // m) for k in range(m))
            width = max(b - a for a, b in zip(lo, hi, strict=True))
            on.append(Ranged(name, name, tap, lo, hi))
        taps.append(Axis(tap, width))
        axes.append(Axis(name, m))
    if on:
        node = Join(node, Domain(tuple(taps)), tuple(on), tuple(axes), "left")
    if on or away:
        node = group(node, (*away, *(tap.name for tap in taps)), agg)
    return Value(node, tuple(dims))


def _register_adaptive(rank: int) -> None:
    inner = (f"aten._adaptive_avg_pool{rank}d.default",) if rank > 1 else ()

    @lowers(f"aten.adaptive_avg_pool{rank}d.default", *inner, kind="avg_pool")
    def run_average(at: Context, x: Value, output_size: Sequence[int | None]) -> Value:
        """Join with a range of keys for each output, and take the mean."""
        return _adaptive(at, x, output_size, rank, "mean")

    @lowers(f"aten.adaptive_max_pool{rank}d.default", kind="max_pool")
    def run_max(at: Context, x: Value, output_size: Sequence[int | None]) -> tuple[Value, None]:
        """Join with a range of keys for each output, and take the maximum; where it is cannot be
        said."""
        return _adaptive(at, x, output_size, rank, "max"), None


for _rank in (1, 2, 3):
    _register_adaptive(_rank)

"""Resizing: each output position reads a short window of the input, with weights.

Where the windows lie and what they weigh is found by applying PyTorch's own operator to probes
along one axis at a time: positions themselves for nearest, unit vectors for the linear kinds. So
every option (align_corners, scale factors) means what it means there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kqo.frontend.context import Context
from kqo.frontend.gather import take_each, weigh
from kqo.frontend.registry import lowers
from kqo.frontend.values import Value, give_axes, position_names

_Probe = Callable[[Tensor, int, float | None], Tensor]


def _scales(rank: int, given: Sequence[float | None]) -> list[float | None]:
    return list(given) if given else [None] * rank


def _positioned(value: Value, rank: int) -> Value:
    names = dict(enumerate(position_names(rank), 2))
    return give_axes(value, {d: n for d, n in names.items() if n not in value.dims})


def _nearest(
    at: Context, x: Value, rank: int, scales: Sequence[float | None], probe: _Probe
) -> Value:
    x = _positioned(x, rank)
    for d, scale in enumerate(_scales(rank, scales), 2):
        extent, out = x.extent(d), at.shape[d]
        line = torch.arange(extent, dtype=torch.float32).reshape(1, 1, extent)
        index = [int(k) for k in probe(line, out, scale).reshape(-1).tolist()]
        if index != list(range(extent)):
            x = take_each(x, d, index)
    return x


def _weighted(
    at: Context, x: Value, rank: int, scales: Sequence[float | None], probe: _Probe
) -> Value:
    x = _positioned(x, rank)
    for d, scale in enumerate(_scales(rank, scales), 2):
        extent, out = x.extent(d), at.shape[d]
        unit = torch.eye(extent, dtype=torch.float64).reshape(1, extent, extent)
        matrix = probe(unit, out, scale).reshape(extent, out).t()
        # PyTorch reads some elements with weight 0, which matters where they are not finite.
        poisoned = torch.where(unit == 1, torch.nan, 0.0)
        reads = probe(poisoned, out, scale).reshape(extent, out).t().isnan()
        if extent != out or not torch.equal(matrix, unit[0]):
            x = weigh(at, x, d, matrix, reads)
    return x


def _given(rank: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[float | None]:
    """Scale factors of either overload: a list (vec), or one argument per axis (default)."""
    values = [*args, *kwargs.values()]
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        return list(values[0])
    return [v for v in values if v is not None] if len(values) == rank else []


def _register_nearest(name: str, rank: int, exact: bool) -> None:
    one = torch.ops.aten._upsample_nearest_exact1d if exact else torch.ops.aten.upsample_nearest1d

    def probe(line: Tensor, out: int, scale: float | None) -> Tensor:
        made: Tensor = one.default(line, [out], scale)
        return made

    @lowers(f"aten.{name}{rank}d.vec", f"aten.{name}{rank}d.default", kind="upsample")
    def run(at: Context, x: Value, size: Sequence[int] | None, *args: Any, **kwargs: Any) -> Value:
        """A gather along each axis, at the places that PyTorch reads."""
        return _nearest(at, x, rank, _given(rank, args, kwargs), probe)


def _register_linear(name: str, rank: int) -> None:
    @lowers(f"aten.{name}.vec", f"aten.{name}.default", kind="upsample")
    def run(
        at: Context,
        x: Value,
        size: Sequence[int] | None,
        align_corners: bool,
        *args: Any,
        **kwargs: Any,
    ) -> Value:
        """A sum of products along each axis, with the weights that PyTorch gives neighbours."""

        def probe(unit: Tensor, out: int, scale: float | None) -> Tensor:
            made: Tensor
            if name == "upsample_bicubic2d":
                made = torch.ops.aten.upsample_bicubic2d.default(
                    unit[..., None], [out, 1], align_corners, scale, None
                )
            else:
                made = torch.ops.aten.upsample_linear1d.default(unit, [out], align_corners, scale)
            return made

        return _weighted(at, x, rank, _given(rank, args, kwargs), probe)


for _rank in (1, 2, 3):
    _register_nearest("upsample_nearest", _rank, exact=False)
    _register_nearest("_upsample_nearest_exact", _rank, exact=True)
for _name, _rank in (
    ("upsample_linear1d", 1),
    ("upsample_bilinear2d", 2),
    ("upsample_trilinear3d", 3),
    ("upsample_bicubic2d", 2),
):
    _register_linear(_name, _rank)


@lowers("aten.repeat_interleave.self_int", kind="repeat")
def repeat_interleave(
    at: Context, x: Value, repeats: int, dim: int | None = None, **_: Any
) -> Value:
    """Every element of a dimension several times in a row."""
    if dim is None:
        at.unsupported("a repeat of the flattened tensor")
    d = at.dim(x, dim)
    usual = (None, "c", *position_names(max(len(x.dims) - 2, 0)))[d]
    x = give_axes(x, {d: usual if usual and usual not in x.dims else "c"})
    return take_each(x, d, [k // repeats for k in range(x.extent(d) * repeats)])

"""Operators that only name elements differently: reshape, permute, squeeze, expand and kin.

A permute reorders the dimensions of a value and makes no node. A reshape is a Rekey of the
dimensions that it merges or splits; the others keep their axes, and so their regions stay exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from kqo.frontend.context import Context
from kqo.frontend.registry import lowers
from kqo.frontend.values import BATCH, Dim, Value, drop, feature
from kqo.ir.nodes import Domain, Join, Rekey
from kqo.ir.schema import Axis, is_position


@lowers(
    "aten.view.default", "aten.reshape.default", "aten._unsafe_view.default",
    "aten.flatten.using_ints", "aten.unflatten.int", "aten.view_as.default",
    "aten.reshape_as.default",
    kind="reshape",
)  # fmt: skip
def reshape_like_result(at: Context, x: Value, *_: Any, **__: Any) -> Value:
    """Any reshape: what it makes is known from the exported graph."""
    return reshape(at, x, at.shape)


def reshape(at: Context, x: Value, shape: Sequence[int]) -> Value:
    """The value with another shape, batch included, of as many elements."""
    before, after = _split_at_batch(at, x, shape)
    left = _regroup(x, x.dims[: len(before[0])], before[1], set())
    rest = x.dims[len(before[0]) + 1 :] if BATCH in x.dims else ()
    right = _regroup(x, rest, after[1], {axis.name for axis in left if axis})
    new = [*left, *right]
    order = tuple(d for d in x.dims if d is not None and d != BATCH)
    axes = tuple(axis for axis in new if axis is not None)
    names = [None if axis is None else axis.name for axis in new]
    dims: tuple[Dim, ...] = tuple(names)
    if BATCH in x.dims:
        dims = (*names[: len(left)], BATCH, *names[len(left) :])
    if order == tuple(axis.name for axis in axes):
        return Value(x.node, dims)
    return Value(Rekey(x.node, order, axes), dims)


_Parts = tuple[tuple[Dim, ...], tuple[int, ...]]


def _split_at_batch(at: Context, x: Value, shape: Sequence[int]) -> tuple[_Parts, _Parts]:
    """Dimensions and wanted extents before the batch, and after it."""
    if BATCH not in x.dims:
        return (x.dims, tuple(shape)), ((), ())
    place = x.dims.index(BATCH)
    ahead = math.prod(x.extent(d) for d in range(place))
    for d in (place, *range(len(shape))):
        if d < len(shape) and shape[d] == at.batch and math.prod(shape[:d]) == ahead:
            return (x.dims[:place], tuple(shape[:d])), (x.dims[place + 1 :], tuple(shape[d + 1 :]))
    at.mixes_batch()


def _regroup(
    x: Value, dims: Sequence[Dim], shape: Sequence[int], used: set[str]
) -> list[Axis | None]:
    """The axis of each new dimension: old axes where an extent is kept, new ones otherwise."""
    extents = {axis.name: axis.extent or 1 for axis in x.node.schema}
    old = [(d, extents[d]) for d in dims if d is not None and d != BATCH and extents[d] > 1]
    taken = used | {d for d, _ in old}
    made: list[Axis | None] = []
    wanted = list(shape)
    while wanted:
        if wanted[0] == 1:
            made.append(None)
            wanted.pop(0)
            continue
        sources, targets = [old.pop(0)], [wanted.pop(0)]
        while (have := math.prod(n for _, n in sources)) != (want := math.prod(targets)):
            if have < want:
                sources.append(old.pop(0))
            else:
                targets.append(wanted.pop(0))
        made.extend(_axes_for(sources, targets, taken))
    return made


def _axes_for(
    sources: list[tuple[str, int]], targets: list[int], taken: set[str]
) -> list[Axis | None]:
    """New axes for the dimensions that some old ones, taken together, become."""
    if len(sources) == 1 and len([n for n in targets if n > 1]) == 1:
        return [Axis(sources[0][0], n) if n > 1 else None for n in targets]
    taken -= {name for name, _ in sources}
    first = sources[0][0]
    # A position that is merged with finer ones, as in pixel shuffle, still counts positions.
    refined = is_position(first) and not any(is_position(name) for name, _ in sources[1:])
    made: list[Axis | None] = []
    big = [k for k, n in enumerate(targets) if n > 1]
    for k, n in enumerate(targets):
        if n == 1:
            made.append(None)
            continue
        if len(big) == 1 and refined:
            name = first
        elif len(big) == 1 or k == big[-1]:
            plain = next((s for s, _ in sources if not is_position(s) and s == "c"), "c")
            name = feature(plain, taken)
        else:
            name = feature("g", taken | {"c"})
        taken.add(name)
        made.append(Axis(name, n))
    return made


@lowers("aten.permute.default")
def permute(at: Context, x: Value, dims: Sequence[int]) -> Value:
    """Dimensions in another order."""
    return Value(x.node, tuple(x.dims[d] for d in dims))


@lowers("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default", kind="transpose")
def transpose(at: Context, x: Value, dim0: int, dim1: int) -> Value:
    """Two dimensions swapped."""
    dims = list(x.dims)
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return Value(x.node, tuple(dims))


@lowers("aten.t.default", kind="transpose")
def t(at: Context, x: Value) -> Value:
    """A matrix transposed."""
    return Value(x.node, x.dims[::-1])


@lowers("aten.movedim.int", "aten.movedim.intlist", kind="permute")
def movedim(
    at: Context, x: Value, source: int | Sequence[int], destination: int | Sequence[int]
) -> Value:
    """Dimensions moved to other places."""
    rank = len(x.dims)
    froms = [source] if isinstance(source, int) else list(source)
    tos = [destination] if isinstance(destination, int) else list(destination)
    placed = {t % rank: f % rank for f, t in zip(froms, tos, strict=True)}
    rest = iter(d for d in range(rank) if d not in placed.values())
    return Value(
        x.node, tuple(x.dims[placed[d] if d in placed else next(rest)] for d in range(rank))
    )


@lowers("aten.unsqueeze.default")
def unsqueeze(at: Context, x: Value, dim: int) -> Value:
    """A new dimension of extent 1."""
    place = dim % (len(x.dims) + 1)
    return Value(x.node, (*x.dims[:place], None, *x.dims[place:]))


def squeeze_dims(x: Value, dims: Iterable[int]) -> Value:
    """The value without those of the dimensions that have extent 1."""
    rank = len(x.dims)
    places = {d % rank for d in dims}
    gone = {d for d in places if x.dims[d] != BATCH and x.extent(d) == 1}
    x = drop(x, gone)
    return Value(x.node, tuple(name for d, name in enumerate(x.dims) if d not in gone))


@lowers("aten.squeeze.dim", "aten.squeeze.dims")
def squeeze(at: Context, x: Value, dim: int | Sequence[int]) -> Value:
    """Without the given dimensions, where they have extent 1."""
    return squeeze_dims(x, (dim,) if isinstance(dim, int) else dim)


@lowers("aten.squeeze.default", kind="squeeze")
def squeeze_all(at: Context, x: Value) -> Value:
    """Without all dimensions of extent 1; the batch stays."""
    return squeeze_dims(x, range(len(x.dims)))


@lowers("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default", kind="expand")
def expand(at: Context, x: Value, *_: Any, **__: Any) -> Value:
    """Dimensions of extent 1 repeated: a join with the domain of the new axes."""
    shape = at.shape
    dims: list[Dim] = [*(None,) * (len(shape) - len(x.dims)), *x.dims]
    padded = Value(x.node, tuple(dims))
    wide = [
        d
        for d, n in enumerate(shape)
        if dims[d] != BATCH and n > 1 and padded.extent(d) == 1
    ]  # fmt: skip
    padded = drop(padded, wide)
    new: list[Axis] = []
    for d in wide:
        name = feature(None, (*padded.dims, *(axis.name for axis in new)))
        new.append(Axis(name, shape[d]))
    if not new:
        return padded
    named = dict(zip(wide, new, strict=True))
    dims = [named[d].name if d in named else name for d, name in enumerate(padded.dims)]
    return Value(Join(padded.node, Domain(tuple(new)), (), (), "left"), tuple(dims))


@lowers("aten.pixel_shuffle.default")
def pixel_shuffle(at: Context, x: Value, upscale_factor: int) -> Value:
    """``(c * r * r, h, w)`` to ``(c, h * r, w * r)``."""
    r, (b, c, h, w) = upscale_factor, at.shape
    parts = reshape(at, x, (b, c, r, r, h // r, w // r))
    return reshape(at, permute(at, parts, (0, 1, 4, 2, 5, 3)), at.shape)


@lowers("aten.pixel_unshuffle.default")
def pixel_unshuffle(at: Context, x: Value, downscale_factor: int) -> Value:
    """``(c, h * r, w * r)`` to ``(c * r * r, h, w)``."""
    r, (b, c, h, w) = downscale_factor, at.shape
    parts = reshape(at, x, (b, c // (r * r), h, r, w, r))
    return reshape(at, permute(at, parts, (0, 1, 3, 5, 2, 4)), at.shape)


@lowers("aten.channel_shuffle.default")
def channel_shuffle(at: Context, x: Value, groups: int) -> Value:
    """Channels of ``groups`` groups interleaved."""
    b, c, *spatial = at.shape
    parts = reshape(at, x, (b, groups, c // groups, *spatial))
    return reshape(at, transpose(at, parts, 1, 2), at.shape)

"""Random small plans, with values and regions to run them on.

A plan is built as a network over an image that changes per query. Next to every node stands the
same node over the unchanged image, and the region in which the two may differ; so a node may be
replaced by an overlay of its old value, derived here by hand and not by any rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kqo.ir.equations import Affine, Condition, Ranged, equal, window
from kqo.ir.nodes import (
    Const,
    Domain,
    Group,
    Join,
    Map,
    Node,
    Overlay,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
)
from kqo.ir.plan import Plan
from kqo.ir.region import Changed, Either, Image, Region, Regroup, Shift
from kqo.ir.scalar import Expr, V, call
from kqo.ir.schema import Axes, Axis, axes_of, extent_of, names, shape, size
from kqo.prove.choices import Choices

MOST_KEYS = 4000
MOST_EXTENT = {1: 7, 2: 5, 3: 3}
"""Of a position axis, by the number of those."""
_TABLE = 9973
_STEPS = (1, 13, 173, 2203, 4001)
EXACT_MAPS = (
    call("max", V, 0.0),
    call("add", call("mul", V, -0.5), 3.0),
    call("min", call("abs", V), 2.0),
    call("where", call("gt", V, 1.0), call("neg", V), call("div", V, 3.0)),
    call("sign", call("floor", V)),
)
FLOAT_MAPS = (call("sigmoid", V), call("tanh", V), call("exp", call("min", V, 1.0)))


@dataclass(frozen=True)
class Instance:
    """A plan and what to run it on.

    Attributes:
        plan: the plan over the overlaid image, with overlays of saved views inside.
        scans: values of the base relation.
        regions: boxes per query, as the interpreter takes them.
    """

    plan: Plan
    scans: dict[str, NDArray[np.float64]]
    regions: dict[str, list[list[tuple[tuple[int, int], ...]]]]


@dataclass(frozen=True)
class Case(Instance):
    """An instance with what full re-inference takes.

    Attributes:
        dense: the plan over the image itself, with neither overlays nor views.
        changed: the base relation as each query sees it.
    """

    dense: Plan
    changed: tuple[dict[str, NDArray[np.float64]], ...]


@dataclass(frozen=True)
class Entry:
    """A node, the same over the unchanged image, and where they may differ (None: nowhere)."""

    node: Node
    old: Node
    at: Region | None

    @property
    def axes(self) -> Axes:
        """Axes of the node, without the query axis."""
        return self.old.schema


class Builder:
    """Draws one plan. Every method appends to what later ones may read."""

    def __init__(
        self, choices: Choices, deltas: bool, maps: tuple[Expr, ...], ranks: tuple[int, ...]
    ) -> None:
        self.choices = choices
        self.deltas = deltas
        self.maps = maps
        rank = choices.one_of(ranks)
        most = MOST_EXTENT[rank]
        # As many choices for every rank: a smaller rank then leaves the others what they are.
        drawn = [choices.integer(2, max(MOST_EXTENT.values())) for _ in MOST_EXTENT]
        extents = [choices.integer(1, 3), *(min(most, extent) for extent in drawn[:rank])]
        self.where = "zyx"[3 - rank :]
        axes = axes_of(**dict(zip(("c", *self.where), extents, strict=True)))
        self.seed = choices.integer(0, 999)
        self.constants: dict[str, NDArray[np.float64]] = {}
        self.image = Scan("image", axes)
        patch = choices.one_of([(), axes[:1], axes])
        over = Overlay(self.image, self.const("fill", patch), Changed("image"))
        self.entries = [Entry(over, self.image, Changed("image"))]

    def values(self, axes: Axes) -> NDArray[np.float64]:
        """Small multiples of 1/2: sums of products of few are exact in floats. Ones for seed 0.

        The value of a key does not depend on the extents, so that a smaller relation has the values
        of the larger one.
        """
        if self.seed == 0:
            return np.ones(shape(axes))
        rng = np.random.default_rng([self.seed, len(self.constants)])
        drawn = self.draw_values(rng, _TABLE)
        place = np.zeros(shape(axes), dtype=np.int64)
        for number, keys in enumerate(np.indices(shape(axes))):
            place += keys * _STEPS[number % len(_STEPS)]
        return drawn[place % _TABLE]

    def draw_values(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Values of no relation yet."""
        return rng.integers(-4, 5, count) / 2

    def const(self, name: str, axes: Axes) -> Const:
        """A constant of small multiples of 1/2."""
        name = name if name in ("image", "fill") else f"{name}{len(self.constants)}"
        self.constants[name] = self.values(axes)
        return Const(name, axes)

    def pick(self) -> Entry:
        """One of the entries."""
        return self.choices.one_of(self.entries)

    def add(self, node: Node, old: Node, at: Region | None) -> None:
        """Keep a new entry, its node perhaps as an overlay of its saved old value."""
        if at is not None and self.deltas and self.choices.boolean():
            node = Overlay(Saved(old), Slice(node, at), at)
        self.entries.append(Entry(node, old, at))

    def aggregate(
        self,
        source: Entry,
        right: Node,
        on: tuple[Condition, ...],
        declared: Axes,
        *,
        by: tuple[str, ...],
        combine: str,
        agg: str,
    ) -> None:
        """Append ``Group(Join(source, right))``, unless it would be large."""

        def build(left: Node) -> Group:
            return Group(Join(left, right, on, declared, combine), by, agg)

        old = build(source.old)
        if size(old.input.schema) > MOST_KEYS:
            return
        taps = tuple(axis for axis in old.input.schema if axis.name not in by)
        at = None if source.at is None else Image(source.at, on, taps, old.schema)
        self.add(build(source.node), old, at)

    def windows(
        self, axes: Axes, hit: bool = False
    ) -> tuple[tuple[Affine, ...], Axes, Axes] | None:
        """Conditions, output axes and taps of a random window over the position axes.

        Where ``hit``, every window covers at least one key, so that no group is empty.
        """
        on, out, taps = [], [], []
        for axis in self.where:
            kernel, stride = self.choices.integer(1, 3), self.choices.integer(1, 3)
            dilation = 1 if hit else self.choices.integer(1, 2)
            padding = self.choices.integer(0, min(2, kernel - 1) if hit else 2)
            extent = extent_of(axes, axis)
            room = extent + 2 * padding - dilation * (kernel - 1) - 1
            if room < 0:
                return None
            on.append(window(axis, f"k{axis}", stride, dilation, padding))
            out.append(Axis(axis, room // stride + 1))
            taps.append(Axis(f"k{axis}", kernel))
        return tuple(on), tuple(out), tuple(taps)

    def conv(self) -> None:
        """A convolution."""
        source = self.pick()
        found = self.windows(source.axes)
        if found is None:
            return
        on, out, taps = found
        channels = extent_of(source.axes, "c")
        features = axes_of(c=self.choices.integer(1, 3), i=channels)
        weight = self.const("w", (*features, *taps))
        self.aggregate(
            source,
            weight,
            (equal("c", "i"), *on),
            out,
            by=("c", *self.where),
            combine="mul",
            agg="sum",
        )

    def depthwise(self) -> None:
        """A convolution of each channel by itself."""
        source = self.pick()
        found = self.windows(source.axes)
        if found is not None:
            on, out, taps = found
            weight = self.const("w", (*source.axes[:1], *taps))
            self.aggregate(source, weight, on, out, by=("c", *self.where), combine="mul", agg="sum")

    def transposed(self) -> None:
        """A transposed convolution along the last axis."""
        source, axis = self.pick(), self.where[-1]
        stride, kernel = self.choices.integer(1, 3), self.choices.integer(1, 3)
        offset = self.choices.integer(0, kernel - 1)
        on = (Affine(axis, ((1, axis), (-1, f"k{axis}")), offset, stride),)
        out = axes_of(**{axis: (extent_of(source.axes, axis) - 1) * stride + kernel - offset})
        weight = self.const("w", (*source.axes[:1], *axes_of(**{f"k{axis}": kernel})))
        self.aggregate(source, weight, on, out, by=("c", *self.where), combine="mul", agg="sum")

    def pool(self) -> None:
        """Pooling by any aggregate."""
        source = self.pick()
        agg = self.choices.one_of(["max", "sum", "mean", "min"])
        found = self.windows(source.axes, hit=agg != "sum")
        if found is not None:
            on, out, taps = found
            self.aggregate(
                source, Domain(taps), on, out, by=("c", *self.where), combine="left", agg=agg
            )

    def adaptive(self) -> None:
        """Adaptive pooling along the last axis."""
        source, axis = self.pick(), self.where[-1]
        extent, out = extent_of(source.axes, axis), self.choices.integer(1, 4)
        lo = tuple(extent * i // out for i in range(out))
        hi = tuple(-(-extent * (i + 1) // out) for i in range(out))
        taps = Domain(axes_of(**{f"k{axis}": max(b - a for a, b in zip(lo, hi, strict=True))}))
        on = (Ranged(axis, axis, f"k{axis}", lo, hi),)
        agg = self.choices.one_of(["mean", "max"])
        self.aggregate(
            source, taps, on, axes_of(**{axis: out}), by=("c", *self.where), combine="left", agg=agg
        )

    def map(self) -> None:
        """A scalar function."""
        source = self.pick()
        fn = self.choices.one_of(self.maps)
        self.add(Map(source.node, fn), Map(source.old, fn), source.at)

    def elementwise(self) -> None:
        """Two maps of equal axes, or a map and a gate, which is one of its channel sums."""
        a = self.pick()
        b = self.choices.one_of([e for e in self.entries if e.axes == a.axes])
        combine = self.choices.one_of(["add", "sub", "mul", "max", "min", "gt"])
        if self.choices.boolean():
            agg = self.choices.one_of(["sum", "max", "mean"])
            taps = tuple(axis for axis in b.axes if axis.name != "c")
            at = None if b.at is None else Image(b.at, (), taps, b.axes[:1])
            b = Entry(Group(b.node, ("c",), agg), Group(b.old, ("c",), agg), at)
        regions = tuple(
            e.at if e.axes == a.axes else Image(e.at, (), (), a.axes)
            for e in (a, b)
            if e.at is not None
        )
        self.add(
            Join(a.node, b.node, (), (), combine),
            Join(a.old, b.old, (), (), combine),
            Either(regions) if regions else None,
        )

    def scale(self) -> None:
        """A join with a constant per channel."""
        source = self.pick()
        factor = self.const("s", source.axes[:1])
        combine = self.choices.one_of(["mul", "add", "sub", "max"])
        self.add(
            Join(source.node, factor, (), (), combine),
            Join(source.old, factor, (), (), combine),
            source.at,
        )

    def union(self) -> None:
        """A concatenation of two entries along the channels."""
        a = self.pick()
        b = self.choices.one_of([e for e in self.entries if e.axes[1:] == a.axes[1:]])
        old = Union((a.old, b.old), "c")
        regions = tuple(
            Shift(e.at, "c", offset, old.schema)
            for e, offset in zip((a, b), old.offsets, strict=True)
            if e.at is not None
        )
        self.add(Union((a.node, b.node), "c"), old, Either(regions) if regions else None)

    def rekey(self) -> None:
        """The positions reversed, or the channels and one position taken apart the other way."""
        source = self.pick()
        if self.choices.boolean():
            order = ("c", *reversed(self.where))
            into = (source.axes[0], *(Axis(n, extent_of(source.axes, o)) for n, o in
                                      zip(self.where, order[1:], strict=True)))  # fmt: skip
        else:
            order = names(source.axes)
            first, second = source.axes[0], source.axes[1]
            into = (Axis("c", second.extent), Axis(second.name, first.extent), *source.axes[2:])
        at = None if source.at is None else Regroup(source.at, source.axes, order, into)
        self.add(Rekey(source.node, order, into), Rekey(source.old, order, into), at)

    def head(self) -> None:
        """Flatten and a linear layer, both with the entry's own region."""
        source = self.pick()
        total = size(source.axes)
        if total > 300:
            return
        order, flat = names(source.axes), axes_of(c=total)
        at = None if source.at is None else Regroup(source.at, source.axes, order, flat)
        entry = Entry(Rekey(source.node, order, flat), Rekey(source.old, order, flat), at)
        weight = self.const("fc", axes_of(c=2, i=total))
        self.aggregate(entry, weight, (equal("c", "i"),), (), by=("c",), combine="mul", agg="sum")

    def finish(self, queries: int) -> Case:
        """The plan of the last entry, perhaps of another one too."""
        outputs = [self.entries[-1]]
        if self.choices.boolean():
            outputs.append(self.pick())
        dense = Plan("dense", tuple((f"out{i}", e.old) for i, e in enumerate(outputs)))
        made = self.instance("random", [e.node for e in outputs], queries)
        image = made.scans["image"]
        fill = self.constants["fill"]
        fill = np.broadcast_to(
            fill.reshape(fill.shape + (1,) * (image.ndim - fill.ndim)), image.shape
        )
        changed = []
        for some in made.regions["image"]:
            seen = image.copy()
            for box in some:
                place = tuple(slice(lo, hi) for lo, hi in box)
                seen[place] = fill[place]
            changed.append({"image": seen})
        again = dense.with_roots(dense.roots, self.constants)
        return Case(made.plan, made.scans, made.regions, again, tuple(changed))

    def instance(self, name: str, outputs: list[Node], queries: int) -> Instance:
        """A plan of some outputs, in float64, with values and boxes to run it on."""
        plan = Plan(name, tuple((f"out{i}", e) for i, e in enumerate(outputs)), dtype="float64")
        boxes = [self.boxes() for _ in range(queries)]
        plan = plan.with_roots(plan.roots, self.constants)
        return Instance(plan, {"image": self.values(self.image.axes)}, {"image": boxes})

    def boxes(self) -> list[tuple[tuple[int, int], ...]]:
        """No box, or one or two; mostly over all channels, as an occlusion is."""
        found = []
        for _ in range(self.choices.one_of([0, 1, 1, 1, 2])):
            box = []
            for axis in self.image.axes:
                assert axis.extent is not None
                lo = self.choices.integer(0, axis.extent - 1)
                hi = self.choices.integer(lo + 1, axis.extent)
                whole = axis.name == "c" and self.choices.integer(0, 3)
                box.append((0, axis.extent) if whole else (lo, hi))
            found.append(tuple(box))
        return found


OPERATORS = (
    "conv", "conv", "depthwise", "transposed", "pool", "adaptive", "map", "elementwise", "scale",
    "union", "rekey",
)  # fmt: skip


def random_case(
    choices: Choices,
    *,
    deltas: bool = True,
    exact: bool = True,
    ranks: tuple[int, ...] = (1, 2, 3),
    most_steps: int = 5,
    most_queries: int = 3,
) -> Case:
    """A random small plan.

    Args:
        choices: where its choices come from.
        deltas: whether nodes may be replaced by overlays of saved views.
        exact: whether all functions map rationals to rationals.
        ranks: numbers of position axes to choose from.
        most_steps: most operators over the image.
        most_queries: most queries.
    """
    builder = Builder(choices, deltas, EXACT_MAPS if exact else EXACT_MAPS + FLOAT_MAPS, ranks)
    for _ in range(choices.integer(1, most_steps)):
        getattr(builder, choices.one_of(OPERATORS))()
    if choices.boolean():
        builder.head()
    return builder.finish(choices.integer(1, most_queries))

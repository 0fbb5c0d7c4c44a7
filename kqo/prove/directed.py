"""Plans that a rule's pattern may match, built from the pattern.

Random plans reach few rules: a negated relation that is added to another is rare. So the root of a
plan is built by going down the pattern: an operator is built with the fields that the pattern
states, and whatever it leaves open, a variable or a field that it does not name, is drawn. Of the
guards only those are looked at that want a constant, or none; the rule itself says afterwards
whether it matches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kqo.errors import Place, PlanError
from kqo.ir.equations import Affine, Condition, Ranged, equal
from kqo.ir.nodes import (
    AGGREGATES,
    COMBINES,
    Const,
    Domain,
    Group,
    Join,
    Map,
    Node,
    Overlay,
    Rekey,
    Saved,
    Slice,
    Union,
)
from kqo.ir.parse import parse_expression
from kqo.ir.scalar import Expr, V, call
from kqo.ir.schema import (
    Axes,
    Axis,
    axes_of,
    extent_of,
    is_position,
    is_tap,
    names,
    shape,
    size,
    without_query,
)
from kqo.ir.verify import verify
from kqo.lang import ast
from kqo.prove.choices import Choices
from kqo.prove.plans import EXACT_MAPS, MOST_KEYS, Builder, Entry, Instance

RANKS = (1, 2, 2, 3)
DYADIC_MAPS = (
    V, call("max", V, 0.0), call("mul", V, 2.0), call("neg", V), call("div", V, 4.0),
    call("add", call("mul", V, -0.5), 3.0), call("min", call("abs", V), 2.0),
)  # fmt: skip
OPEN_STEPS = ("conv", "map", "pool", "scale", "elementwise", "depthwise", "adaptive", "union",
              "rekey", "transposed")  # fmt: skip


class Refused(Exception):
    """The choices lead to no plan of the pattern."""


@dataclass(frozen=True)
class _Windowed:
    """What a join with conditions reads on the right, and what it declares."""

    right: Node
    on: tuple[Condition, ...]
    axes: Axes


class Directed(Builder):
    """Builds nodes that a pattern may match, over the entries of a random plan."""

    def __init__(self, choices: Choices, deltas: bool, rule: ast.Rule) -> None:
        self._divisor = False
        super().__init__(choices, deltas, DYADIC_MAPS, RANKS)
        self._constant = _guarded(rule, "is_const")
        self._ones = _guarded(rule, "is_ones")
        self._bound: dict[str, Node] = {}

    def draw_values(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Small multiples of 1/2; powers of 2 to divide by, whose inverses are exact in floats."""
        if self._divisor:
            return rng.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0], count)
        return super().draw_values(rng, count)

    def node(self, pattern: ast.Pattern | None, like: Axes | None = None) -> Node:
        """A node for a pattern; ``like`` are axes that a variable had better join with.

        Raises:
            Refused: the choices lead to none.
            PlanError: they lead to one that is malformed.
        """
        if isinstance(pattern, ast.Bind):
            made = self.node(pattern.pattern, like)
            self._bound[pattern.variable.name] = made
            return made
        if isinstance(pattern, ast.AnyOf):
            return self.node(self.choices.one_of(pattern.options), like)
        if isinstance(pattern, ast.Variable):
            if pattern.name not in self._bound:
                wanted = self._constant.get(pattern.name)
                ones = self._ones.get(pattern.name, False)
                found = self._relation(like, wanted or ones)
                if ones and isinstance(found, Const):
                    self.constants[found.name] = np.ones(shape(found.axes))
                self._bound[pattern.name] = found
            return self._bound[pattern.name]
        if isinstance(pattern, ast.NodePattern):
            build: Callable[[dict[str, ast.Pattern], Axes | None], Node] = getattr(
                self, f"_{pattern.op.lower()}"
            )
            return build({f.field: f.pattern for f in pattern.fields}, like)
        return self._relation(like)

    def _relation(self, like: Axes | None, constant: bool | None = None) -> Node:
        """A relation that joins with ``like``: one that varies by query, its old value, or a
        constant over some of the axes."""
        kind = "const"
        if not constant:
            kinds = ("new", "new", "overlay", "old", "const")
            kind = self.choices.one_of(kinds if constant is None else kinds[:-1])
        if kind == "const":
            axes = like if like is not None else self.image.axes
            chosen = tuple(axis for axis in axes if axis.name == "c" or self.choices.boolean())
            return self.const("k", chosen)
        entry = self._entry(like)
        if kind == "overlay":
            return self._over(entry)
        if kind == "old" and entry.old is self.image and self.choices.boolean():
            return Map(entry.old, self.choices.one_of(self._maps()))  # more than a base relation
        return entry.node if kind == "new" else entry.old

    def _entry(self, like: Axes | None) -> Entry:
        fitting = [e for e in self.entries if like is None or _joins(e.axes, like)]
        if not fitting:
            raise Refused
        return self.choices.one_of(fitting)

    def _over(self, entry: Entry) -> Node:
        """The entry as an overlay of its old value, plain or a view."""
        if isinstance(entry.node, Overlay) or entry.at is None:
            return entry.node
        old = Saved(entry.old) if self.choices.boolean() else entry.old
        return Overlay(old, Slice(entry.node, entry.at), entry.at)

    def _scan(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        return self.image

    def _const(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        axes = like if like is not None else self.image.axes
        return self.const("k", tuple(a for a in axes if a.name == "c" or self.choices.boolean()))

    def _domain(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        if isinstance(fields.get("axes"), ast.Empty):
            return Domain(())
        return Domain(like if like is not None else self.image.axes)

    def _overlay(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        entry = self._entry(like)
        wanted = {n.op for n in _patterns(fields.get("base"))}
        if wanted - {"Saved"}:
            base = self.node(fields.get("base"), like)
            known = [e for e in self.entries if base in (e.node, e.old) and e.at is not None]
            if known:
                entry = known[0]
        made = self._over(entry)
        self._bind(fields, made)
        return made

    def _bind(self, fields: dict[str, ast.Pattern], made: Node) -> None:
        """Have variables of the pattern read what stands in the node's fields."""
        for name, pattern in fields.items():
            value = getattr(made, name)
            if isinstance(pattern, ast.Variable) and isinstance(value, Node):
                self._bound.setdefault(pattern.name, value)

    def _slice(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        entry = self._entry(like)
        if entry.at is None:
            raise Refused
        return Slice(entry.node, entry.at)

    def _saved(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        return Saved(self.node(fields.get("input"), like))

    def _physical(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        """What a physical rule turns into one."""
        kind = self.choices.one_of(("group", "map", "join"))
        if kind == "map":
            return self._map({}, like)
        return self._group({}, like) if kind == "group" else self._join({}, like)

    def _opaque(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        raise Refused

    def _map(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        source = self.node(fields.get("input"), like)
        fn = fields.get("fn")
        stated = [parse_expression(str(p.value)) for p in _literals(fn)]
        return Map(source, self.choices.one_of(stated or self._maps()))

    def _maps(self) -> tuple[Expr, ...]:
        return DYADIC_MAPS + EXACT_MAPS

    def _union(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        parts = fields.get("parts")
        if isinstance(parts, ast.Bind):
            parts = parts.pattern
        inner = parts.pattern if isinstance(parts, ast.Some) else None
        first = self.node(inner, like)
        around = without_query(first.schema)
        if not around:
            raise Refused
        made = [first, *(self._beside(around) for _ in range(self.choices.one_of((1, 2, 0))))]
        if self.choices.boolean():
            made.reverse()
        return Union(tuple(made), around[0].name)

    def _beside(self, axes: Axes) -> Node:
        """A part to concatenate along the first of the axes."""
        fitting = [e for e in self.entries if names(e.axes)[:1] == names(axes)[:1]]
        fitting = [e for e in fitting if e.axes[1:] == axes[1:]]
        kind = self.choices.one_of(("new", "overlay", "old", "const"))
        if kind == "const" or not fitting:
            return self.const("k", (Axis(axes[0].name, self.choices.integer(1, 2)), *axes[1:]))
        entry = self.choices.one_of(fitting)
        return {"new": entry.node, "overlay": self._over(entry), "old": entry.old}[kind]

    def _rekey(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        source = self.node(fields.get("input"), like)
        axes = without_query(source.schema)
        kinds = ("same", "flat", "turned", "merged", "features", "features", "renamed")
        kind = self.choices.one_of(kinds)
        if kind == "flat":
            return Rekey(source, names(axes), axes_of(c=size(axes)))
        if kind == "merged" and len(axes) > 1:
            # The last two axes numbered as one.
            last = Axis(axes[-1].name, size(axes[-2:]))
            return Rekey(source, names(axes), (*axes[:-2], last))
        features = tuple(axis for axis in axes if not is_position(axis.name))
        if kind == "features" and axes[: len(features)] == features:
            return Rekey(source, names(axes), (Axis("c", size(features)), *axes[len(features) :]))
        if kind == "turned":
            turned = tuple(reversed(axes))
            return Rekey(source, names(turned), turned)
        if kind == "renamed":
            spare = tuple(Axis(f"n{i}", axis.extent) for i, axis in enumerate(axes))
            return Rekey(source, names(axes), spare)
        return Rekey(source, names(axes), axes)

    def _group(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        source = self.node(fields.get("input") or self._join_pattern(), like)
        axes = without_query(source.schema)
        agg = self._name(fields.get("agg"), AGGREGATES)
        if isinstance(fields.get("by"), ast.Empty):
            return Group(source, (), agg)
        windowed = isinstance(source, Join) and source.on
        kept = tuple(
            axis.name
            for axis in axes
            if (not (is_tap(axis.name) or axis.name == "i") if windowed else self.choices.boolean())
        )
        if windowed:  # features before positions, as the frontend puts them
            kept = tuple(sorted(kept, key=lambda name: (is_position(name), name != "g")))
        whole = self.choices.integer(0, 3) == 3
        return Group(source, names(axes) if whole and not windowed else kept, agg)

    def _join_pattern(self) -> ast.Pattern | None:
        """A join for a group whose input the pattern leaves open; as often, any relation."""
        if self.choices.boolean():
            return None
        return ast.NodePattern("Join", (), Place("", 0))

    def _join(self, fields: dict[str, ast.Pattern], like: Axes | None) -> Node:
        left = self.node(fields.get("left"), like)
        axes = without_query(left.schema)
        combine = self._name(fields.get("combine"), COMBINES)
        on, right = fields.get("on"), fields.get("right")
        natural = isinstance(on, ast.Empty) or self.choices.integer(0, 3) == 3
        if natural or (on is None and self.choices.boolean()):
            self._divisor = combine == "div"
            made_right = self.node(right, axes)
            self._divisor = False
            return Join(left, made_right, (), (), combine)
        made = self._windowed(axes, right, bare=isinstance(fields.get("axes"), ast.Empty))
        self._bind_right(right, made.right)
        return Join(left, made.right, made.on, made.axes, combine)

    def _bind_right(self, right: ast.Pattern | None, made: Node) -> None:
        if isinstance(right, ast.Bind):
            self._bound[right.variable.name] = made
        elif isinstance(right, ast.Variable):
            self._bound[right.name] = made

    def _windowed(self, axes: Axes, right: ast.Pattern | None, bare: bool) -> _Windowed:
        """Conditions with the relation that they are stated against."""
        wanted = _patterns(right)
        domain = next((p for p in wanted if p.op == "Domain"), None)
        if domain is not None and any(isinstance(f.pattern, ast.Empty) for f in domain.fields):
            return self._crop(axes)
        kinds = ["equal", "whole"] if bare else ["conv", "depthwise", "equal", "whole", "grouped"]
        if domain is not None:
            kinds = ["pool", "pool", "ranged"]
        elif not wanted:
            kinds += [] if bare else ["pool", "crop", "ranged"]
        kind = self.choices.one_of(kinds)
        made: _Windowed = getattr(self, f"_{kind}")(axes)
        return made

    def _taps(self, axes: Axes) -> tuple[tuple[Condition, ...], Axes, Axes]:
        """Windows along some position axes: conditions, output axes and taps."""
        on: list[Condition] = []
        out: list[Axis] = []
        taps: list[Axis] = []
        moved = [a.name for a in axes if is_position(a.name)]
        if not moved:
            raise Refused
        plain = self.choices.boolean()  # stride and dilation 1, the edges kept
        whole = not plain and self.choices.integer(0, 3) == 3
        for axis in moved:
            extent = extent_of(axes, axis)
            kernel = extent if whole else self.choices.one_of((1, 2, 3))
            kernel = 3 if plain and kernel == 2 else kernel
            stride = 1 if plain or whole else self.choices.integer(1, 2)
            dilation = 1 if plain or whole else self.choices.integer(1, 2)
            padding = 0 if whole else kernel // 2 if plain else self.choices.integer(0, 1)
            room = extent + 2 * padding - dilation * (kernel - 1) - 1
            if room < 0:
                raise Refused
            terms = ((stride, axis), (dilation, f"k{axis}"))
            on.append(Affine(axis, terms, -padding))
            out.append(Axis(axis, room // stride + 1))
            taps.append(Axis(f"k{axis}", kernel))
        return tuple(on), tuple(out), tuple(taps)

    def _conv(self, axes: Axes) -> _Windowed:
        on, out, taps = self._taps(axes)
        kernel = axes_of(c=self.choices.integer(1, 3), i=_channels(axes))
        return _Windowed(self.const("w", (*kernel, *taps)), (equal("c", "i"), *on), out)

    def _grouped(self, axes: Axes) -> _Windowed:
        """A convolution of groups of channels, each by itself."""
        on, out, taps = self._taps(axes)
        channels = _channels(axes)
        groups = self.choices.one_of([n for n in range(channels, 0, -1) if channels % n == 0])
        kernel = axes_of(g=groups, c=self.choices.integer(1, 2), i=channels // groups)
        inner = Affine("c", ((channels // groups, "g"), (1, "i")))
        return _Windowed(self.const("w", (*kernel, *taps)), (inner, *on), out)

    def _depthwise(self, axes: Axes) -> _Windowed:
        on, out, taps = self._taps(axes)
        return _Windowed(self.const("w", (Axis("c", _channels(axes)), *taps)), on, out)

    def _pool(self, axes: Axes) -> _Windowed:
        on, out, taps = self._taps(axes)
        return _Windowed(Domain(taps), on, out)

    def _equal(self, axes: Axes) -> _Windowed:
        """A layer over the channels at each position."""
        kernel = axes_of(c=self.choices.integer(1, 3), i=_channels(axes))
        return _Windowed(self.const("w", kernel), (equal("c", "i"),), ())

    def _whole(self, axes: Axes) -> _Windowed:
        """A linear layer over everything: each axis against one of the kernel."""
        into = [Axis("i" if a.name == "c" else f"k{a.name}", a.extent) for a in axes]
        on = tuple(equal(a.name, k.name) for a, k in zip(axes, into, strict=True))
        kernel = (Axis("c", self.choices.integer(1, 3)), *into)
        if size(kernel) > MOST_KEYS:
            raise Refused
        return _Windowed(self.const("w", kernel), on, ())

    def _crop(self, axes: Axes) -> _Windowed:
        """A crop, a strided slice, or a frame around, along some axes."""
        on, out = [], []
        for axis in axes:
            extent = extent_of(axes, axis.name)
            if is_position(axis.name) or self.choices.boolean():
                step, offset = self.choices.integer(1, 2), self.choices.integer(-1, 1)
                on.append(Affine(axis.name, ((step, axis.name),), offset))
                out.append(Axis(axis.name, max(1, extent // step + self.choices.integer(-1, 1))))
        if not on:
            raise Refused
        return _Windowed(Domain(()), tuple(on), tuple(out))

    def _ranged(self, axes: Axes) -> _Windowed:
        """Adaptive pooling along the last axis."""
        if not axes or not is_position(axes[-1].name):
            raise Refused
        axis = axes[-1]
        extent, out = extent_of(axes, axis.name), self.choices.integer(1, 3)
        lo = tuple(extent * i // out for i in range(out))
        hi = tuple(-(-extent * (i + 1) // out) for i in range(out))
        tap = f"k{axis.name}"
        taps = axes_of(**{tap: max(b - a for a, b in zip(lo, hi, strict=True))})
        on = (Ranged(axis.name, axis.name, tap, lo, hi),)
        return _Windowed(Domain(taps), on, axes_of(**{axis.name: out}))

    def _name(self, pattern: ast.Pattern | None, every: Sequence[str]) -> str:
        """A name that the pattern admits."""
        stated = [str(p.value) for p in _literals(pattern)]
        return self.choices.one_of(stated or every)


def directed(choices: Choices, rule: ast.Rule) -> Instance | None:
    """A plan whose root the rule's pattern may match; None where the choices lead to none."""
    builder = Directed(choices, choices.boolean(), rule)
    for _ in range(choices.integer(0, 3)):
        getattr(builder, choices.one_of(OPEN_STEPS))()
    try:
        root = builder.node(rule.match)
        verify([root])
        if any(size(node.schema) > MOST_KEYS for node in (root, *root.inputs)):
            return None
    except (Refused, PlanError, KeyError):
        return None
    outputs = [root, builder.pick().node] if choices.integer(0, 3) == 3 else [root]
    return builder.instance("random", outputs, choices.integer(1, 2))


def _guarded(rule: ast.Rule, fn: str) -> dict[str, bool]:
    """The variables of which a guard wants the function to hold, or not to."""
    found = {}
    for step in rule.steps:
        for condition in step.conditions if isinstance(step, ast.Where) else ():
            call = condition.value if isinstance(condition, ast.Holds) else None
            if isinstance(call, ast.Call) and call.fn == fn:
                for variable in call.args:
                    if isinstance(variable, ast.Variable):
                        found[variable.name] = not condition.negated
    return found


def _channels(axes: Axes) -> int:
    if "c" not in names(axes):
        raise Refused
    return extent_of(axes, "c")


def _joins(axes: Axes, like: Axes) -> bool:
    known = dict(without_query(like))
    return all(known.get(axis.name, axis.extent) == axis.extent for axis in axes)


def _patterns(pattern: ast.Pattern | None) -> list[ast.NodePattern]:
    """The operator patterns that a pattern may stand for, at its own place."""
    if isinstance(pattern, ast.NodePattern):
        return [pattern]
    if isinstance(pattern, (ast.Bind, ast.Some)):
        return _patterns(pattern.pattern)
    if isinstance(pattern, ast.AnyOf):
        return [found for option in pattern.options for found in _patterns(option)]
    return []


def _literals(pattern: ast.Pattern | None) -> list[ast.Literal]:
    """The literals that a pattern may stand for."""
    if isinstance(pattern, ast.Literal):
        return [pattern]
    if isinstance(pattern, ast.Bind):
        return _literals(pattern.pattern)
    if isinstance(pattern, ast.AnyOf):
        return [found for option in pattern.options for found in _literals(option)]
    return []

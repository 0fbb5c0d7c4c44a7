"""The plain implementation of every logical node on rows: complete, and in no hurry.

It exists so that a plan runs under any set of physical rules, including none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.ir.equations import Affine, Condition
from kqo.ir.nodes import Const, Domain, Group, Join, Map, Node, Physical, Rekey, Union
from kqo.ir.plan import Array
from kqo.ir.scalar import Expr, Num, Var
from kqo.ir.schema import Axes, Axis, features, names, positions, shape, size, without_query
from kqo.ir.window import Window, roles
from kqo.planner.physical import Step
from kqo.runtime import functions
from kqo.runtime.bind import Binder, natural_reads
from kqo.runtime.rows import IDENTITY_ROW, PADDING_ROWS, ZERO, Ints, Key, Region, lookup_keys
from kqo.runtime.workspace import Input

Values = NDArray[Any]
Run = Callable[[int, int], Values]


def _truth(compare: np.ufunc) -> Callable[[Values, Values], Values]:
    """A comparison that gives 1 or 0, of the type of what it compares."""

    def compared(a: Values, b: Values) -> Values:
        return np.asarray(compare(a, b), dtype=np.result_type(a, b))

    return compared


COMBINE: dict[str, Callable[[Values, Values], Values]] = {
    "mul": np.multiply,
    "add": np.add,
    "sub": np.subtract,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "gt": _truth(np.greater),
    "ge": _truth(np.greater_equal),
    "eq": _truth(np.equal),
    "when": lambda v, m: np.asarray(np.where(m != 0, v, -np.inf)),
}
REDUCE: dict[str, Callable[..., Values]] = {
    "sum": np.sum,
    "mean": np.sum,
    "max": np.max,
    "min": np.min,
}
IDENTITY = {"sum": 0.0, "mean": 0.0, "": 0.0, "max": -math.inf, "min": math.inf}
_CALLS: dict[str, Callable[..., Values]] = {
    **COMBINE,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "atan": np.arctan,
    "fmod": np.fmod,
    "where": lambda c, a, b: np.asarray(np.where(c != 0, a, b)),
}


def evaluate(expr: Expr, values: dict[str, Values]) -> Any:
    """A scalar expression on arrays."""
    if isinstance(expr, Var):
        return values[expr.name]
    if isinstance(expr, Num):
        return expr.value
    args = [evaluate(a, values) for a in expr.args]
    if expr.fn in _CALLS:
        return _CALLS[expr.fn](*args)
    out = np.empty_like(args[0])
    getattr(functions, expr.fn)(*args, out=out)
    return out


def read_rows(source: Input, a: int, z: int) -> Values:
    """The rows that output rows a to z read, shape (rows, taps, columns)."""
    if source.index is None:
        return source.buffer[source.first + a : source.first + z][:, None]
    return source.buffer[source.index[a:z]]


def _apply_features(
    x: Values, own: list[str], conditions: tuple[tuple[str, Condition], ...], sizes: dict[str, int]
) -> tuple[Values, list[str], Values | None]:
    """Replace feature axes that a condition binds by the axes that it reads.

    Args:
        x: values, axes as in ``own`` with the row axis first.
        own: axis names of x.
        conditions: by feature axis of x.
        sizes: extents of the join's axes.

    Returns:
        the values, their axes, and which of them are present (None where all are).
    """
    present: Values | None = None
    for name, condition in conditions:
        at = own.index(name)
        extent = x.shape[at]
        reads = list(dict.fromkeys(condition.reads))
        grid = np.meshgrid(*(np.arange(sizes[r]) for r in reads), indexing="ij") if reads else []
        known = dict(zip(reads, grid, strict=True))
        if isinstance(condition, Affine):
            key = sum((c * known[n] for c, n in condition.terms), np.int64(condition.offset))
            key = np.asarray(key)
            bad = key % condition.scale != 0
            key = key // condition.scale
        else:
            key = np.array(condition.lo)[known[condition.out]] + known[condition.tap]
            bad = key >= np.array(condition.hi)[known[condition.out]]
        bad = bad | (key < 0) | (key >= extent)
        x = np.take(x, np.where(bad, 0, key), axis=at)
        if bad.any():
            along = [1] * x.ndim
            along[at : at + len(reads)] = bad.shape
            here = ~bad.reshape(along)
            present = here if present is None else present & here
        own = own[:at] + reads + own[at + 1 :]
    return x, own, present


def _aligned(x: Values, own: list[str], order: list[str]) -> Values:
    """The array with its axes in ``order``, length 1 where it lacks one."""
    x = x.transpose([own.index(n) for n in order if n in own])
    rest = iter(x.shape)
    return x.reshape([next(rest) if n in own else 1 for n in order])


class PlainGroup:
    """Join, group and aggregate by named axes, a block of rows at a time."""

    def __init__(self, step: Step, node: Node, binder: Binder, out: Region, k: dict[str, Array]):
        self.window: Window = roles(node)
        window = self.window
        self.agg = node.agg if isinstance(node, Group) else ""
        join = node.input if isinstance(node, Group) else node
        self.combine = join.combine if isinstance(join, Join) else "left"
        sizes: dict[str, int] = {a.name: a.extent or 0 for a in (*window.taps, *window.columns)}
        sizes.update({a.name: a.extent or 0 for a in window.summed})
        self.sizes = sizes
        self.read = (*window.taps, *window.kept)
        self.order = [*names(window.columns), *names(window.taps), *names(window.summed)]
        assert step.sources[0] is not None or isinstance(_left(node), (Const, Domain))
        missing = IDENTITY_ROW[self.agg]
        self.left: Input | None = None
        self.left_const: Array | None = None
        if step.sources[0] is None:
            self.left_const = _constant(_left(node), k)
        else:
            self.left = binder.read(
                step.sources[0], out, window.reads, self.read, missing, step.delta
            )
        self.right: Input | None = None
        self.right_const: Array | None = None
        self.right_axes: list[str] = []
        if isinstance(join, Join):
            self._bind_right(step, join, binder, out, k)

    def _bind_right(
        self, step: Step, join: Join, binder: Binder, out: Region, k: dict[str, Array]
    ) -> None:
        right = without_query(join.right.schema)
        if step.sources[1] is None:
            self.right_const = _constant(join.right, k)
            self.right_axes = list(names(right))
            return
        reads = natural_reads(positions(right))
        # Taps that are no positions of the right side are columns of it: kernels by position.
        taps = tuple(a for a in self.window.taps if a.name in names(positions(right)))
        self.right = binder.read(step.sources[1], out, reads, taps, ZERO, step.delta)
        self.right_axes = [*names(taps), *names(features(right))]

    def __call__(self, a: int, z: int) -> Values:
        """Values of rows a to z, shape (rows, columns)."""
        window = self.window
        taps, own = shape(self.read), [*names(self.read), *names(window.left_features)]
        x: Values
        present: Values | None = None
        if self.left is not None:
            x = read_rows(self.left, a, z).reshape(z - a, *taps, *shape(window.left_features))
            if self.left.index is not None and (self.left.index[a:z] < PADDING_ROWS).any():
                here = self.left.index[a:z] >= PADDING_ROWS
                present = here.reshape(z - a, *taps, *([1] * len(window.left_features)))
        else:
            assert self.left_const is not None
            own = list(names(window.left_features))
            x = self.left_const[None]
        x, axes, other = _apply_features(x, ["r", *own], window.feature_on, self.sizes)
        order = ["r", *self.order]
        if present is not None:
            present = self._spread(present)
        x = _aligned(x, axes, order)
        if other is not None:
            other = _aligned(other, axes, order)
            present = other if present is None else present & other
        y = self._right_values(a, z, order)
        value = x if y is None or self.combine == "left" else None
        full = (z - a, *(self.sizes[n] for n in self.order))
        if value is None and self.combine == "mul" and self.agg == "sum" and present is None:
            assert y is not None
            letters = {n: chr(97 + i) for i, n in enumerate(order)}
            return self._einsum(x, y, order, letters, full)
        if value is None:
            assert y is not None
            value = COMBINE[self.combine](x, y)
        value = np.broadcast_to(value, full)
        if present is not None:
            value = np.where(present, value, IDENTITY[self.agg])
        reduced = tuple(range(1 + len(window.columns), len(order)))
        if self.agg:
            result = REDUCE[self.agg](value, axis=reduced) if reduced else value
            if self.agg == "mean":
                one = np.True_ if present is None else present
                count = np.broadcast_to(one, full).sum(axis=reduced)
                result = result / np.maximum(count, 1)
            value = np.asarray(result)
        return value.reshape(z - a, -1)

    def _spread(self, present: Values) -> Values:
        """Presence of taps, over all axes of the join."""
        taps = names(self.read)
        rows = present.reshape(present.shape[: 1 + len(taps)])
        return _aligned(rows, ["r", *taps], ["r", *self.order])

    def _right_values(self, a: int, z: int, order: list[str]) -> Values | None:
        if self.right_const is not None:
            return _aligned(self.right_const[None], ["r", *self.right_axes], order)
        if self.right is None:
            return None
        extents = [self.sizes[n] for n in self.right_axes]
        y = read_rows(self.right, a, z).reshape(z - a, *extents)
        return _aligned(y, ["r", *self.right_axes], order)

    def _einsum(
        self, x: Values, y: Values, order: list[str], letters: dict[str, str], full: tuple[int, ...]
    ) -> Values:
        keep_x = [n for n, s in zip(order, x.shape, strict=True) if s != 1 or n == "r"]
        keep_y = [n for n, s in zip(order, y.shape, strict=True) if s != 1]
        out = ["r", *names(self.window.columns)]
        x = x.reshape([s for n, s in zip(order, x.shape, strict=True) if n in keep_x])
        y = y.reshape([s for s in y.shape if s != 1])
        missing = [n for n in out if n not in keep_x and n not in keep_y]
        spec = "{},{}->{}".format(
            "".join(letters[n] for n in keep_x),
            "".join(letters[n] for n in keep_y),
            "".join(letters[n] for n in out if n not in missing),
        )
        result = np.einsum(spec, x, y, optimize=True)
        lost = [n for n in self.order if n not in keep_x and n not in keep_y and n not in out]
        if lost:
            result = result * math.prod(self.sizes[n] for n in lost)
        shaped = result.reshape([1 if n in missing else full[order.index(n)] for n in out])
        whole = [full[order.index(n)] for n in out]
        return np.ascontiguousarray(np.broadcast_to(shaped, whole)).reshape(full[0], -1)


def _left(node: Node) -> Node:
    inner = node.input if isinstance(node, Group) else node
    return inner.left if isinstance(inner, Join) else inner


def _constant(node: Node, k: dict[str, Array]) -> Array:
    if isinstance(node, Domain):
        return np.ones(shape(node.axes), dtype=next(iter(k.values())).dtype if k else np.float32)
    assert isinstance(node, Const)
    return k[node.name]


def moved_columns(node: Rekey) -> Ints | None:
    """The input's column of each output column, where a renumbering keeps positions as they are.

    None where it does not: where positions change places with features, or are numbered anew.
    """
    extents = dict(without_query(node.input.schema))
    before = [Axis(name, extents[name]) for name in node.order]
    after = list(node.axes)
    while before and after:
        old, new = [before.pop(0)], [after.pop(0)]
        while size(tuple(old)) != size(tuple(new)):
            smaller, rest = (old, before) if size(tuple(old)) < size(tuple(new)) else (new, after)
            if not rest:
                return None
            smaller.append(rest.pop(0))
        if old != new and positions((*old, *new)):
            return None
    if before or after:
        return None
    source = features(without_query(node.input.schema))
    order = [names(source).index(name) for name in node.order if name in names(source)]
    columns = np.arange(size(source)).reshape(shape(source))
    return columns.transpose(order).reshape(-1)


class PlainColumns:
    """A renumbering of features alone: whole rows are read, and their columns moved."""

    def __init__(self, step: Step, node: Rekey, binder: Binder, out: Region, columns: Ints) -> None:
        assert step.sources[0] is not None
        reads = natural_reads(positions(node.input.schema))
        self.input = binder.read(step.sources[0], out, reads, (), ZERO, step.delta)
        in_order = np.array_equal(columns, np.arange(len(columns)))
        self.columns = None if in_order else columns

    def __call__(self, a: int, z: int) -> Values:
        """Values of rows a to z, shape (rows, columns)."""
        rows = read_rows(self.input, a, z)[:, 0]
        return rows if self.columns is None else np.take(rows, self.columns, axis=1)


class PlainRekey:
    """Element by element: which row and column of the input each output element is."""

    def __init__(self, step: Step, node: Rekey, binder: Binder, out: Region) -> None:
        assert step.sources[0] is not None
        source = without_query(node.input.schema)
        extents = dict(source)
        wide = features(node.axes)
        columns = math.prod(shape(wide))
        column = np.unravel_index(np.arange(columns), shape(wide)) if wide else ()
        known: dict[str, Any] = {a.name: c[None, :] for a, c in zip(wide, column, strict=True)}
        for axis, coordinate in zip(out.positions, out.coordinates, strict=True):
            known[axis.name] = coordinate[:, None]
        linear: Any = np.zeros((1, 1), dtype=np.int64)
        for axis in node.axes:
            linear = linear * (axis.extent or 0) + known[axis.name]
        keys: dict[str, Any] = {}
        for name in reversed(node.order):
            keys[name] = linear % (extents[name] or 1)
            linear = linear // (extents[name] or 1)
        at: Any = np.zeros((1, 1), dtype=np.int64)
        for axis in features(source):
            at = at * (axis.extent or 0) + keys[axis.name]
        place = binder.source(step.sources[0], step.delta)
        read: list[Key] = [(keys[a.name], None) for a in positions(source)]
        index = lookup_keys(out.points, place, read, (columns,), ZERO)
        self.buffer = binder.buffers[step.sources[0]]
        self.rows = index
        self.columns = np.broadcast_to(at, index.shape)

    def __call__(self, a: int, z: int) -> Values:
        """Values of rows a to z, shape (rows, columns)."""
        return np.asarray(self.buffer[self.rows[a:z], self.columns[a:z]])


class PlainMap:
    """A scalar expression on rows."""

    def __init__(self, step: Step, node: Map, binder: Binder, out: Region) -> None:
        assert step.sources[0] is not None
        reads = natural_reads(positions(node.input.schema))
        self.input = binder.read(step.sources[0], out, reads, (), ZERO, step.delta)
        self.fn = node.fn

    def __call__(self, a: int, z: int) -> Values:
        """Values of rows a to z, shape (rows, columns)."""
        with np.errstate(all="ignore"):
            return np.asarray(evaluate(self.fn, {"v": read_rows(self.input, a, z)[:, 0]}))


class PlainUnion:
    """Concatenation along a feature axis, or along a position axis."""

    def __init__(self, step: Step, node: Union, binder: Binder, out: Region) -> None:
        self.node = node
        self.out = out
        self.parts: list[tuple[Input, Any]] = []
        along = names(out.positions).index(node.axis) if node.axis in names(out.positions) else None
        for part, table, offset in zip(node.parts, step.sources, node.offsets, strict=True):
            assert table is not None
            keys: list[Key] = [(c[:, None], None) for c in out.coordinates]
            here = None
            if along is not None:
                local = out.coordinates[along] - offset
                extent = dict(part.schema)[node.axis] or 0
                here = (local >= 0) & (local < extent)
                keys[along] = (np.clip(local, 0, extent - 1)[:, None], None)
            index = lookup_keys(out.points, binder.source(table, step.delta), keys, (1,), ZERO)
            self.parts.append((Input(binder.buffers[table], index), here))
        self.axis = -1 if along is not None else names(features(node.schema)).index(node.axis)

    def __call__(self, a: int, z: int) -> Values:
        """Values of rows a to z, shape (rows, columns)."""
        if self.axis < 0:
            value: Values | None = None
            for source, here in self.parts:
                x = read_rows(source, a, z)[:, 0]
                value = x if value is None else np.where(here[a:z, None], x, value)
            assert value is not None
            return value
        shaped = [
            read_rows(source, a, z).reshape(z - a, *shape(features(part.schema)))
            for (source, _), part in zip(self.parts, self.node.parts, strict=True)
        ]
        return np.concatenate(shaped, axis=1 + self.axis).reshape(z - a, -1)


def plain(step: Step, binder: Binder, out: Region, k: dict[str, Array]) -> Run:
    """The plain implementation of a step, bound to rows."""
    node = step.node
    if isinstance(node, (Group, Join)):
        return PlainGroup(step, node, binder, out, k)
    if isinstance(node, Map):
        return PlainMap(step, node, binder, out)
    if isinstance(node, Rekey):
        columns = moved_columns(node)
        if columns is not None:
            return PlainColumns(step, node, binder, out, columns)
        return PlainRekey(step, node, binder, out)
    if isinstance(node, Union):
        return PlainUnion(step, node, binder, out)
    if isinstance(node, Domain):
        wide = size(features(node.axes))
        return lambda a, z: np.ones((z - a, wide))
    what = node.form if isinstance(node, Physical) else node.op
    raise PlanError(f"no plain implementation of {what}")


def layout(axes: Axes) -> list[int]:
    """Permutation from (positions..., features...) to the order of the axes."""
    own = [*names(positions(axes)), *names(features(axes))]
    return [own.index(n) for n in names(axes)]

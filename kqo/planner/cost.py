"""The cost model: operations and bytes of each physical form, times a machine's rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from kqo.ir.equations import Affine
from kqo.ir.nodes import GROUPED, Const, Domain, Group, Join, Node, Physical
from kqo.ir.physical import CONCAT, concatenated
from kqo.ir.scalar import Call, Expr, Num, Var
from kqo.ir.schema import features, positions, size
from kqo.ir.window import Window, group_products, roles, tiling
from kqo.ir.winograd import points_of
from kqo.planner.rates import Rates

WORD = 4
BLOCK_BYTES = 1 << 19
"""Scratch of a block of rows, as the runtime cuts them, so that it stays in the cache."""
SHORT_ROW = 32
"""Bytes of rows up to which windows of several axes are put together from strips."""
FEWEST_ROWS = 512
FEWEST_TILES = 192
PRODUCT_FORMS = ("gather_gemm", GROUPED, "winograd")
"""Forms that multiply matrices, with a kernel in a layout of their own."""
FUNCTIONS = frozenset((
    "exp", "log", "log1p", "sqrt", "rsqrt", "pow", "tanh", "sigmoid", "erf", "sin", "cos", "atan",
    "fmod",
))  # fmt: skip


class Work(NamedTuple):
    """What a step does: multiply-adds of the logical operator, and the form's own counts.

    Attributes:
        macs: multiply-adds that the definition of the operator needs.
        flops: floating-point operations of matrix products, as this form does them.
        inner: inner size of these products.
        wide: their columns.
        panels: bytes of their right sides, over all calls.
        batched: floating-point operations of Winograd's products.
        transforms: floating-point operations of Winograd's transforms.
        gather_rows: rows moved by gathers.
        gathered: bytes moved by gathers (read plus write).
        streamed: bytes moved by elementwise work (read plus write).
        scalars: elements of operations with a number.
        vectors: elements of operations with a broadcast row.
        pairs: elements of operations on two arrays.
        functions: elements of exponentials and their like.
        calls: NumPy calls.
        indices: row numbers computed when the step is bound.
    """

    macs: int = 0
    flops: int = 0
    inner: int = 1
    wide: int = 1
    panels: int = 0
    batched: int = 0
    transforms: int = 0
    gather_rows: int = 0
    gathered: int = 0
    streamed: int = 0
    scalars: int = 0
    vectors: int = 0
    pairs: int = 0
    functions: int = 0
    calls: int = 0
    indices: int = 0

    def seconds(self, rates: Rates) -> float:
        """Predicted time on one core, without the fixed cost of binding."""
        return (
            self.flops / rates.product(self.inner, self.wide)
            + self.panels / rates.panel
            + self.batched / rates.batched
            + self.transforms / rates.transform
            + self.gather_rows * rates.gather_row
            + self.gathered / rates.gather
            + self.scalars / rates.scalar
            + self.vectors / rates.vector
            + self.pairs / rates.stream
            + self.functions / rates.function
            + self.calls * rates.call
            + self.indices / rates.index
        )


def columns_in(window: Window) -> int:
    """Features of the left relation."""
    return size(window.left_features)


def macs_per_row(node: Node) -> int:
    """Multiply-adds per output row of a sum of products; 0 for any other node."""
    if isinstance(node, Physical):
        products = node.combine == "mul" and node.agg == "sum"
    else:
        products = (
            isinstance(node, Group)
            and isinstance(node.input, Join)
            and node.input.combine == "mul"
            and node.agg == "sum"
        )
    if not products:
        return 0
    window = roles(node)
    return size(window.columns) * size(window.summed) * window.tap_count


FILLED = ("max", "min")
"""Functions that NumPy computes several times faster with an array than with a number."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Elementwise operations of an expression, by what they read."""

    scalars: int = 0
    vectors: int = 0
    pairs: int = 0
    functions: int = 0

    @property
    def calls(self) -> int:
        """Operations in all."""
        return self.scalars + self.vectors + self.pairs + self.functions


@lru_cache(maxsize=8192)
def passes(expr: Expr, vectors: frozenset[str]) -> Passes:
    """Elementwise operations of an expression.

    Args:
        expr: over ``v`` and operands.
        vectors: names of the operands that are one row, broadcast.
    """
    distinct: set[Call] = set()
    waiting = [expr]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Call) and found not in distinct:  # what is repeated is computed once
            distinct.add(found)
            waiting.extend(found.args)
    every = [_pass(each, vectors) for each in distinct]
    return Passes(
        sum(p.scalars for p in every),
        sum(p.vectors for p in every),
        sum(p.pairs for p in every),
        sum(p.functions for p in every),
    )


def _pass(expr: Call, vectors: frozenset[str]) -> Passes:
    """The last operation of an expression."""
    names = {arg.name for arg in expr.args if isinstance(arg, Var)}
    if expr.fn in FUNCTIONS:
        return Passes(functions=1)
    if names & vectors:
        return Passes(vectors=1)
    if expr.fn in FILLED:
        return Passes(pairs=1)  # a number is made an array, which is compared faster
    if len(expr.args) == 1 or any(isinstance(arg, Num) for arg in expr.args):
        return Passes(scalars=1)
    return Passes(pairs=1)


def _tail(node: Node) -> Passes:
    if not isinstance(node, Physical):
        return Passes(scalars=1)
    flat = frozenset(
        f"a{i}"
        for i, operand in enumerate(node.operands)
        if isinstance(operand, (Const, Domain)) and not positions(operand.schema)
    )
    return passes(node.tail, flat)


def _blocks(rows: int, bytes_per_row: int, fewest: int = FEWEST_ROWS) -> int:
    return -(-rows // max(fewest, BLOCK_BYTES // max(1, bytes_per_row)))


def work(
    form: str,
    node: Node,
    rows: int,
    tiles: int = 0,
    moved: Sequence[bool] | None = None,
    strips: bool = True,
) -> Work:
    """Counts of computing ``rows`` rows of a node in the given form.

    Args:
        form: the physical form, or ``plain``.
        node: Physical, or the logical node of a plain form.
        rows: output rows, over all queries.
        tiles: output tiles of a Winograd form, changed rows of an additive one, over all queries.
        moved: for each input whether its rows are gathered rather than read in place; by default
            those of windows are.
        strips: whether short rows may be put together from strips.
    """
    window = roles(node)
    wide, deep, taps = size(features(node.schema)), columns_in(window), window.tap_count
    tail = _tail(node)
    elements = rows * wide
    inputs = node.inputs
    if moved is None:
        moved = (not window.pointwise, *([False] * (len(inputs) - 1)))
    parts = len(concatenated(node)) if isinstance(node, Physical) and form == CONCAT else 1
    extra = [wide for gathered in moved[parts + 1 :] if gathered]
    base = Work(
        macs=macs_per_row(node) * rows,
        gather_rows=rows * len(extra),
        gathered=2 * rows * sum(extra) * WORD,
        streamed=elements * tail.calls * 2 * WORD,
        scalars=elements * tail.scalars,
        vectors=elements * tail.vectors,
        pairs=elements * tail.pairs,
        functions=elements * tail.functions,
        indices=rows * len(extra),
    )
    if form == "gather_gemm":
        made = _gather_gemm(base, rows, taps=taps, deep=deep, wide=wide, tail=tail, moved=moved[0])
        return _in_strips(made, base, window, rows) if moved[0] and strips else made
    if form == GROUPED and isinstance(node, Physical):
        products = group_products(window, node.weight)
        return _grouped(
            base, rows, products, taps=taps, deep=deep, wide=wide, tail=tail, moved=moved[0]
        )
    if form == "winograd" and isinstance(node, Physical):
        sizes = tiling(window, node.tile)
        return _winograd(base, rows, tiles, sizes=sizes, deep=deep, wide=wide, tail=tail)
    if form == "additive":
        blocks = _blocks(tiles, wide * WORD)
        made = _gathering(base, tiles, wide, blocks * (4 + tail.calls))
        return made._replace(pairs=base.pairs + 2 * tiles * wide)
    if form == "taps":
        return _taps(base, node, rows, taps=taps, wide=wide, tail=tail)
    if form == "rowwise":
        blocks = _blocks(rows, wide * WORD, 32)
        return _gathering(base, rows if moved[0] else 0, wide, blocks * (3 + tail.calls))
    if form == "concat":
        return _concat(base, node, rows, moved)
    if form == "opaque":
        # What torch does is not known: a pass of a slow function over all that is read and written.
        taken = sum(size(source.schema) for source in node.inputs)
        queries = rows // max(1, size(positions(node.schema)))
        elements += queries * taken
        return Work(functions=elements, streamed=2 * elements * WORD, calls=queries)
    read = _gathering(base, rows * taps, deep, _blocks(rows, wide * 16) * 12)
    each = rows * taps * max(deep, wide)
    heavy = base.macs * 4 if base.macs else each
    return read._replace(functions=read.functions + heavy, streamed=read.streamed + 8 * each)


def _gathering(base: Work, rows: int, columns: int, calls: int) -> Work:
    """The work with rows gathered, and calls made."""
    return base._replace(
        gather_rows=base.gather_rows + rows,
        gathered=base.gathered + 2 * rows * columns * WORD,
        indices=base.indices + rows,
        calls=base.calls + calls,
    )


def _gather_gemm(
    base: Work, rows: int, *, taps: int, deep: int, wide: int, tail: Passes, moved: bool
) -> Work:
    inner = taps * deep
    blocks = _blocks(rows, inner * WORD)
    made = _gathering(base, rows * taps if moved else 0, deep, blocks * (3 + tail.calls))
    return made._replace(
        flops=2 * rows * inner * wide,
        inner=inner,
        wide=wide,
        panels=blocks * inner * wide * WORD,
    )


def _grouped(
    base: Work,
    rows: int,
    products: int,
    *,
    taps: int,
    deep: int,
    wide: int,
    tail: Passes,
    moved: bool,
) -> Work:
    """A product over gathered rows for each part of the features."""
    inner, columns = taps * deep // products, wide // products
    blocks = _blocks(rows, inner * WORD)
    calls = blocks * (3 + 3 * products + tail.calls)
    made = _gathering(base, rows * taps * products if moved else 0, deep // products, calls)
    return made._replace(
        flops=2 * rows * inner * wide,
        inner=inner,
        wide=columns,
        panels=blocks * inner * wide * WORD,
        indices=base.indices + (rows * taps if moved else 0),
    )


def _in_strips(made: Work, base: Work, window: Window, rows: int) -> Work:
    """The product's work where windows are put together from runs along the last axis.

    Each run is shared by the windows along the other axes that read it; about as many are made as
    there are rows, times the strides along these axes.
    """
    deep = columns_in(window)
    if deep * WORD > SHORT_ROW or len(window.taps) < 2 or len(window.taps) != len(window.rows):
        return made
    last = window.taps[-1].extent or 1
    runs = rows * (window.tap_count // last)
    strides = (c.terms[0][0] for _, c in window.reads[:-1] if isinstance(c, Affine) and c.terms)
    single = rows * last * math.prod(strides)
    return made._replace(
        gather_rows=base.gather_rows + runs + single,
        indices=base.indices + runs + single,
    )


def tiles_in_block(tile_bytes: int) -> int:
    """Winograd tiles that are worked on together, of inputs of so many bytes each."""
    return max(FEWEST_TILES, BLOCK_BYTES // tile_bytes)


def _winograd(
    base: Work,
    rows: int,
    tiles: int,
    *,
    sizes: tuple[tuple[int, int], ...],
    deep: int,
    wide: int,
    tail: Passes,
) -> Work:
    points, outputs = points_of(sizes), math.prod(m for m, _ in sizes)
    blocks = -(-tiles // tiles_in_block(points * deep * WORD))
    made = _gathering(base, tiles * points, deep, blocks * (8 + 2 * points + tail.calls))
    return made._replace(
        batched=2 * tiles * points * deep * wide,
        flops=0,
        transforms=2 * tiles * points * (points * deep + outputs * wide),
        panels=blocks * points * deep * wide * WORD,
        gather_rows=made.gather_rows + rows,
        gathered=made.gathered + 2 * rows * wide * WORD,
        streamed=made.streamed + 2 * tiles * (points * (deep + wide) + outputs * wide) * WORD,
    )


def _taps(base: Work, node: Node, rows: int, *, taps: int, wide: int, tail: Passes) -> Work:
    """Tap after tap, or all taps of a row at once where they have weights."""
    weighted = isinstance(node, Physical) and not isinstance(node.weight, Domain)
    blocks = _blocks(rows, wide * WORD * (taps if weighted else 1), 32)
    calls = blocks * ((2 if weighted else 2 * taps) + tail.calls)
    made = _gathering(base, rows * taps, wide, calls)
    each = rows * taps * wide
    # Einsum multiplies and adds, at twice the time of an addition.
    return made._replace(
        pairs=made.pairs + (2 * each if weighted else each),
        streamed=made.streamed + 3 * each * WORD,
    )


def _concat(base: Work, node: Node, rows: int, moved: Sequence[bool]) -> Work:
    assert isinstance(node, Physical)
    parts = concatenated(node)
    gathered = (moved[0], *moved[2 : len(parts) + 1])
    blocks = _blocks(rows, size(features(node.schema)) * 8)
    columns = [size(features(part.schema)) for part in parts]
    moved_columns = [n for n, flag in zip(columns, gathered, strict=True) if flag]
    made = base._replace(
        gather_rows=base.gather_rows + rows * len(moved_columns),
        gathered=base.gathered + 2 * rows * sum(moved_columns) * WORD,
        indices=base.indices + rows * len(moved_columns),
        calls=base.calls + blocks * 2 * len(parts),
    )
    return made._replace(
        pairs=made.pairs + rows * sum(columns),
        streamed=made.streamed + 2 * rows * sum(columns) * WORD,
    )


def with_copies(computed: Work, rows: int, columns: int) -> Work:
    """The work of computing distinct rows, and that of copying them to where all rows are."""
    return computed._replace(
        gather_rows=computed.gather_rows + rows,
        gathered=computed.gathered + 2 * rows * columns * WORD,
    )

"""The cost model: operations and bytes of each physical form, times a machine's rates."""

from __future__ import annotations

from dataclasses import dataclass

from kqo.ir.nodes import Group, Join, Node, Physical
from kqo.ir.schema import features, size
from kqo.ir.window import Window, roles
from kqo.planner.rates import Rates

WORD = 4


@dataclass(frozen=True, slots=True)
class Work:
    """What a step does: multiply-adds of the logical operator, and the form's own counts.

    Attributes:
        macs: multiply-adds that the definition of the operator needs.
        flops: floating-point operations of matrix products, as this form does them.
        gathered: bytes moved by gathers (read plus write).
        streamed: bytes moved by elementwise work (read plus write).
    """

    macs: int = 0
    flops: int = 0
    gathered: int = 0
    streamed: int = 0

    def seconds(self, rates: Rates) -> float:
        """Predicted time on one core, without the fixed cost of calls."""
        return (
            self.flops / rates.gemm
            + self.gathered / rates.gather
            + self.streamed / rates.stream
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


def tail_passes(node: Node) -> int:
    """How many elementwise passes the epilogue takes."""
    from kqo.ir.scalar import Call, Expr

    def calls(expr: Expr) -> int:
        return 1 + sum(calls(a) for a in expr.args) if isinstance(expr, Call) else 0

    return calls(node.tail) if isinstance(node, Physical) else 1


def work(form: str, node: Node, rows: int, tiles: int = 0) -> Work:
    """Counts of computing ``rows`` rows of a node in the given form.

    Args:
        form: the physical form, or ``plain``.
        node: Physical, or the logical node of a plain form.
        rows: output rows, over all queries.
        tiles: output tiles of a Winograd form, over all queries.
    """
    window = roles(node)
    wide = size(features(node.schema))
    deep = columns_in(window)
    taps = window.tap_count
    macs = macs_per_row(node) * rows
    epilogue = rows * wide * tail_passes(node) * 2 * WORD
    if form == "gather_gemm":
        moved = 0 if window.pointwise else 2 * rows * taps * deep * WORD
        return Work(macs, 2 * rows * taps * deep * wide, moved, epilogue)
    if form == "winograd":
        points = (node.tile + 2) ** 2 if isinstance(node, Physical) else 0
        outputs = node.tile**2 if isinstance(node, Physical) else 0
        flops = 2 * tiles * points * (deep * wide + points * deep + outputs * wide)
        moved = 2 * tiles * points * deep * WORD + 2 * rows * wide * WORD
        streamed = 2 * tiles * (points * (deep + wide) + outputs * wide) * WORD
        return Work(macs, flops, moved, streamed + epilogue)
    if form == "taps":
        moved = 2 * rows * taps * deep * WORD
        return Work(macs, 0, moved, rows * taps * wide * 3 * WORD + epilogue)
    if form in ("rowwise", "concat"):
        return Work(macs, 0, rows * wide * 2 * WORD, epilogue)
    moved = 2 * rows * taps * deep * WORD
    heavy = macs * 8 if macs else rows * taps * max(deep, wide) * 4
    return Work(macs, heavy, moved, 4 * moved + epilogue)

"""Additive deltas of linear layers in CUDA: a product over all positions of a feature map, of which
a query changes a few.

The share that a position has in the result is its features times its part of the kernel. Shares of
the untouched input are computed once; a block of queries multiplies only the positions at which one
of its queries has changed, and adds the shares of the others (Gupta and Mumick, "Maintenance of
Materialized Views", 1999). Nothing is subtracted, so that rounding errors do not pile up, and
values that are not finite stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from kqo.emit.cuda_program import Extent, Scratch
from kqo.emit.cuda_rows import ZERO, Frame, at, split
from kqo.emit.cuda_step import NAME, THREADS, Writing, indented, render
from kqo.ir.window import Window


@dataclass(frozen=True, slots=True)
class Shares:
    """What a product needs to leave out positions that have not changed.

    Attributes:
        first_delta: C expression of the first row of the input that is a query's own.
        shares: C expression of the shares of the untouched input, [position][column].
    """

    first_delta: str
    shares: str

    @staticmethod
    def nbytes(taps: int, columns: int) -> int:
        """Shared memory of a block: numbers of taps and how many changed, and sums by column."""
        return -(-4 * (taps + 1 + columns) // 16) * 16


def is_additive(writing: Writing, window: Window, deep: int, slab: int) -> bool:
    """Whether a product is over all positions of a relation that queries change in part, with whole
    slices of features at each."""
    source = writing.plan.tables[writing.step.sources[0] or 0]
    delta = writing.shapes.deltas.get(source.id)
    out = writing.plan.tables[writing.step.table]
    return (
        writing.step.delta
        and out.rows == 1
        and window.tap_count > 1
        and deep % slab == 0
        and source.view
        and delta is not None
        and not delta.whole
    )


def shares_of(
    writing: Writing,
    frame: Frame,
    window: Window,
    *,
    kernel: str,
    deep: int,
    wide: int,
    padded: int,
    slab: int,
) -> Shares:
    """Emits the kernel of shares, and says what the product of the same step needs.

    Args:
        writing: the step.
        frame: of the product.
        window: of the step.
        kernel: the constant that holds the step's kernel.
        deep: features at a position.
        wide: columns.
        padded: columns of the kernel's layout.
        slab: features of a slice of it.
    """
    source = writing.plan.tables[writing.step.sources[0] or 0]
    taps = window.tap_count
    key = f"shares{writing.number}"
    once = Extent(fixed=taps)
    writing.into.scratch[(key, once)] = Scratch(key, once, wide)
    own = Frame(writing.plan, writing.shapes, source, varies=False)
    left = own.param("table", source.id, "const stored* __restrict__", "left")
    right = own.param("constant", kernel, "const stored* __restrict__", "right")
    known = {a.name: "0" for a in writing.plan.tables[writing.step.table].positions}
    known.update({a.name: at(a.name) for a in window.taps})
    row = own.finder(source.id, window.reads, known, ZERO, "row_of", moved=True)
    slice_of = f"(long long)(k / {slab} * {taps} + row)"
    place = (
        f"({slice_of} * {padded} + n) * {slab} + k % {slab}"
        if writing.precision == "float16"
        else f"({slice_of} * {slab} + k % {slab}) * {padded} + n"
    )
    target = own.param("scratch", key, "float* __restrict__", "shares")
    body = [
        f"const stored* from = {left} + (long long)({row}) * {deep};",
        f"for (int k = 0; k < {deep}; ++k) v = fmaf(from[k], {right}[{place}], v);",
    ]
    text = render(
        "element",
        name=NAME,
        title=f"Shares of the untouched input at each of {taps} positions",
        wide=wide,
        threads=THREADS,
        functions=own.head,
        signature=own.signature,
        count=str(taps),
        prologue=own.setup,
        decode=indented(split("row", window.taps), 1),
        body=indented(body, 1),
        target=target,
        place="(long long)row * WIDE + n",
        finish="v",
    )
    writing.add(
        own,
        "shares",
        text,
        extent=once,
        width=wide,
        per_block=THREADS,
        view=True,
    )
    given = frame.param("scratch", key, "const float* __restrict__", "shares")
    return Shares(frame.start(source), given)

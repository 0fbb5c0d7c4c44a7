"""Grouped convolutions in CUDA: one product over gathered rows per group, in one launch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kqo.emit import cuda_layout
from kqo.emit.cuda_gemm import MOST_TAPS, render_product, slab_of, stages_of, tile_for
from kqo.emit.cuda_rows import at, split
from kqo.emit.cuda_step import Writing, indented
from kqo.ir.equations import Affine
from kqo.ir.nodes import Const, Group, Join, Node
from kqo.ir.schema import Axis, names, size
from kqo.ir.window import roles


@dataclass(frozen=True, slots=True)
class Groups:
    """A product that is a block diagonal: each group of columns reads its own features.

    Attributes:
        group: the axis of groups.
        column: the axis of a group's columns.
        inner: the axis of a group's features.
    """

    group: Axis
    column: Axis
    inner: Axis


def groups_of(node: Node) -> Groups | None:
    """The groups of a sum of products with ``c = n*g + i``; None for any other node."""
    if not (isinstance(node, Group) and node.agg == "sum" and isinstance(node.input, Join)):
        return None
    join, window = node.input, roles(node)
    if not (window.ok and isinstance(join.right, Const) and join.combine == "mul"):
        return None
    single = len(window.left_features) == len(window.feature_on) == len(window.summed) == 1
    if not (single and len(window.columns) == 2 and window.tap_count <= MOST_TAPS):
        return None
    (group, column), (inner,), (left,) = window.columns, window.summed, window.left_features
    wanted = Affine(left.name, ((inner.extent or 1, group.name), (1, inner.name)), 0, 1)
    found = window.feature_on[0][1]
    whole = (group.extent or 1) * (inner.extent or 1) == left.extent
    own = {group.name, column.name, inner.name, *names(window.taps)}
    complete = set(names(join.right.axes)) == own
    return Groups(group, column, inner) if found == wanted and whole and complete else None


def grouped(writing: Writing) -> None:
    """A sum of products over a window within groups of features."""
    step, node = writing.step, writing.step.node
    groups = groups_of(node)
    assert groups is not None and isinstance(node, Group) and isinstance(node.input, Join)
    assert step.sources[0] is not None
    weight = node.input.right
    assert isinstance(weight, Const)
    window, frame = roles(node), writing.frame()
    taps, many = window.tap_count, size((groups.group,))
    deep, wide = size((groups.inner,)), size((groups.column,))
    tile = tile_for(wide, taps, frame.out.rows)
    slab = slab_of(writing.precision)
    count, target = frame.count, frame.target
    left = frame.read_buffer(step.sources[0], "left")
    inner = -(-taps * deep // slab) * slab
    columns = -(-wide // tile.columns) * tile.columns

    def make() -> object:
        order = (groups.group.name, *names(window.taps), groups.inner.name, groups.column.name)
        own = names(weight.axes)
        value = np.asarray(writing.constants[weight.name])
        value = value.transpose([own.index(n) for n in order]).reshape(many, taps, deep, wide)
        parts = [cuda_layout.arranged(part, slab, tile.columns) for part in value]
        if writing.precision == "float16":
            return np.stack([cuda_layout.sliced(part, slab) for part in parts])
        return np.stack(parts)

    key = ("grouped", weight, window.taps, window.columns, tile.columns)
    right = writing.constant(frame, "kernel", key, make, "right", "stored")
    known = {**writing.known(), **{a.name: at(a.name) for a in window.taps}}
    row = frame.finder(step.sources[0], window.reads, known, 0, "row_of")
    decode = [*frame.decode(), *(split("tap", window.taps) or ["(void)tap;"])]
    index = 4 * tile.rows * taps
    text = render_product(
        writing,
        frame,
        tile,
        taps=taps,
        deep=deep,
        wide=wide,
        values={
            "title": f"{writing.title()}, {many} groups",
            "left_stride": deep * many,
            "count": count,
            "index_bytes": index,
            "row_operands": [],
            "operand_rows": {},
            "decode": indented(decode, 3),
            "decode_operands": "",
            "left_row": row,
            "left": f"({left} + blockIdx.z * DEEP)",
            "right": f"({right} + (long long)blockIdx.z * {inner * columns})",
            "target": f"({target} + blockIdx.z * WIDE)",
            "stride": frame.stride,
            "epilogue_0": "acc[i][j][e]",
            "epilogue_1": "acc[i][j][e + 1]",
        },
    )
    writing.add(
        frame,
        "",
        text,
        shared=index,
        shared_stage=tile.stage_bytes(writing.precision),
        stages=stages_of(writing.precision),
        per_block=tile.rows,
        columns=columns // tile.columns,
        layers=many,
    )

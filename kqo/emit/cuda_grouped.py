"""Grouped convolutions in CUDA: products over gathered rows, all in one launch.

Groups that are narrower than a tile are multiplied together, several to a product, with zeros in
place of the weights between them.
"""

from __future__ import annotations

import numpy as np

from kqo.emit import cuda_layout
from kqo.emit.cuda_gemm import (
    MOST_TAPS,
    reads,
    render_product,
    slab_of,
    stages_of,
    tile_for,
)
from kqo.emit.cuda_rows import at, split
from kqo.emit.cuda_step import Writing, epilogue, indented, operands_of
from kqo.ir.nodes import GROUPED, Const, Group, Join, Node, Physical
from kqo.ir.scalar import Var
from kqo.ir.schema import names, size
from kqo.ir.window import Grouping, grouping, roles

V = Var("v")


def groups_of(node: Node) -> Grouping | None:
    """The groups of a sum of products with ``c = n*g + i``; None for any other node."""
    if isinstance(node, Physical):
        weight, products = node.weight, node.form == GROUPED
    elif isinstance(node, Group) and isinstance(node.input, Join):
        weight, products = node.input.right, node.agg == "sum" and node.input.combine == "mul"
    else:
        return None
    if not (products and isinstance(weight, Const)):
        return None
    window = roles(node)
    return grouping(window, weight) if window.tap_count <= MOST_TAPS else None


def merged(groups: int, *, taps: int, deep: int, wide: int, positions: int, precision: str) -> int:
    """How many neighbouring groups one product computes, so that the least is read of shared memory
    over all products.

    Args:
        groups: of features.
        taps: of the window.
        deep: features of a group.
        wide: columns of a group.
        positions: of the output.
        precision: of products.
    """
    slab = slab_of(precision)

    def cost(several: int) -> float:
        tile = tile_for(several * wide, taps, positions)
        slices = -(-taps * several * deep // slab)
        return groups // several * slices * reads(tile, several * wide)

    divisors = [n for n in range(1, groups + 1) if groups % n == 0]
    return min(divisors, key=lambda n: (cost(n), -n))


def grouped(writing: Writing) -> None:
    """A sum of products over a window within groups of features."""
    step, node = writing.step, writing.step.node
    groups = groups_of(node)
    assert groups is not None and step.sources[0] is not None
    weight = node.inputs[1] if isinstance(node, Physical) else node.inputs[0].inputs[1]
    assert isinstance(weight, Const)
    window, frame = roles(node), writing.frame()
    taps, many = window.tap_count, size((groups.group,))
    deep, wide = size((groups.inner,)), size((groups.column,))
    several = merged(
        many,
        taps=taps,
        deep=deep,
        wide=wide,
        positions=frame.out.rows,
        precision=writing.precision,
    )
    writing.into.spreading |= several > 1
    products, deep, wide = many // several, several * deep, several * wide
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
        value = value.transpose([own.index(n) for n in order])
        value = value.reshape(products, several, taps, deep // several, wide // several)
        parts = [
            cuda_layout.arranged(cuda_layout.block_diagonal(part), slab, tile.columns)
            for part in value
        ]
        if writing.precision == "float16":
            return np.stack([cuda_layout.sliced(part, slab) for part in parts])
        return np.stack(parts)

    key = ("grouped", weight, window.taps, window.columns, tile.columns)
    right = writing.constant(frame, "kernel", key, make, "right", "stored")
    known = {**writing.known(), **{a.name: at(a.name) for a in window.taps}}
    row = frame.finder(step.sources[0], window.reads, known, 0, "row_of")
    decode = [*frame.decode(), *(split("tap", window.taps) or ["(void)tap;"])]
    fused = isinstance(node, Physical)
    tail = node.tail if isinstance(node, Physical) else V
    finish = epilogue(writing, frame, operands_of(step) if fused else {}, tail)
    frame.functions.append(finish.function())
    operands = {j: f"rows{j}[m]" for j in finish.rows}
    column = f"(int)(blockIdx.z * {wide}) + n"
    index = 4 * tile.rows * (taps + len(finish.rows))
    text = render_product(
        writing,
        frame,
        tile,
        taps=taps,
        deep=deep,
        wide=wide,
        values={
            "title": f"{writing.title()}, {many} groups in {products} products",
            "left_stride": deep * products,
            "count": count,
            "index_bytes": index,
            "row_operands": list(finish.rows),
            "operand_rows": finish.rows,
            "decode": indented(decode, 3),
            "decode_operands": indented(frame.decode(), 3),
            "left_row": row,
            "left": f"({left} + blockIdx.z * DEEP)",
            "right": f"({right} + (long long)blockIdx.z * {inner * columns})",
            "target": f"({target} + blockIdx.z * WIDE)",
            "stride": frame.stride,
            "epilogue_0": finish.call("acc[i][j][e]", column, operands),
            "epilogue_1": finish.call("acc[i][j][e + 1]", f"{column} + 1", operands),
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
        layers=products,
    )

"""Scratch memory of a plan's steps, counted before a run.

A worker's :class:`~kqo.runtime.workspace.Workspace` holds one array per name, as large as the
largest step needs it, and one per number that epilogues compare with. What is counted here for a
step is what its template asks for in one block of rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from functools import lru_cache

from kqo.emit.kernels import keeps_layout
from kqo.emit.tail import tail_arrays
from kqo.ir.nodes import GROUPED, Const, Domain, Group, Join, Node, Opaque, Physical
from kqo.ir.physical import concatenated, epilogue_operands
from kqo.ir.schema import features, shape, size
from kqo.ir.window import Window, always_finds, group_products, roles, steps_of, tiling
from kqo.ir.winograd import points_of
from kqo.planner.cost import BLOCK_BYTES, FEWEST_ROWS, tiles_in_block
from kqo.planner.physical import Step, Table
from kqo.runtime.strips import STRIP_BYTES, has_strips

Arrays = dict[str | float, int]
"""Bytes by the name of an array, or by the number that it is filled with."""
TEMPORARIES = "temporaries"
"""The name under which arrays that NumPy makes for the time of a call are counted."""


def together(several: Iterable[Arrays]) -> int:
    """Bytes of the arrays of a workspace that these steps share."""
    most: Arrays = {}
    for arrays in several:
        for name, held in arrays.items():
            if held > most.get(name, 0):
                most[name] = held
    return sum(most.values())


def arrays_of(
    step: Step,
    tables: tuple[Table, ...],
    itemsize: int,
    rows: int,
    in_place: Collection[int],
    reads: int | None = None,
) -> Arrays:
    """The scratch arrays of a block of a step.

    Args:
        step: of the plan.
        tables: of the plan.
        itemsize: bytes of a number.
        rows: that the step computes at most.
        in_place: tables whose delta rows are only read in place.
        reads: row numbers of what its windows read, where that is known.
    """
    node, table = step.node, tables[step.table]
    if step.leader is not None:
        return {}
    if isinstance(node, Opaque):
        queries = -(-rows // max(1, table.rows))
        read = sum(tables[t].rows * tables[t].columns for t in step.sources if t is not None)
        return {TEMPORARIES: queries * (2 * read + table.rows * table.columns) * itemsize}
    if not isinstance(node, Physical):
        return {TEMPORARIES: _plain(node, _block(rows, table.columns * 16), itemsize)}
    window = roles(node)
    found: Arrays = {}
    if step.form == "winograd":
        block = _winograd(node, window, table, itemsize, rows, reads, found)
    elif step.form == "additive":
        block = _additive(step, tables, itemsize, rows, found)
    else:
        block = _gathered(step, node, tables, itemsize, rows, in_place, found)
    for member in step.members:
        for name, held in _epilogue(member, tables, itemsize, block, in_place).items():
            found[name] = max(held, found.get(name, 0))
    return found


def _epilogue(
    step: Step, tables: tuple[Table, ...], itemsize: int, block: int, in_place: Collection[int]
) -> Arrays:
    """What the epilogue of a step takes for a block of so many rows."""
    node, found = step.node, Arrays()
    assert isinstance(node, Physical)
    for name, operand in epilogue_operands(node).items():
        number = int(name[1:]) + 2
        if step.sources[number] is not None and not reads_in_place(step, number, tables, in_place):
            found[name] = block * size(features(operand.schema)) * itemsize
    apart = step.form == "rowwise" or bool(step.siblings) or step.leader is not None
    taken = tail_arrays(node.tail, "v" if apart else "t")
    each = block * tables[step.table].columns * itemsize
    found |= dict.fromkeys((*(f"u{n}" for n in range(1, taken.temps + 1)), *taken.filled), each)
    found[TEMPORARIES] = taken.made * each
    return found


def reads_in_place(
    step: Step, number: int, tables: tuple[Table, ...], in_place: Collection[int]
) -> bool:
    """Whether a step reads its source of this number row for row, without row numbers."""
    source = step.sources[number]
    if source is None:
        return True
    if step.delta:
        return source in in_place
    own = tables[step.table].positions == tables[source].positions
    if number or not isinstance(step.node, Physical) or not step.node.agg:
        return own
    return own and not roles(step.node).taps and roles(step.node).pointwise


def _block(rows: int, row_bytes: int, fewest: int = FEWEST_ROWS, most: int = BLOCK_BYTES) -> int:
    return min(rows, max(fewest, most // max(1, row_bytes)))


def _winograd(
    node: Physical,
    window: Window,
    table: Table,
    itemsize: int,
    rows: int,
    reads: int | None,
    found: Arrays,
) -> int:
    """Rows of a block, whose whole strips of tiles are transformed and multiplied."""
    deep, wide = size(window.left_features), size(window.columns)
    sizes = tiling(window, node.tile)
    points, outputs = points_of(sizes), math.prod(m for m, _ in sizes)
    extents = zip(shape(table.positions), sizes, strict=True)
    strip = math.prod([-(-extent // m) for extent, (m, _) in extents][1:])
    tiles = max(tiles_in_block(points * deep * itemsize), strip)
    tiles = min(tiles, rows if reads is None else reads // points)
    found["v"] = tiles * max(points * deep, outputs * wide) * itemsize
    found["x"] = tiles * points * max(deep, wide) * itemsize
    return min(rows, tiles * outputs)


def _additive(
    step: Step, tables: tuple[Table, ...], itemsize: int, queries: int, found: Arrays
) -> int:
    """Queries of a block, whose changed rows are gathered; one query may have all positions."""
    source = step.sources[0]
    assert source is not None
    each = tables[source].columns * itemsize
    found["x"] = max(FEWEST_ROWS, BLOCK_BYTES // each, tables[source].rows) * each
    found["changes"] = queries * each
    return queries


def _gathered(
    step: Step,
    node: Physical,
    tables: tuple[Table, ...],
    itemsize: int,
    rows: int,
    in_place: Collection[int],
    found: Arrays,
) -> int:
    """Rows of a block, whose windows are gathered side by side or tap by tap."""
    window, columns = roles(node), tables[step.table].columns
    deep, taps = size(window.left_features), window.tap_count if node.agg else 1
    alone = reads_in_place(step, 0, tables, in_place)
    if step.form in ("gather_gemm", GROUPED):
        deep //= group_products(window, node.weight) if step.form == GROUPED else 1
        each = taps * deep * itemsize
        wide = sum(tables[table].columns for table in step.writes) if step.siblings else 0
        block = _block(rows, max(each, wide * itemsize))
        if step.siblings:
            found["v"] = block * wide * itemsize
        if step.form == "gather_gemm" and has_strips(window, deep, itemsize):
            plane = math.prod(shape(tables[step.table].positions)[1:])
            block = _block(rows, each, max(FEWEST_ROWS, plane), STRIP_BYTES)
            steps = steps_of(window) or ()
            apart = math.prod(max(1, -(-stride // taken)) for stride, _, taken in steps[:-1])
            found["strips"] = block * each * apart
        if not alone:
            found["x"] = block * each
        if step.form == "gather_gemm" and keeps_layout(node, itemsize):
            found["x_t"] = block * each
        return block
    if step.form == "concat":
        block = _block(rows, columns * 8)
        widest = max(size(features(part.schema)) for part in concatenated(node))
        found["x"] = block * widest * itemsize
        return block
    if step.form == "taps" and not isinstance(node.weight, Domain):
        # Windows one by one, or what those of whole boxes read, which keeps to a block's bytes.
        each = taps * columns * itemsize
        found["x"] = max(_block(rows, each, 32) * each, BLOCK_BYTES)
        return min(rows, max(32, BLOCK_BYTES // (columns * itemsize)))
    block = _block(rows, columns * itemsize, 32)
    if not alone:
        names = ("x",) if step.form == "rowwise" else ("first", "tap")
        found |= dict.fromkeys(names, block * deep * itemsize)
    return block


@lru_cache(maxsize=512)
def _plain_elements(node: Node) -> int:
    """Elements that the plain implementation of a node holds at a time for one row."""
    wide = size(features(node.schema))
    if not isinstance(node, (Group, Join)):
        return 4 * wide  # of a Rekey row and column numbers, which take twice the bytes of a value
    window = roles(node)
    read = size((*window.taps, *window.kept)) * size(window.left_features)
    join = node.input if isinstance(node, Group) else node
    whole = size((*window.columns, *window.taps, *window.summed))
    summed = isinstance(node, Group) and node.agg == "sum"
    if summed and isinstance(join, Join) and join.combine == "mul" and always_finds(join):
        right = 0 if isinstance(join.right, (Const, Domain)) else size(features(join.right.schema))
        return 2 * (read + right) + 2 * wide  # einsum, which need not write all products
    return 2 * read + 3 * whole + wide


def _plain(node: Node, block: int, itemsize: int) -> int:
    return block * _plain_elements(node) * itemsize

"""Row-by-row forms in CUDA: windows that keep features apart, elementwise work, concatenation."""

from __future__ import annotations

from kqo.emit import cuda_layout
from kqo.emit.cuda_program import Extent, Scratch
from kqo.emit.cuda_rows import (
    IDENTITY_ROW,
    PADDING_ROWS,
    ZERO,
    Frame,
    at,
    linear,
    natural,
    split,
)
from kqo.emit.cuda_step import (
    NAME,
    THREADS,
    Epilogue,
    Writing,
    epilogue,
    indented,
    operands_of,
    render,
)
from kqo.ir.equations import equal
from kqo.ir.nodes import Physical
from kqo.ir.physical import concatenated
from kqo.ir.schema import names, shape
from kqo.ir.window import Window, roles

MOST_READS = 8192
"""Row numbers that one block keeps in shared memory."""


def _sizes(columns: int, vector: int, reads: int) -> tuple[int, int]:
    """Rows of a block, and threads along columns."""
    lanes = columns // vector
    across = 1
    while across < lanes and across < THREADS:
        across *= 2
    rows = max(1, min(THREADS // across, MOST_READS // max(1, reads)))
    return rows, across


def _rows(
    writing: Writing,
    frame: Frame,
    finish: Epilogue,
    reads: list[tuple[str, list[str]]],
    *,
    body: str,
    vector: int,
    taps: int = 1,
) -> None:
    """A kernel of the template ``rows``.

    Args:
        writing: the step.
        frame: of its kernel.
        finish: its epilogue, whose rows follow the other reads.
        reads: what is read: the row as C, after statements that it needs; the first ``taps`` reads
            are one.
        body: statements that leave the value in v.
        vector: neighbouring columns per thread.
        taps: how many reads the first one stands for; ``j`` is the tap.
    """
    total = taps + len(reads) - 1 + len(finish.rows)
    out = frame.out
    branches = []
    for i, (row, before) in enumerate([*reads, *((r, []) for r in finish.rows.values())]):
        last = taps + i
        head = f"{'else ' if i else ''}if (j < {last}) {{"
        branches += [head, *(f"    {line}" for line in before), f"    found = {row};", "}"]
    rows = {j: f"own[{taps + len(reads) - 1 + i}]" for i, j in enumerate(finish.rows)}
    block_rows, across = _sizes(out.columns, vector, total)
    decode, count, target = frame.decode(), frame.count, frame.target
    frame.functions.append(finish.function())
    text = render(
        "rows",
        name=NAME,
        title=writing.title(),
        block_rows=block_rows,
        across=across,
        wide=out.columns,
        stride=frame.stride,
        vector=vector,
        reads=total,
        functions=frame.head,
        signature=frame.signature,
        count=count,
        prologue=frame.setup,
        decode=indented(decode, 3),
        find=indented(branches, 3),
        body=body,
        target=target,
        finish=[finish.call(f"v[{i}]", f"n + {i}" if i else "n", rows) for i in range(vector)],
    )
    writing.add(
        frame,
        "",
        text,
        threads=block_rows * across,
        shared=4 * block_rows * total,
        per_block=block_rows,
    )


def taps(writing: Writing) -> None:
    """Pooling, or one filter per feature."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Physical) and step.sources[0] is not None
    window = roles(node)
    frame = writing.frame()
    kernel = cuda_layout.filter_kernel(node, writing.constants)
    if kernel is None and _additive(writing, frame, window):
        _write_additive(writing, frame, window)
        return
    source = frame.read_buffer(step.sources[0], "left")
    known = {**writing.known(), **{a.name: at(a.name) for a in window.taps}}
    row = frame.finder(step.sources[0], window.reads, known, IDENTITY_ROW[node.agg], "row_of")
    weight = ""
    if kernel is not None:
        key = (node.weight, window.taps, window.columns)
        weight = writing.constant(frame, "filter", key, lambda: kernel, "filter")
    finish = epilogue(writing, frame, operands_of(step), node.tail)
    vector = 4 if frame.out.columns % 4 == 0 else 1
    body = render(
        "taps_body",
        agg=node.agg,
        taps=window.tap_count,
        source=source,
        vector=vector,
        weighted=kernel is not None,
        weight=weight,
        padding_rows=PADDING_ROWS,
    )
    before = split("j", window.taps)
    _rows(writing, frame, finish, [(row, before)], body=body, vector=vector, taps=window.tap_count)


def _additive(writing: Writing, frame: Frame, window: Window) -> bool:
    """Whether an aggregate over all positions can start from the view's sum."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Physical) and step.sources[0] is not None
    source = writing.plan.tables[step.sources[0]]
    delta = writing.shapes.deltas.get(source.id)
    return (
        step.delta
        and node.agg in ("sum", "mean")
        and not window.rows
        and bool(window.taps)
        and names(window.taps) == names(source.positions)
        and all(c == equal(a, a) for a, c in window.reads)
        and source.view
        and delta is not None
        and not delta.whole
    )


def _write_additive(writing: Writing, frame: Frame, window: Window) -> None:
    """The view's sums once, then new minus old over the changed positions of each query."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Physical) and step.sources[0] is not None
    source = writing.plan.tables[step.sources[0]]
    delta = writing.shapes.deltas[source.id]
    key = f"sums{writing.number}"
    once = Extent(fixed=1)
    writing.into.scratch[(key, once)] = Scratch(key, once, source.columns)
    _view_sums(writing, key)
    rank, extents = len(source.positions), shape(source.positions)
    count, target = frame.count, frame.target
    buffer = frame.read_buffer(source.id, "left")
    sums = frame.param("scratch", key, "const float* __restrict__", "sums")
    region = frame.boxes(delta.region, delta.boxes, rank)
    known = {a.name: f"at{i}" for i, a in enumerate(source.positions)}
    lookup = frame.finder(source.id, natural(source.axes), known, ZERO, "row_of", moved=True)
    finish = epilogue(writing, frame, operands_of(step), node.tail)
    decode = frame.decode()
    frame.functions.append(finish.function())
    text = render(
        "additive",
        name=NAME,
        title=f"{writing.title()}, additive",
        wide=source.columns,
        stride=frame.stride,
        threads=THREADS,
        functions=frame.head,
        signature=frame.signature,
        count=count,
        prologue=frame.setup,
        decode=indented(decode, 1),
        source=buffer,
        padding_rows=PADDING_ROWS,
        sums=sums,
        boxes=delta.boxes,
        region=region,
        box_width=2 * rank + 1,
        box_size=" * ".join(f"box[{rank + i}]" for i in range(rank)),
        delta_start=frame.start(source),
        rank=rank,
        linear=linear([f"at{i}" for i in range(rank)], extents),
        extent=source.rows,
        extents=extents,
        lookup=lookup,
        agg=node.agg,
        target=target,
        finish=finish.call("v", "n", finish.rows),
    )
    writing.add(frame, "", text, width=source.columns, per_block=THREADS)


def _view_sums(writing: Writing, key: str) -> None:
    source = writing.plan.tables[writing.step.sources[0] or 0]
    frame = Frame(writing.plan, writing.shapes, source, varies=False)
    buffer = frame.param("table", source.id, "const stored* __restrict__", "left")
    sums = frame.param("scratch", key, "float* __restrict__", "sums")
    body = [
        f"for (int r = 0; r < {source.rows}; ++r)",
        f"    v += {buffer}[(long long)(r + {PADDING_ROWS}) * WIDE + n];",
    ]
    text = render(
        "element",
        name=NAME,
        title=f"Sums over all positions of {source.name or 'the input'}",
        wide=source.columns,
        threads=THREADS,
        functions=frame.head,
        signature=frame.signature,
        count="1",
        prologue="",
        decode="",
        body=indented(body, 1),
        target=sums,
        place="n",
        finish="v",
    )
    writing.add(
        frame,
        "sums",
        text,
        extent=Extent(fixed=1),
        width=source.columns,
        per_block=THREADS,
        view=True,
    )


def rowwise(writing: Writing) -> None:
    """A scalar expression of rows at equal positions."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Physical) and step.sources[0] is not None
    frame = writing.frame()
    source = writing.plan.tables[step.sources[0]]
    buffer = frame.read_buffer(source.id, "left")
    row = frame.finder(source.id, natural(source.axes), writing.known(), ZERO, "row_of")
    finish = epilogue(writing, frame, operands_of(step), node.tail)
    vector = 4 if frame.out.columns % 4 == 0 else 1
    if source.columns == frame.out.columns:
        body = _read(buffer, "own[0]", source.columns, "n", vector)
    else:
        body = [f"for (int i = 0; i < {vector}; ++i) v[i] = {buffer}[own[0]];"]
    _rows(writing, frame, finish, [(row, [])], body=indented(body, 2), vector=vector)


def _read(buffer: str, row: str, columns: int, column: str, vector: int) -> list[str]:
    """Statements that read v from a row."""
    place = f"{buffer} + (long long){row} * {columns} + {column}"
    if vector == 1:
        return [f"v[0] = *({place});"]
    return [
        f"const float4 in = read4({place});",
        "v[0] = in.x, v[1] = in.y, v[2] = in.z, v[3] = in.w;",
    ]


def concat(writing: Writing) -> None:
    """Columns side by side; those that are written in place are there already."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Physical)
    frame = writing.frame()
    sources = (step.sources[0], *step.sources[2 : len(concatenated(node)) + 1])
    parts = [writing.plan.tables[t] for t in sources if t is not None]
    there = [step.delta and part.id in writing.places for part in parts]
    if all(there):
        return
    vector = 4 if all(p.columns % 4 == 0 for p in parts) else 1
    reads: list[tuple[str, list[str]]] = []
    body: list[str] = []
    first = 0
    for i, part in enumerate(parts):
        body.append(f"{'else ' if i else ''}if (n < {first + part.columns}) {{")
        if there[i]:
            body += ["    continue;", "}"]
        else:
            buffer, name = frame.read_buffer(part.id, f"part{i}"), f"row_of_part{i}"
            row = frame.finder(part.id, natural(part.axes), writing.known(), ZERO, name)
            place = f"own[{len(reads)}]"
            lines = _read(buffer, place, part.columns, f"(n - {first})", vector)
            body += [*(f"    {line}" for line in lines), "}"]
            reads.append((row, []))
        first += part.columns
    finish = epilogue(writing, frame, operands_of(step), node.tail)
    _rows(writing, frame, finish, reads, body=indented(body, 2), vector=vector)

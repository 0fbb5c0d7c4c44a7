"""Matrix products in CUDA: over gathered rows, and Winograd's three stages."""

from __future__ import annotations

from dataclasses import dataclass

from kqo.emit import cuda_layout
from kqo.emit.cuda_additive import Shares, is_additive, shares_of
from kqo.emit.cuda_program import STAGES_ASYNC, Extent, Scratch
from kqo.emit.cuda_rows import Frame, at, split
from kqo.emit.cuda_step import (
    NAME,
    THREADS,
    Writing,
    epilogue,
    indented,
    operands_of,
    render,
)
from kqo.ir.nodes import Physical
from kqo.ir.schema import Axis, shape, size
from kqo.ir.window import roles, tiling
from kqo.ir.winograd import matrices

SLAB = 16
HALF_SLAB = 32
HALF_STAGES = 3
"""Slices of float16 hold twice the values, so that fewer of them need to be under way."""
MOST_TAPS = 128
"""More taps than this leave no shared memory for the operands."""
LARGE_TAPS = 40
"""More taps than this leave large tiles no room for the row numbers of operands, in the 99 KiB that
a block has on compute capability 8.6."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one block computes: rows and columns, and how warps share it."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int

    @property
    def groups(self) -> int:
        """Groups of 4 columns that a thread owns in float32."""
        return {128: 2, 96: 3}.get(self.columns, 1)

    def stage_bytes(self, precision: str) -> int:
        """Shared memory of one slab of both operands."""
        if precision == "float16":
            return 2 * (self.rows + self.columns) * (HALF_SLAB + 8)
        return 4 * (self.rows * (SLAB + 4) + SLAB * (self.columns + 8))


LARGE = (Tile(128, 128, 64, 32), Tile(128, 96, 32, 48), Tile(128, 64, 32, 32))


def reads(tile: Tile, wide: int) -> float:
    """What a product reads of shared memory with a tile, per row and inner value: fragments of both
    operands for each piece of 16 x 8 outputs, over all columns that the tiles cover."""
    pieces = 4 / (tile.warp_columns // 8) + 2 / (tile.warp_rows // 16)
    return pieces * -(-wide // tile.columns) * tile.columns


def tile_for(wide: int, taps: int, positions: int) -> Tile:
    """The tile for a product with so many columns and taps.

    A relation with one position per query has few rows and gets smaller tiles, so that there are
    more blocks; many taps need room for their row numbers. Otherwise it is the tile by which the
    least is read of shared memory, which bounds these kernels: large ones read operands less often,
    but leave more of the last columns unused.
    """
    few = (positions == 1 and wide <= 2048) or taps > LARGE_TAPS
    if wide <= 32:
        return Tile(64, 32, 16, 16) if few else Tile(128, 32, 32, 16)
    if few:
        return Tile(64, 64, 32, 16)
    return min(LARGE, key=lambda tile: reads(tile, wide))


def slab_of(precision: str) -> int:
    """Inner values of a slice."""
    return HALF_SLAB if precision == "float16" else SLAB


def vector_width(deep: int, precision: str) -> int:
    """How many neighbouring features one copy moves: up to 16 bytes."""
    most = 8 if precision == "float16" else 4
    return next(width for width in (8, 4, 2, 1) if width <= most and deep % width == 0)


def stages_of(precision: str) -> int:
    """Slices under way from sm_80."""
    return HALF_STAGES if precision == "float16" else STAGES_ASYNC


def render_product(
    writing: Writing,
    frame: Frame,
    tile: Tile,
    *,
    taps: int,
    deep: int,
    wide: int,
    values: dict[str, object],
    shares: Shares | None = None,
) -> str:
    """The template of products with everything filled in that follows from the sizes."""
    slab = slab_of(writing.precision)
    product = render(
        f"product_{writing.precision}",
        wm=tile.warp_rows,
        wn=tile.warp_columns,
        nt=tile.groups,
    )
    return render(
        "gather_gemm",
        name=NAME,
        bm=tile.rows,
        bn=tile.columns,
        bk=slab,
        threads=THREADS,
        taps=taps,
        deep=deep,
        wide=wide,
        steps=-(-taps * deep // slab),
        stages=stages_of(writing.precision),
        npad=-(-wide // tile.columns) * tile.columns,
        vector=vector_width(deep, writing.precision),
        chunked=deep % slab == 0,
        product=product,
        functions=frame.head,
        signature=frame.signature,
        prologue=frame.setup,
        additive=shares is not None,
        first_delta=shares.first_delta if shares else "",
        shares=shares.shares if shares else "",
        **values,
    )


def gather_gemm(writing: Writing) -> None:
    """A sum of products over a window, rows gathered as they are read."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Physical) and step.sources[0] is not None
    frame = writing.frame()
    window = roles(node)
    taps, wide = window.tap_count, size(window.columns)
    deep = size(window.left_features)
    tile = tile_for(wide, taps, frame.out.rows)
    count, target = frame.count, frame.target
    left = frame.read_buffer(step.sources[0], "left")
    slab = slab_of(writing.precision)

    def make() -> object:
        kernel = cuda_layout.gemm_kernel(node, writing.constants, slab, tile.columns)
        return cuda_layout.sliced(kernel, slab) if writing.precision == "float16" else kernel

    key = (node.weight, window.taps, window.columns, window.feature_on, tile.columns)
    right = writing.constant(frame, "kernel", key, make, "right", "stored")
    known = {**writing.known(), **{a.name: at(a.name) for a in window.taps}}
    row = frame.finder(step.sources[0], window.reads, known, 0, "row_of")
    finish = epilogue(writing, frame, operands_of(step), node.tail)
    decode = frame.decode()
    rows = {j: f"rows{j}[m]" for j in finish.rows}
    frame.functions.append(finish.function())
    index = 4 * tile.rows * (taps + len(finish.rows))
    shares = None
    if is_additive(writing, window, deep, slab):
        kernel = str(next(arg.ref for arg in frame.args if arg.kind == "constant"))
        sizes = {"deep": deep, "wide": wide, "slab": slab}
        padded = -(-wide // tile.columns) * tile.columns
        shares = shares_of(writing, frame, window, kernel=kernel, padded=padded, **sizes)
        index += shares.nbytes(taps, tile.columns)

    def total(e: str, n: str) -> str:
        return f"acc[i][j][{e}]" + (f" + kept[{n} - first_column]" if shares else "")

    text = render_product(
        writing,
        frame,
        tile,
        taps=taps,
        deep=deep,
        wide=wide,
        values={
            "title": writing.title() + (", additive" if shares else ""),
            "count": count,
            "index_bytes": index,
            "row_operands": list(finish.rows),
            "operand_rows": finish.rows,
            "decode": indented([*decode, *split("tap", window.taps)], 3)
            if window.taps
            else indented([*decode, "(void)tap;"], 3),
            "decode_operands": indented(decode, 3),
            "left_row": row,
            "left": left,
            "right": right,
            "target": target,
            "stride": frame.stride,
            "left_stride": deep,
            "epilogue_0": finish.call(total("e", "n"), "n", rows),
            "epilogue_1": finish.call(total("e + 1", "n + 1"), "n + 1", rows),
        },
        shares=shares,
    )
    writing.add(
        frame,
        "",
        text,
        shared=index,
        shared_stage=tile.stage_bytes(writing.precision),
        stages=stages_of(writing.precision),
        per_block=tile.rows,
        columns=-(-wide // tile.columns),
    )


@dataclass(frozen=True, slots=True)
class Tiling:
    """Winograd's method on a window over two positions.

    Attributes:
        outputs: of a tile along both axes.
        taps: of the window along both axes.
        extent: the tiles that a launch covers.
    """

    outputs: tuple[int, int]
    taps: tuple[int, int]
    extent: Extent

    @property
    def edges(self) -> tuple[int, int]:
        """Inputs of a tile, and points, along both axes."""
        (my, mx), (ry, rx) = self.outputs, self.taps
        return my + ry - 1, mx + rx - 1

    def lines(self, which: int, axis: int) -> list[str]:
        """A transform along an axis as C: of outputs (0) or of inputs (2)."""
        matrix = matrices(self.outputs[axis], self.taps[axis])[which]
        return cuda_layout.transform_lines(matrix, "d")


def winograd(writing: Writing) -> None:
    """A dense window by minimal filtering: transform, one product per point, transform back."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Physical) and step.sources[0] is not None
    writing.into.spreading = True
    delta = writing.shapes.deltas[step.table] if step.delta else None
    out = writing.plan.tables[step.table]
    window = roles(node)
    (my, ry), (mx, rx) = tiling(window, node.tile)
    if delta is None:
        y, x = shape(out.positions)
        extent = Extent(fixed=-(-y // my) * -(-x // mx))
    else:
        extent = Extent(tiling=writing.into.tiling(delta.region, (my, mx)))
    tiles = Tiling((my, mx), (ry, rx), extent)
    deep, wide = size(window.left_features), size(window.columns)
    points = tiles.edges[0] * tiles.edges[1]
    for name, columns in (("transformed", deep), ("products", wide)):
        key = (name, extent)
        floats = max(points * columns, getattr(writing.into.scratch.get(key), "floats", 0))
        writing.into.scratch[key] = Scratch(name, extent, floats)
    _input(writing, tiles, deep)
    _products(writing, tiles, points, deep, wide)
    _output(writing, tiles, wide)


def _tile_counts(frame: Frame, extent: Extent) -> tuple[str, str]:
    """Number of tiles, and the stride between points, in C."""
    if extent.tiling < 0:
        return str(extent.fixed), f"{extent.fixed}ll"
    count = f"{frame.ints('tile_count', extent.tiling, 'count')}[0]"
    return count, f"(long long){frame.param('stride', extent.tiling, 'int', 'stride')}"


def _tile_origin(frame: Frame, tiles: Tiling) -> list[str]:
    """Statements that define q, the box and the first position of tile ``tile``."""
    my, mx = tiles.outputs
    y, x = shape(frame.out.positions)
    if frame.delta is None:
        across = -(-x // mx)
        return [
            "const int q = 0; (void)q;",
            f"const int down = tile / {across} * {my}, right = tile % {across} * {mx};",
            "const int start_y = 0, start_x = 0;",
            f"const int high = {y}, broad = {x};",
        ]
    found = frame.param("tiles", tiles.extent.tiling, "const int2* __restrict__", "tiles")
    boxes = frame.boxes(frame.delta.region, frame.delta.boxes, 2)
    return [
        f"const int q = {found}[tile].x / {frame.delta.boxes}; (void)q;",
        f"const int* own_box = {boxes} + (long long){found}[tile].x * 5;",
        f"const int across = (own_box[3] + {mx - 1}) / {mx}, local = {found}[tile].y;",
        f"const int down = local / across * {my}, right = local % across * {mx};",
        "const int start_y = own_box[0], start_x = own_box[1];",
        "const int high = own_box[2], broad = own_box[3];",
    ]


def _blocks(columns: int) -> tuple[int, int]:
    """Tiles per block, and threads along columns."""
    across = 32
    while across < columns and across < 128:
        across *= 2
    return THREADS // across, across


def _input(writing: Writing, tiles: Tiling, deep: int) -> None:
    frame = writing.frame()
    node, source = writing.step.node, writing.step.sources[0]
    assert isinstance(node, Physical) and source is not None
    window = roles(node)
    edge_y, edge_x = tiles.edges
    edges = iter([e for e, r in zip(tiles.edges, tiles.taps, strict=True) if r > 1])
    wider = tuple(Axis(a.name, next(edges) if a.extent != 1 else 1) for a in window.taps)
    count, stride = _tile_counts(frame, tiles.extent)
    left = frame.read_buffer(source, "left")
    frame.param("scratch", "transformed", "float* __restrict__", "scratch")
    known = {**writing.known(), **{a.name: at(a.name) for a in wider}}
    row = frame.finder(source, window.reads, known, 0, "row_of", moved=True)
    down, right = (at(a.name) for a in frame.out.positions)
    decode = [
        *_tile_origin(frame, tiles),
        "(void)high; (void)broad;",
        f"const int {down} = start_y + down, {right} = start_x + right;",
        *split("tap", wider),
    ]
    per_block, across = _blocks(deep)
    text = render(
        "winograd_input",
        name=NAME,
        title=writing.title(),
        tiles=per_block,
        across=across,
        deep=deep,
        edge_y=edge_y,
        edge_x=edge_x,
        functions=frame.head,
        lines_y=tiles.lines(2, 0),
        lines_x=tiles.lines(2, 1),
        signature=frame.signature,
        tile_count=count,
        prologue=frame.setup,
        decode_tile=indented(decode, 3),
        left_row=row,
        left=left,
        stride=stride,
    )
    shared = 4 * per_block * edge_y * edge_x
    writing.add(frame, "input", text, extent=tiles.extent, per_block=per_block, shared=shared)


def _products(writing: Writing, tiles: Tiling, points: int, deep: int, wide: int) -> None:
    frame = writing.frame()
    node = writing.step.node
    assert isinstance(node, Physical)
    tile = tile_for(wide, 1, 0)
    count, stride = _tile_counts(frame, tiles.extent)
    left = frame.param("scratch", "transformed", "const float* __restrict__", "left")
    out = frame.param("scratch", "products", "float* __restrict__", "out")

    def make() -> object:
        kernel = cuda_layout.winograd_kernel(node, writing.constants)
        return cuda_layout.padded(kernel, SLAB, tile.columns)

    window = roles(node)
    key = ("winograd", node.tile, node.weight, window.columns, window.feature_on, tile.columns)
    right = writing.constant(frame, "kernel", key, make, "right")
    inner, columns = -(-deep // SLAB) * SLAB, -(-wide // tile.columns) * tile.columns
    layer = "(long long)blockIdx.z"
    text = render_product(
        writing,
        frame,
        tile,
        taps=1,
        deep=deep,
        wide=wide,
        values={
            "title": f"{writing.title()}: the products, one per point",
            "count": count,
            "index_bytes": 4 * tile.rows,
            "row_operands": [],
            "operand_rows": {},
            "decode": "            (void)tap;",
            "decode_operands": "",
            "left_row": "row",
            "left": f"({left} + {layer} * {stride} * DEEP)",
            "right": f"({right} + {layer} * {inner * columns})",
            "stride": wide,
            "left_stride": deep,
            "target": f"({out} + {layer} * {stride} * WIDE)",
            "epilogue_0": "acc[i][j][e]",
            "epilogue_1": "acc[i][j][e + 1]",
        },
    )
    writing.add(
        frame,
        "products",
        text,
        extent=tiles.extent,
        shared=4 * tile.rows,
        shared_stage=tile.stage_bytes(writing.precision),
        per_block=tile.rows,
        columns=columns // tile.columns,
        layers=points,
    )


def _output(writing: Writing, tiles: Tiling, wide: int) -> None:
    frame = writing.frame()
    node = writing.step.node
    assert isinstance(node, Physical)
    count, stride = _tile_counts(frame, tiles.extent)
    frame.param("scratch", "products", "const float* __restrict__", "products")
    target = frame.target
    finish = epilogue(writing, frame, operands_of(writing.step), node.tail)
    frame.functions.append(finish.function())
    reads = 1 + len(finish.rows)
    down, right = (at(a.name) for a in frame.out.positions)
    my, mx = tiles.outputs
    start = "own_box[4] + dy * broad + dx" if frame.delta else "dy * broad + dx"
    decode = [
        *_tile_origin(frame, tiles),
        f"const int dy = down + i % {my * mx} / {mx}, dx = right + i % {mx};",
        "const bool inside = dy < high && dx < broad;",
        f"const int row = {start};",
        f"const int {down} = start_y + dy, {right} = start_x + dx;",
        f"(void){down}; (void){right};",
    ]
    per_block, across = _blocks(wide)
    rows = {j: f"at[{i + 1}]" for i, j in enumerate(finish.rows)}
    text = render(
        "winograd_output",
        name=NAME,
        title=writing.title(),
        tiles=per_block,
        across=across,
        wide=wide,
        edge_y=tiles.edges[0],
        edge_x=tiles.edges[1],
        my=my,
        mx=mx,
        row_operands=list(finish.rows),
        operand_rows=finish.rows,
        functions=frame.head,
        lines_y=tiles.lines(0, 0),
        lines_x=tiles.lines(0, 1),
        signature=frame.signature,
        tile_count=count,
        prologue=frame.setup,
        decode_output=indented(decode, 3),
        stride=stride,
        row_stride=frame.stride,
        target=target,
        epilogue=finish.call("v", "n", rows),
    )
    shared = 4 * per_block * my * mx * reads
    writing.add(frame, "output", text, extent=tiles.extent, per_block=per_block, shared=shared)

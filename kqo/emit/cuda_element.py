"""Element by element: every node's plain implementation in CUDA, patches, and whole outputs."""

from __future__ import annotations

from kqo.emit import cuda_layout
from kqo.emit.cuda_expr import c_call
from kqo.emit.cuda_program import Extent, Launch
from kqo.emit.cuda_rows import (
    IDENTITY_ROW,
    PADDING_ROWS,
    ZERO,
    Frame,
    at,
    key_of,
    linear,
    natural,
    split,
)
from kqo.emit.cuda_step import (
    NAME,
    THREADS,
    Writing,
    epilogue,
    identifier,
    indented,
    opening,
    operands_of,
    render,
)
from kqo.errors import PlanError
from kqo.ir.equations import Condition, equal
from kqo.ir.nodes import Const, Domain, Group, Join, Map, Node, Overlay, Physical, Rekey, Union
from kqo.ir.physical import stands_for, unnumbered
from kqo.ir.scalar import Expr, V
from kqo.ir.schema import Axes, features, shape, size, without_query
from kqo.ir.window import roles
from kqo.planner.physical import Table

_START = {"max": "-KQO_INF", "min": "KQO_INF"}


def _write(
    writing: Writing, frame: Frame, body: list[str], *, finish: str = "v", title: str = ""
) -> None:
    count, target, decode = frame.count, frame.target, frame.decode()
    lines = [*decode, *split("n", frame.out.features)]
    text = render(
        "element",
        name=NAME,
        title=title or f"{writing.title()}, plain",
        wide=frame.out.columns,
        threads=THREADS,
        functions=frame.head,
        signature=frame.signature,
        count=count,
        prologue=frame.setup,
        decode=indented(lines, 1),
        body=indented(body, 1),
        target=target,
        place=f"(long long)row * {frame.stride} + n",
        finish=finish,
    )
    writing.add(frame, "", text, width=frame.out.columns, per_block=THREADS)


def plain(writing: Writing) -> None:
    """The plain implementation of a step's node, whatever it is."""
    step, node = writing.step, writing.step.node
    frame = writing.frame()
    tail: Expr = V
    operands: dict[int, tuple[Node, int | None]] = {}
    if isinstance(node, Physical):
        tail = node.tail
        operands = operands_of(step)
        node = stands_for(node)
    grouped = isinstance(step.node, Physical) and unnumbered(node)
    if isinstance(grouped, Group) and grouped is not node:
        # The keys of the group are found again from the column.
        body = ["{", *split("n", roles(grouped).columns), *_group(writing, frame, grouped), "}"]
    elif isinstance(node, (Group, Join)):
        body = _group(writing, frame, node)
    elif isinstance(node, Map):
        tail = node.fn
        body = [f"v = {_natural_value(writing, frame, step.sources[0])};"]
    elif isinstance(node, Rekey):
        body = _rekey(writing, frame, node)
    elif isinstance(node, Union):
        body = _union(writing, frame, node)
    elif isinstance(node, Domain):
        body = ["v = 1.f;"]
    else:
        raise PlanError(f"no plain implementation of {node.op}")
    finish = epilogue(writing, frame, operands, tail)
    frame.functions.append(finish.function())
    _write(writing, frame, body, finish=finish.call("v", "n", finish.rows))


def _natural_value(writing: Writing, frame: Frame, table: int | None) -> str:
    assert table is not None
    about = writing.plan.tables[table]
    buffer = frame.read_buffer(table, "left")
    row = frame.finder(table, natural(about.axes), writing.known(), ZERO, "row_of")
    return f"{buffer}[(long long)({row}) * {about.columns} + n]"


def _column(about: Axes, known: dict[str, str]) -> str:
    return linear([known[a.name] for a in about], shape(about))


def _group(writing: Writing, frame: Frame, node: Group | Join) -> list[str]:
    """Loops over taps and summed features around one product."""
    step = writing.step
    window = roles(node)
    agg = node.agg if isinstance(node, Group) else ""
    inner = node.input if isinstance(node, Group) else node
    join = inner if isinstance(inner, Join) else None
    left = join.left if join else inner
    known = {a.name: at(a.name) for a in (*window.rows, *window.columns)}
    known.update({a.name: at(a.name) for a in (*window.taps, *window.summed)})
    lines: list[str] = ["float total = " + _START.get(agg, "0.f") + ";", "int members = 0;"]
    depth = 0
    for axis in window.taps:
        name = at(axis.name)
        loop = f"for (int {name} = 0; {name} < {axis.extent}; ++{name}) {{"
        lines.append("    " * depth + loop)
        depth += 1
    missing = IDENTITY_ROW[agg]
    if step.sources[0] is not None:
        row = frame.finder(step.sources[0], window.reads, known, missing, "row_of_left")
        lines.append("    " * depth + f"const int left_row = {row};")
        if agg:
            lines.append(
                "    " * depth + f"if (left_row < {PADDING_ROWS}) continue;" if depth else ""
            )
    if join is not None and step.sources[1] is not None:
        right = writing.plan.tables[step.sources[1]]
        reads = natural(join.right.schema)
        row = frame.finder(right.id, reads, known, ZERO, "row_of_right")
        lines.append("    " * depth + f"const int right_row = {row};")
    for axis in window.summed:
        name = at(axis.name)
        loop = f"for (int {name} = 0; {name} < {axis.extent}; ++{name}) {{"
        lines.append("    " * depth + loop)
        depth += 1
    value, present = _left_value(writing, frame, left, window.feature_on, known)
    if step.sources[0] is not None:
        present = [*present, f"left_row >= {PADDING_ROWS}"]
    if join is not None and join.combine != "left":
        value = c_call(join.combine, value, _right_value(writing, frame, join.right, known))
    update = {
        "max": f"total = maximum(total, {value});",
        "min": f"total = minimum(total, {value});",
        "": f"total = {value};",
    }.get(agg, f"total += {value};")
    condition = f"if ({' && '.join(present)}) " if present else ""
    lines.append("    " * depth + f"{condition}{{ {update} ++members; }}")
    lines += ["    " * d + "}" for d in reversed(range(depth))]
    if agg == "mean":
        lines.append("total /= (float)(members > 0 ? members : 1);")
    lines.append("v = total;")
    return [line for line in lines if line]


def _left_value(
    writing: Writing,
    frame: Frame,
    left: Node,
    feature_on: tuple[tuple[str, Condition], ...],
    known: dict[str, str],
) -> tuple[str, list[str]]:
    """The left value in C, and when its feature keys are there."""
    own = features(without_query(left.schema))
    bound = dict(feature_on)
    keys, present = [], []
    for axis in own:
        if axis.name not in bound:
            keys.append(known[axis.name])
            continue
        condition = bound[axis.name]
        if condition.reads and condition == equal(axis.name, condition.reads[0]):
            keys.append(known[condition.reads[0]])
            if dict(_extents(writing, known)).get(condition.reads[0]) == axis.extent:
                continue
            present.append(f"{keys[-1]} < {axis.extent}")
            continue
        key, gone = key_of(condition, known, frame.tables)
        keys.append(f"({key})")
        present.append(f"(unsigned)({key}) < {axis.extent}u")
        present += [f"!({gone})"] if gone else []
    column = linear(keys, shape(own))
    if writing.step.sources[0] is None:
        return _constant(writing, frame, left, "left", column), present
    about = writing.plan.tables[writing.step.sources[0]]
    buffer = frame.read_buffer(about.id, "left")
    return f"{buffer}[(long long)left_row * {about.columns} + {column}]", present


def _extents(writing: Writing, known: dict[str, str]) -> list[tuple[str, int | None]]:
    """Extents of the axes of the step's join."""
    window = roles(writing.step.node)
    axes = (*window.rows, *window.columns, *window.taps, *window.summed)
    return [(a.name, a.extent) for a in axes if a.name in known]


def _constant(writing: Writing, frame: Frame, node: Node, name: str, place: str) -> str:
    if isinstance(node, Domain):
        return "1.f"
    assert isinstance(node, Const)

    def make() -> object:
        return cuda_layout.vector(node, node.axes, writing.constants)

    found = writing.constant(frame, "values", node, make, f"{name}_values")
    return f"{found}[{place}]"


def _right_value(writing: Writing, frame: Frame, right: Node, known: dict[str, str]) -> str:
    table = writing.step.sources[1]
    own = features(without_query(right.schema))
    if table is None:
        axes = without_query(right.schema)
        return _constant(writing, frame, right, "right", _column(axes, known))
    about = writing.plan.tables[table]
    buffer = frame.read_buffer(table, "right")
    return f"{buffer}[(long long)right_row * {about.columns} + {_column(own, known)}]"


def _rekey(writing: Writing, frame: Frame, node: Rekey) -> list[str]:
    """The element of the input that has the same row-major number."""
    source = without_query(node.input.schema)
    extents = {a.name: a.extent or 1 for a in source}
    lines = [f"int rest = {_column(node.axes, {a.name: at(a.name) for a in node.axes})};"]
    for name in reversed(node.order):
        lines.append(f"const int from_{name} = rest % {extents[name]};")
        lines.append(f"rest /= {extents[name]};")
    return [*lines, f"v = {_element(writing, frame, writing.step.sources[0], source, 'from_')};"]


def _element(
    writing: Writing,
    frame: Frame,
    table: int | None,
    axes: Axes,
    prefix: str,
    *,
    name: str = "left",
) -> str:
    """The value of a table at keys that C variables of this prefix hold."""
    assert table is not None
    about = writing.plan.tables[table]
    keys = {a.name: f"{prefix}{a.name}" for a in axes}
    buffer = frame.read_buffer(table, name)
    row = _row(frame, about, keys, f"row_of_{name}")
    return f"{buffer}[(long long)({row}) * {about.columns} + {_column(about.features, keys)}]"


def _row(frame: Frame, about: Table, keys: dict[str, str], name: str) -> str:
    """The row at given keys, which are other than the output's."""
    return frame.finder(about.id, natural(about.axes), keys, ZERO, name, moved=True)


def _union(writing: Writing, frame: Frame, node: Union) -> list[str]:
    lines = []
    for i, (part, table, offset) in enumerate(
        zip(node.parts, writing.step.sources, node.offsets, strict=True)
    ):
        axes = without_query(part.schema)
        prefix = f"part{i}_"
        end = offset + (dict(axes)[node.axis] or 0)
        declared = [
            f"const int {prefix}{a.name} = {at(a.name)} - {offset if a.name == node.axis else 0};"
            for a in axes
        ]
        value = _element(writing, frame, table, axes, prefix, name=f"part{i}")
        lines += [
            f"{'else ' if i else ''}if ({at(node.axis)} < {end}) {{",
            *(f"    {line}" for line in declared),
            f"    v = {value};",
            "}",
        ]
    return lines


def patch(writing: Writing) -> None:
    """Rows of a base relation's overlay: the patch where it was changed, the view elsewhere."""
    step, node = writing.step, writing.step.node
    assert isinstance(node, Overlay)
    frame = writing.frame()
    axes, many = writing.shapes.changed[writing.number]
    changed = frame.ints("changed", writing.number, "changed")
    state = frame.ints("state", 0, "state")
    width = 2 * len(axes)
    inside = " && ".join(
        f"{at(a)} >= box[{i}] && {at(a)} < box[{len(axes) + i}]" for i, a in enumerate(axes)
    )
    wide = features(without_query(node.patch.schema))
    if step.sources[0] is None:
        value = _vector(writing, frame, node.patch)
    else:
        about = writing.plan.tables[step.sources[0]]
        known = {a.name: at(a.name) for a in frame.out.axes}
        buffer = frame.read_buffer(about.id, "patch")
        row = frame.finder(about.id, natural(about.axes), writing.known(), ZERO, "row_of_patch")
        value = f"{buffer}[(long long)({row}) * {about.columns} + {_column(wide, known)}]"
    body = [
        f"const int* box = {changed} + ((long long){state}[0] + q) * {many * width};",
        "bool inside = false;",
        f"for (int b = 0; b < {many}; ++b, box += {width}) inside |= {inside or 'true'};",
        f"if (inside) v = {value};",
        f"else v = {frame.write_buffer()}[(long long)(place + {PADDING_ROWS}) * WIDE + n];",
    ]
    _write(writing, frame, body, title="Changed rows of the input")


def _vector(writing: Writing, frame: Frame, node: Node) -> str:
    if isinstance(node, Domain):
        return "1.f"
    columns = frame.out.features

    def make() -> object:
        return cuda_layout.vector(node, columns, writing.constants)

    return f"{writing.constant(frame, 'vector', (node, columns), make, 'vector')}[n]"


def root(writing: Writing, name: str, table: int, axes: Axes) -> None:
    """Whole relations of a batch's queries, written among the results of all queries."""
    about = writing.plan.tables[table]
    out = Table(-1, name, axes, False, None)
    frame = Frame(writing.plan, writing.shapes, out, varies=True)
    state = frame.ints("state", 0, "state")
    result = frame.param("result", name, "float* __restrict__", "result")
    buffer = frame.read_buffer(table, "left")
    keys = {a.name: at(a.name) for a in axes}
    row = _row(frame, about, keys, "row_of")
    wide, column = size(axes), _column(about.features, keys)
    text = render(
        "element",
        name=NAME,
        title=f"Output {name}: whole relations",
        wide=wide,
        threads=THREADS,
        functions=frame.head,
        signature=frame.signature,
        count=f"{state}[1]",
        prologue=frame.setup,
        decode=indented(["const int q = row;", "(void)q;", *split("n", axes)], 1),
        body=f"    v = {buffer}[(long long)({row}) * {about.columns} + {column}];",
        target=result,
        place=f"((long long){state}[0] + row) * WIDE + n",
        finish="v",
    )
    kernel = writing.into.kernel(
        f"output_{identifier(name)}", opening(writing.precision) + text, NAME, threads=THREADS
    )
    launch = Launch(kernel, -1, Extent(queries=True), tuple(frame.args), wide, THREADS)
    writing.into.roots.append(launch)

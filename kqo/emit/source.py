"""Fills the templates of ``codegen/``: a physical plan becomes one readable Python source.

The source is what runs. It defines one function per distinct step, the constants in the layouts
that the steps read, and the program: which function computes the rows of which table.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kqo.data import data_path
from kqo.emit import kernels
from kqo.emit.names import quoted, shown
from kqo.emit.tail import HELPERS, helpers_in, tail_lines
from kqo.ir.nodes import GROUPED, Const, Domain, Opaque, Physical
from kqo.ir.physical import concatenated, epilogue_operands
from kqo.ir.scalar import format_expr, variables
from kqo.ir.schema import features, positions, shape, size
from kqo.ir.window import group_products, roles, tiling
from kqo.ir.winograd import Sizes, kinds, matrices, point_order, points_of, smaller
from kqo.planner.physical import PhysicalPlan, Step


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(data_path("codegen", "numpy")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        auto_reload=False,
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """One step's text: body of its function, and its constants as (name, expression)."""

    body: str
    constants: tuple[tuple[str, str], ...]
    title: str


def _indented(lines: list[str]) -> str:
    return "".join(f"        {line}\n" for line in lines)


def _title(step: Step) -> str:
    """What the step does, in one line."""
    node = step.node
    if not isinstance(node, Physical):
        if isinstance(node, Opaque):
            return f"Result {node.index} of {shown(node.name)}, which torch runs"
        return f"{node.op}, plain" if step.form == "plain" else step.form
    window = roles(node)
    if step.siblings:
        widths = " + ".join(str(size(roles(s.node).columns)) for s in step.members)
        deep = size(window.left_features)
        return f"gather-GEMM sum, {deep} to {widths} columns of {len(step.members)} relations"
    taps = "x".join(str(e) for e in shape(window.taps)) if node.agg else ""
    wide = size(features(node.schema))
    what = {
        "gather_gemm": "gather-GEMM",
        GROUPED: "grouped gather-GEMM",
        "winograd": f"Winograd F({node.tile})",
    }.get(step.form, step.form)
    into = f"{size(window.left_features)} to {wide} columns" if node.agg == "sum" else ""
    tail = "" if format_expr(node.tail) == "v" else f"then {format_expr(node.tail)}"
    parts = [
        p for p in (f"{taps} window" if taps else "", f"{what} {node.agg}".strip(), into, tail) if p
    ]
    return ", ".join(parts)


def _operands(
    node: Physical, bound: str = "s", suffix: str = ""
) -> tuple[list[str], list[tuple[str, str]]]:
    """Statements that fetch row operands, and vector operands as constants.

    Args:
        node: whose epilogue names them.
        bound: what holds its rows.
        suffix: of the constants' names.
    """
    fetch: list[str] = []
    constants: list[tuple[str, str]] = []
    used = variables(node.tail)
    for name, operand in epilogue_operands(node).items():
        if name not in used:
            continue
        if isinstance(operand, (Const, Domain)) and not positions(operand.schema):
            constants.append((name + suffix, kernels.vector(operand, kernels.columns_of(node))))
            fetch.append(f'{name} = k["{name}{suffix}"]')
        else:
            number = int(name[1:]) + 2
            fetch.append(f'{name} = w.gather({bound}.inputs[{number}], a, z, "{name}")')
    return fetch, constants


def _piece(step: Step, plan: PhysicalPlan) -> _Piece:
    node = step.node
    itemsize = np.dtype(plan.dtype).itemsize
    values: dict[str, object] = {}
    constants: list[tuple[str, str]] = []
    if step.form in ("plain", "patch", "opaque"):
        constants = [
            (c.name, f"c[{quoted(c.name)}]")
            for c in _constants_below(step)
            if c.name in plan.constants
        ]
        return _Piece(
            _templates().get_template(f"{step.form}.py.j2").render(), tuple(constants), _title(step)
        )
    if step.siblings:
        return _siblings_piece(step)
    if step.form == "concat":
        assert isinstance(node, Physical)
        widths = [size(features(part.schema)) for part in concatenated(node)]
        ends = np.cumsum(widths).tolist()
        inputs = (0, *range(2, len(widths) + 1))
        values["columns"] = [
            (end - width, end, i) for end, width, i in zip(ends, widths, inputs, strict=True)
        ]
        fetch, constants = _operands(node)
        lines = fetch + tail_lines(node.tail)
    else:
        assert isinstance(node, Physical)
        window = roles(node)
        fetch, constants = _operands(node)
        lines = fetch + tail_lines(node.tail, "v" if step.form == "rowwise" else "t")
        deep, wide = size(window.left_features), size(window.columns)
        values.update(taps=window.tap_count, deep=deep, wide=wide, agg=node.agg)
        if step.form == "gather_gemm":
            values["transposed"] = kernels.keeps_layout(node, itemsize)
            constants.insert(0, ("kernel", kernels.gemm_kernel(node, itemsize)))
        elif step.form == GROUPED:
            products = group_products(window, node.weight)
            values.update(products=products, wide=wide // products)
            constants.insert(0, ("kernel", kernels.grouped_kernel(node)))
        elif step.form == "additive":
            values["taps"] = window.tap_count
        elif step.form == "winograd":
            sizes = tiling(window, node.tile)
            suffix = _suffix(sizes)
            points = points_of(sizes)
            values.update(suffix=suffix, points=points)
            constants.insert(0, ("kernel", kernels.winograd_kernel(node, suffix)))
        elif step.form == "taps":
            kernel = kernels.depthwise_kernel(node)
            values.update(weighted=kernel is not None, along=shape(window.taps))
            axes = len(window.taps) if len(window.taps) == len(window.rows) <= 3 else 0
            rows, taps = "abc"[:axes], "xyz"[:axes]
            values["letters"] = f"{rows}{taps}f,{taps}f->{rows}f" if axes else ""
            if kernel is not None:
                constants.insert(0, ("kernel", kernel))
    body = _templates().get_template(f"{step.form}.py.j2").render(tail=_indented(lines), **values)
    return _rendered(body, constants, step)


def _siblings_piece(step: Step) -> _Piece:
    """A step with siblings: one product, and each one's columns of it with its own epilogue."""
    nodes = [member.node for member in step.members if isinstance(member.node, Physical)]
    constants = [("kernel", kernels.siblings_kernel(nodes))]
    members: list[dict[str, object]] = []
    end = 0
    for number, node in enumerate(nodes):
        first, end = end, end + size(roles(node).columns)
        bound = f"s.siblings[{number - 1}]" if number else "s"
        fetch, own = _operands(node, bound, f"_{number}" if number else "")
        constants += own
        tail = _indented(fetch + tail_lines(node.tail, "v"))
        members.append({"bound": bound, "first": first, "end": end, "tail": tail})
    deep = size(roles(nodes[0]).left_features)
    template = _templates().get_template("siblings.py.j2")
    return _rendered(template.render(deep=deep, wide=end, members=members), constants, step)


def _rendered(text: str, constants: list[tuple[str, str]], step: Step) -> _Piece:
    body = re.sub(r"\n\s*\n", "\n", text.rstrip()) + "\n"
    return _Piece(body, tuple(constants), _title(step))


def _constants_below(step: Step) -> list[Const]:
    from kqo.ir.nodes import walk

    return [n for n in walk(step.node) if isinstance(n, Const)]


_LAYOUTS = (kernels.BLOCK_DIAGONAL, kernels.SIDE_BY_SIDE)
_OWN_NAMES = ("np", "constants", "winograd_kernel", *_LAYOUTS, *HELPERS)


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "step"
    taken = cleaned[0].isdigit() or keyword.iskeyword(cleaned) or cleaned in _OWN_NAMES
    return f"n{cleaned}" if taken else cleaned


def emit(plan: PhysicalPlan) -> str:
    """The Python source of a physical plan."""
    functions: dict[str, str] = {}
    titles: dict[str, str] = {}
    constants: dict[tuple[tuple[str, str], ...], str] = {}
    program: list[str] = []
    helpers: set[str] = set()
    tiles: set[Sizes] = set()
    taken: set[str] = set()
    leader = 0
    for step in plan.steps:
        kind = "delta" if step.delta else ("view" if step.once else "view per batch")
        what = f"{len(program)}: {kind} rows of {shown(step.name)}"
        if step.leader is not None:
            program.append(f"    (None, None),  # {what}, by {leader}\n")
            continue
        leader = len(program)
        piece = _piece(step, plan)
        if piece.body not in functions:
            name = base = _identifier(step.name or step.form)
            number = 2
            while name in taken:
                name = f"{base}_{number}"
                number += 1
            taken.add(name)
            functions[piece.body] = name
            titles[name] = piece.title
        helpers |= helpers_in([line.strip() for line in piece.body.splitlines()])
        helpers |= {
            name for name in _LAYOUTS for _, made in piece.constants if made.startswith(f"{name}(")
        }
        if step.form == "winograd" and isinstance(step.node, Physical):
            tiles.add(tiling(roles(step.node), step.node.tile))
        key = piece.constants
        if key and key not in constants:
            constants[key] = f"{functions[piece.body]}_{len(constants)}"
        used = f'"{constants[key]}"' if key else "None"
        program.append(f"    ({functions[piece.body]}, {used}),  # {what}\n")
    return _assemble(plan, functions, titles, constants, program, helpers, tiles)


def _assemble(
    plan: PhysicalPlan,
    functions: dict[str, str],
    titles: dict[str, str],
    constants: dict[tuple[tuple[str, str], ...], str],
    program: list[str],
    helpers: set[str],
    tiles: set[Sizes],
) -> str:
    out = [
        f'"""{shown(plan.name)}: an incremental plan, emitted by kqo.\n\n',
        "Relations are matrices, one row per position and one column per feature. Each\n",
        "function computes rows of one relation, a block of rows a to z at a time: s holds its\n",
        'rows and row numbers, k its constants, w scratch memory.\n"""\n\n',
        "import numpy as np\n",
    ]
    if helpers:
        out.append(f"\nfrom kqo.runtime.functions import {', '.join(sorted(helpers))}\n")
    if tiles:
        out.append("\n")
    for window in sorted({w for tile in tiles for w in tile if w[1] > 1}):
        out.append(_factors(*window))
    for tile in sorted(tiles):
        out.append(_matrices(tile, plan.dtype))
    if tiles:
        out.append(
            "\ndef winograd_kernel(g, G):\n"
            '    """Kernel g (taps, features, columns) as (points, features, columns)."""\n'
            f"    u = np.empty((len(G), *g.shape[1:]), dtype=np.{plan.dtype})\n"
            "    for a in range(0, g.shape[1], 32):  # in parts, to save memory\n"
            "        u[:, a : a + 32] = np.tensordot(G, g[:, a : a + 32].astype(np.float64), 1)\n"
            "    return u\n"
        )
    for body, name in functions.items():
        out.append(f'\n\ndef {name}(s, k, w, blocks):\n    """{titles[name]}."""\n{body}')
    out.append("\n\ndef constants(c):\n")
    out.append('    """Kernels and vectors in the layouts that the steps read."""\n    return {\n')
    for key, name in constants.items():
        out.append(f'        "{name}": {{\n')
        out += [f"            {quoted(field)}: {expression},\n" for field, expression in key]
        out.append("        },\n")
    out.append("    }\n\n\nPROGRAM = [\n")
    out += program
    out.append("]\n")
    return "".join(out)


def _suffix(sizes: Sizes) -> str:
    """A name for the matrices of a tiling: ``4x4_3x3``."""
    return "x".join(str(m) for m, _ in sizes) + "_" + "x".join(str(r) for _, r in sizes)


def _factors(m: int, r: int) -> str:
    """Definitions of the matrices along one axis, for tiles of both sizes."""
    lines = [f"# Winograd F({m}, {r}): outputs A ((G g) * (B d)).\n"]
    lines += [
        f"{x}{m}_{r} = np.array({v.tolist()})\n" for x, v in zip("AGB", matrices(m, r), strict=True)
    ]
    lines.append(f"# Tiles of {m - 1}, on the same points but the last.\n")
    lines += [
        f"{x}{m}_{r} = np.array({v.tolist()})\n" for x, v in zip("ab", smaller(m, r), strict=True)
    ]
    return "".join(lines)


def _matrices(sizes: Sizes, dtype: str) -> str:
    """Definitions of G, and of A, B and the points of each kind of tile."""
    suffix = _suffix(sizes)
    windows = [(m, r) for m, r in sizes if r > 1]
    outputs, taps = suffix.split("_")
    lines = [f"# Winograd F({outputs}, {taps}).\n"]

    def product(letter: str, small: tuple[bool, ...]) -> str:
        named = (
            f"{letter.lower() if less else letter}{m}_{r}"
            for (m, r), less in zip(windows, small, strict=True)
        )
        both = ", ".join(named)
        return f"np.kron({both})" if len(windows) > 1 else both

    n = tuple(m + r - 1 for m, r in windows)
    large = (False,) * len(windows)
    lines.append(f"G{suffix} = {product('G', large)}[{point_order(n, large)}]\n")
    lines.append(f"F{suffix} = []  # of each kind of tile A and B, and its points p to q\n")
    lines.append("for A, B, order, p, q in (\n")
    for kind in kinds(sizes):
        small = tuple(s for s, (_, r) in zip(kind.small, sizes, strict=True) if r > 1)
        order = point_order(n, small)
        lines.append(f"    ({product('A', small)}, {product('B', small)},\n")
        lines.append(f"     {order}, {kind.first}, {kind.end}),\n")
    cast = f'astype(np.{dtype}, order="C")'
    lines.append("):\n")
    lines.append(f"    F{suffix}.append((A[:, order].{cast}, B[order].{cast}, p, q))\n")
    return "".join(lines)

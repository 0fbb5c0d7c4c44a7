"""What the CUDA kernels of all forms have in common: templates, epilogues, and adding a launch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kqo.data import data_path
from kqo.emit import cuda_layout
from kqo.emit.cuda_expr import c_expr
from kqo.emit.cuda_place import Place
from kqo.emit.cuda_program import STAGES, STAGES_ASYNC, Collected, Extent, Launch, Shapes
from kqo.emit.cuda_rows import ZERO, Frame, at, natural
from kqo.ir.nodes import Domain, Node, Physical
from kqo.ir.physical import epilogue_operands
from kqo.ir.plan import Array
from kqo.ir.scalar import Expr, format_expr
from kqo.ir.schema import features, shape, size
from kqo.ir.window import roles
from kqo.planner.physical import PhysicalPlan, Step

NAME = "KERNEL_NAME"
THREADS = 256


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(data_path("codegen", "cuda")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


@lru_cache(maxsize=1)
def prelude() -> str:
    """What every kernel's text begins with."""
    return render("device", stages=STAGES, stages_async=STAGES_ASYNC)


def opening(precision: str) -> str:
    """What the text of a plan's kernels begins with: the prelude, and the type of rows."""
    kind = "half_t" if precision == "float16" else "float"
    return f"{prelude()}typedef {kind} stored;  // rows in memory\n\n"


def render(template: str, **values: object) -> str:
    """A filled template of ``codegen/cuda``."""
    text = _templates().get_template(f"{template}.cu.j2").render(**values)
    return re.sub(r"\n\s*\n(\s*\n)+", "\n\n", text)


def indented(lines: list[str], depth: int) -> str:
    """Statements at a depth of indentation, one a line."""
    return "\n".join("    " * depth + line for line in lines)


def identifier(name: str) -> str:
    """A C identifier for a layer's name."""
    cleaned = re.sub(r"\W+", "_", name).strip("_") or "step"
    return f"n{cleaned}" if cleaned[0].isdigit() else cleaned


@dataclass
class Writing:
    """A step that is being written.

    Attributes:
        plan: the plan.
        shapes: what kernels are specialised on.
        number: of the step.
        step: the step.
        into: where kernels and launches are collected.
        precision: of matrix products.
        places: of tables whose delta rows are written among another table's columns.
    """

    plan: PhysicalPlan
    shapes: Shapes
    number: int
    step: Step
    into: Collected
    precision: str
    places: Mapping[int, Place] = field(default_factory=dict)

    @property
    def constants(self) -> Mapping[str, Array]:
        """Values of the plan's constants."""
        return self.plan.constants

    def frame(self) -> Frame:
        """The frame of a kernel that writes rows of the step's table."""
        delta = self.shapes.deltas[self.step.table] if self.step.delta else None
        out = self.plan.tables[self.step.table]
        place = self.places.get(out.id) if self.step.delta else None
        return Frame(self.plan, self.shapes, out, varies=self.step.delta, delta=delta, place=place)

    def known(self) -> dict[str, str]:
        """C variables of the output positions."""
        return {a.name: at(a.name) for a in self.plan.tables[self.step.table].positions}

    def constant(
        self, frame: Frame, base: str, key: object, make: Any, name: str, ctype: str = "float"
    ) -> str:
        """A parameter for a constant."""
        full = (base, key)
        found = self.into.constant(f"{identifier(self.step.name)}_{base}", full, make)
        return frame.param("constant", found, f"const {ctype}* __restrict__", name)

    def add(
        self,
        frame: Frame,
        suffix: str,
        text: str,
        *,
        extent: Extent | None = None,
        threads: int = THREADS,
        shared: int = 0,
        shared_stage: int = 0,
        stages: int = STAGES_ASYNC,
        width: int = 1,
        per_block: int = 1,
        columns: int = 1,
        layers: int = 1,
        view: bool | None = None,
    ) -> None:
        """Adds a kernel and its launch."""
        base = identifier(self.step.name) + (f"_{suffix}" if suffix else "")
        kernel = self.into.kernel(
            base,
            opening(self.precision) + text,
            NAME,
            threads=threads,
            shared=shared,
            shared_stage=shared_stage,
            stages=stages,
        )
        launch = Launch(
            kernel,
            self.number,
            extent or frame.extent,
            tuple(frame.args),
            width,
            per_block,
            columns,
            layers,
        )
        once = not self.step.delta if view is None else view
        (self.into.views if once else self.into.deltas).append(launch)

    def title(self) -> str:
        """What the step does, in one line."""
        node = self.step.node
        if not isinstance(node, Physical):
            return f"{node.op}"
        window = roles(node)
        taps = "x".join(map(str, shape(window.taps))) if node.agg else ""
        into = f"{size(window.left_features)} to {size(features(node.schema))} columns"
        tail = "" if format_expr(node.tail) == "v" else f"then {format_expr(node.tail)}"
        what = f"{node.form.replace('_', '-')} {node.agg}".strip()
        parts = (f"{taps} window" if taps else "", what, into if node.agg == "sum" else "", tail)
        return ", ".join(p for p in parts if p)


@dataclass
class Epilogue:
    """The epilogue of a kernel: what is done with a value before it is stored.

    Attributes:
        rows: by number of the operand, the C expression of the row that it is read at.
    """

    tail: Expr
    names: dict[str, str] = field(default_factory=dict)
    rows: dict[int, str] = field(default_factory=dict)
    _declared: list[str] = field(default_factory=list)
    _given: list[str] = field(default_factory=list)

    def function(self) -> str:
        """The device function ``finish``."""
        declared = ", ".join(["float v", "int n", *self._declared])
        return (
            f"// The epilogue: {format_expr(self.tail)}\n"
            f"KQO_DEVICE float finish({declared})\n"
            f"{{\n    (void)n;\n    return {c_expr(self.tail, {'v': 'v', **self.names})};\n}}\n"
        )

    def call(self, value: str, column: str, rows: Mapping[int, str]) -> str:
        """The finished value at a column, given C expressions for the operands' rows."""
        given = [rows[int(g[1:])] if g.startswith("@") else g for g in self._given]
        return f"finish({', '.join([value, column, *given])})"


def epilogue(
    writing: Writing, frame: Frame, operands: Mapping[int, tuple[Node, int | None]], tail: Expr
) -> Epilogue:
    """The epilogue of a step, with its operands as parameters of the kernel.

    Args:
        writing: the step.
        frame: of its kernel.
        operands: nodes a0, a1, ... by number, each with the table that holds it, or None for a
            vector.
        tail: expression over v and the operands.
    """
    found = Epilogue(tail)
    for i, (operand, table) in operands.items():
        if table is None and isinstance(operand, Domain):
            found.names[f"a{i}"] = "1.f"
            continue
        if table is None:
            columns = frame.out.features

            def make(node: Node = operand) -> Any:
                return cuda_layout.vector(node, frame.out.features, writing.constants)

            name = writing.constant(frame, "vector", (operand, columns), make, f"vector{i}")
            found.names[f"a{i}"] = f"a{i}[n]"
            found._declared.append(f"const float* __restrict__ a{i}")
            found._given.append(name)
            continue
        about = writing.plan.tables[table]
        buffer = frame.read_buffer(table, f"operand{i}")
        found.rows[i] = frame.finder(
            table, natural(about.axes), writing.known(), ZERO, f"row_of_operand{i}"
        )
        column = "n" if about.columns == frame.out.columns else "0"
        found.names[f"a{i}"] = f"a{i}[(long long)row{i} * {about.columns} + {column}]"
        found._declared += [f"const stored* __restrict__ a{i}", f"int row{i}"]
        found._given += [buffer, f"@{i}"]
    return found


def operands_of(step: Step) -> dict[int, tuple[Node, int | None]]:
    """The epilogue's operands of a physical step by their numbers, with the tables that hold
    them."""
    node = step.node
    assert isinstance(node, Physical)
    found = {int(name[1:]): operand for name, operand in epilogue_operands(node).items()}
    return {i: (operand, step.sources[i + 2]) for i, operand in found.items()}

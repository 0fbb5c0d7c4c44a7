"""Row numbers in CUDA: each kernel computes the rows that it reads from the region table.

A row is the padding row that stands for a missing key, a view row, or a delta row of the query. The
function that finds it is specialised on extents, strides and the number of boxes per query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kqo.emit.cuda_place import Place
from kqo.emit.cuda_program import Arg, Delta, Extent, Shapes
from kqo.errors import PlanError
from kqo.ir.equations import Affine, Condition, equal
from kqo.ir.schema import Axes, names, positions, shape
from kqo.planner.physical import PhysicalPlan, Table

PADDING_ROWS = 3
ZERO = 0
IDENTITY_ROW = {"sum": 0, "mean": 0, "": 0, "max": 1, "min": 2}
"""Rows of every table that hold the value of a missing key, as :mod:`kqo.runtime.rows` has them."""


def at(name: str) -> str:
    """The C variable that holds a key of an axis."""
    return f"at_{name}"


def linear(keys: Sequence[str], extents: Sequence[int]) -> str:
    """Row-major number of keys, as C."""
    found = ""
    for key, extent in zip(keys, extents, strict=True):
        found = f"({found}) * {extent} + ({key})" if found else f"({key})"
    return found or "0"


def split(number: str, axes: Axes) -> list[str]:
    """C statements that define the key of each axis from a row-major number."""
    lines, step = [], math.prod(shape(axes))
    for i, axis in enumerate(axes):
        extent = axis.extent or 1
        step //= extent
        value = f"{number} / {step}" if step > 1 else number
        lines.append(f"const int {at(axis.name)} = {value}{f' % {extent}' if i else ''};")
    return lines


def key_of(condition: Condition, known: Mapping[str, str], tables: Tables) -> tuple[str, str]:
    """The left key that a condition gives, and when it is missing though within the extent.

    Args:
        condition: of a join.
        known: C expressions of output keys and taps.
        tables: where the tables of ranged conditions are declared.

    Returns:
        two C expressions; the second is empty where no key is missing.
    """
    if isinstance(condition, Affine):
        terms = [
            known[name] if factor == 1 else f"{factor} * ({known[name]})"
            for factor, name in condition.terms
        ]
        terms += [str(condition.offset)] if condition.offset or not terms else []
        key = " + ".join(terms)
        if condition.scale == 1:
            return key, ""
        return f"({key}) / {condition.scale}", f"({key}) % {condition.scale} != 0"
    low, high = tables.add(condition.lo), tables.add(condition.hi)
    out, tap = known[condition.out], known[condition.tap]
    return f"{low}[{out}] + {tap}", f"{low}[{out}] + {tap} >= {high}[{out}]"


@dataclass
class Tables:
    """Constant tables of integers that a kernel declares."""

    lines: list[str] = field(default_factory=list)
    _known: dict[tuple[int, ...], str] = field(default_factory=dict)

    def add(self, values: tuple[int, ...]) -> str:
        """The name of a table of these values."""
        if values not in self._known:
            self._known[values] = name = f"table{len(self._known)}"
            listed = ", ".join(map(str, values))
            self.lines.append(f"static __device__ const int {name}[] = {{{listed}}};")
        return self._known[values]


class Frame:
    """The parameters, functions and row arithmetic of one kernel of a step."""

    def __init__(
        self,
        plan: PhysicalPlan,
        shapes: Shapes,
        out: Table,
        *,
        varies: bool,
        delta: Delta | None = None,
        place: Place | None = None,
    ) -> None:
        """For a kernel that writes rows of ``out``.

        Args:
            plan: the plan.
            shapes: what kernels are specialised on.
            out: the table that is written.
            varies: whether what is read varies by query.
            delta: where delta rows are written; None for view rows.
            place: the table and columns that delta rows are written to in place of their own.
        """
        self.plan = plan
        self.shapes = shapes
        self.out = out
        self.varies = varies
        self.delta = delta
        self.place = place
        self.tables = Tables()
        self.functions: list[str] = []
        self.prologue: list[str] = []
        self.args: list[Arg] = []
        self._params: list[str] = []
        self._named: dict[Arg, str] = {}
        self.extent = (
            Extent(fixed=self.out.rows) if self.delta is None else Extent(region=self.delta.region)
        )

    @property
    def signature(self) -> str:
        """The parameter list."""
        return ", ".join(self._params)

    @property
    def head(self) -> str:
        """Tables and functions that come before the kernel."""
        return "".join(f"{line}\n" for line in self.tables.lines) + "\n".join(self.functions)

    @property
    def setup(self) -> str:
        """Statements at the start of the kernel."""
        return "\n".join(f"    {line}" for line in self.prologue)

    def param(self, kind: str, ref: int | str, ctype: str, name: str) -> str:
        """The name of a parameter for this argument; declared at its first use."""
        arg = Arg(kind, ref)
        if arg not in self._named:
            self._named[arg] = name
            self.args.append(arg)
            self._params.append(f"{ctype} {name}")
        return self._named[arg]

    def ints(self, kind: str, ref: int, name: str) -> str:
        """A parameter of integers that are only read."""
        return self.param(kind, ref, "const int* __restrict__", name)

    @property
    def count(self) -> str:
        """Rows to compute."""
        if self.delta is None:
            return str(self.out.rows)
        return f"{self.ints('count', self.delta.region, 'count')}[0]"

    def read_buffer(self, table: int, name: str) -> str:
        """A table that is only read; a table that is also written is one parameter."""
        if table == self.out.id:
            return self.write_buffer()
        return self.param("table", table, "const stored* __restrict__", name)

    def write_buffer(self) -> str:
        """The table that is written."""
        return self.param("table", self.out.id, "stored*", "out")

    def start(self, table: Table) -> str:
        """First delta row of a table, which the runtime places."""
        number = sum(arg.kind == "start" for arg in self.args)
        return self.param("start", table.id, "int", f"first_delta{number}")

    @property
    def target(self) -> str:
        """The first row that the step writes."""
        if self.place is not None:
            into = self.plan.tables[self.place.table]
            buffer = self.param("table", into.id, "stored*", "out")
            first = f"(long long){self.start(into)} * {into.columns} + {self.place.column}"
            return f"({buffer} + {first})"
        buffer = self.write_buffer()
        if self.delta is None:
            return f"({buffer} + {PADDING_ROWS * self.out.columns}ll)"
        return f"({buffer} + (long long){self.start(self.out)} * {self.out.columns})"

    @property
    def stride(self) -> int:
        """Columns from one row that the step writes to the next."""
        written = self.out if self.place is None else self.plan.tables[self.place.table]
        return written.columns

    def decode(self) -> list[str]:
        """Statements that define q and the position of output row ``row``."""
        if self.delta is None:
            return ["const int q = 0;", *split("row", self.out.positions), "(void)q;"]
        points = self.param("points", self.delta.region, "const int2* __restrict__", "points")
        return [
            f"const int q = {points}[row].x, place = {points}[row].y;",
            *split("place", self.out.positions),
            "(void)q; (void)place;",
        ]

    def boxes(self, region: int, count: int, rank: int) -> str:
        """The region table, from the first query of the batch on."""
        if Arg("boxes", region) in self._named:
            return f"{self._named[Arg('boxes', region)]}_now"
        number = sum(arg.kind == "boxes" for arg in self.args)
        raw = self.ints("boxes", region, f"boxes{number}")
        state = self.ints("state", 0, "state")
        width = count * (2 * rank + 1)
        self.prologue.append(f"const int* {raw}_now = {raw} + (long long){state}[0] * {width};")
        return f"{raw}_now"

    def finder(
        self,
        table: int,
        reads: tuple[tuple[str, Condition], ...],
        known: Mapping[str, str],
        missing: int,
        name: str,
        *,
        moved: bool = False,
    ) -> str:
        """A C expression for the row of a table that an output row and tap read.

        Args:
            table: that is read.
            reads: conditions on its position axes.
            known: C expressions of output positions and taps, by axis name.
            missing: row of a key that finds no partner.
            name: of the function that is defined.
            moved: whether ``known`` are other keys than the output's own.
        """
        source = self.plan.tables[table]
        delta = self.shapes.deltas.get(table) if self.varies else None
        if not moved and self._same_rows(source, reads, delta):
            return f"{self.start(source) if delta else PADDING_ROWS} + row"
        keys, absent = [], []
        axes = [n for n in known if any(n in c.reads for _, c in reads)]
        inner = {n: at(n) for n in axes}
        for _, condition in reads:
            key, gone = key_of(condition, inner, self.tables)
            keys.append(key)
            absent += [gone] if gone else []
        body = self._find(source, keys, absent, delta, missing)
        parameters = ["const int* boxes", "int first_delta", "int q"] if delta else []
        parameters += [f"int {at(n)}" for n in axes]
        self.functions.append(
            f"// The row that an output position"
            f" {'and tap read' if len(axes) > len(self.out.positions) else 'reads'}.\n"
            f"KQO_DEVICE int {name}({', '.join(parameters)})\n{{\n{body}}}\n"
        )
        given = []
        if delta:
            boxes = self.boxes(delta.region, delta.boxes, len(source.positions))
            given = [boxes, self.start(source), "q"]
        return f"{name}({', '.join([*given, *(known[n] for n in axes)])})"

    def _same_rows(
        self,
        source: Table,
        reads: tuple[tuple[str, Condition], ...],
        delta: Delta | None,
    ) -> bool:
        """Whether output row r reads row r of the source."""
        natural = all(c == equal(a, a) for a, c in reads)
        if not natural or tuple(a for a, _ in reads) != names(self.out.positions):
            return False
        if source.positions != self.out.positions:  # padding: the same keys, but more of them
            return False
        if self.delta is None:
            return delta is None and not self.varies
        return delta is not None and delta.region == self.delta.region

    def _find(
        self,
        source: Table,
        keys: list[str],
        absent: list[str],
        delta: Delta | None,
        missing: int,
    ) -> str:
        extents = shape(source.positions)
        lines = [f"const int k{i} = {key};" for i, key in enumerate(keys)]
        bad = [f"(unsigned)k{i} >= {extent}u" for i, extent in enumerate(extents)] + absent
        if bad:
            lines.append(f"if ({' || '.join(bad)}) return {missing};")
        place = linear([f"k{i}" for i in range(len(keys))], extents)
        rank = len(keys)
        if delta is not None:
            first = f"first_delta + box[{2 * rank}]"
            lines.append(f"const int* box = boxes + (long long)q * {delta.boxes * (2 * rank + 1)};")
            if delta.whole:
                lines.append(f"return {first} + {place};")
                return "".join(f"    {line}\n" for line in lines)
            if not source.view:
                raise PlanError("a relation without a view is read outside its delta rows")
            inside = " && ".join(
                f"(unsigned)(k{i} - box[{i}]) < (unsigned)box[{rank + i}]" for i in range(rank)
            )
            local = ""
            for i in range(rank):
                own = f"(k{i} - box[{i}])"
                local = f"({local}) * box[{rank + i}] + {own}" if local else own
            step = f"for (int b = 0; b < {delta.boxes}; ++b, box += {2 * rank + 1})"
            lines += [step, f"    if ({inside or '1'}) return {first} + {local or '0'};"]
        lines.append(f"return {PADDING_ROWS} + {place};")
        return "".join(f"    {line}\n" for line in lines)


def natural(axes: Axes) -> tuple[tuple[str, Condition], ...]:
    """Conditions of a natural join: every position axis is read at its own name."""
    return tuple((axis.name, equal(axis.name, axis.name)) for axis in positions(axes))

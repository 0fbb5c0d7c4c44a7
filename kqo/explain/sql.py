"""A plan as one SQL query, to be run by any engine that speaks DuckDB's and PostgreSQL's dialect.

Base relations are tables with one column per key axis and the value column ``v``, constants
likewise. The table ``q`` lists the queries, and ``changed_<relation>`` the boxes of a region
relation: columns ``q``, and per axis ``<axis>_lo`` and ``<axis>_hi`` (exclusive). Every other node
is one common table expression, under the definition that the plan's text gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import PlanError
from kqo.explain.sql_expr import INFINITY, NAN, apply, column, domain, expression, identifier
from kqo.explain.sql_join import alignment, linear, renumber, solve
from kqo.explain.sql_region import Regions
from kqo.ir.boxes import aligned
from kqo.ir.nodes import (
    Const,
    Domain,
    Group,
    Join,
    Map,
    Node,
    Opaque,
    Overlay,
    Physical,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
)
from kqo.ir.physical import epilogue_operands, stands_for, unnumbered
from kqo.ir.plan import Plan
from kqo.ir.region import Region
from kqo.ir.region_mask import Box
from kqo.ir.schema import QUERY, extent_of, has_query, names, without_query
from kqo.ir.text import Labels, format_definition, format_region

IDENTITY = {"sum": "0e0", "mean": NAN, "max": f"-{INFINITY}", "min": INFINITY}
AGGREGATE = {"sum": "SUM", "mean": "AVG", "max": "MAX", "min": "MIN"}


def to_sql(plan: Plan) -> str:
    """The plan as one SELECT statement.

    A plan of one output gives its key columns and ``v``, in key order; one of several the output's
    name in the column ``output``, all key columns (NULL where an output has them not), and ``v``.

    An overlay takes the base's value where its patch has no tuple; in a well-formed plan the patch
    has one wherever the region holds.

    Raises:
        PlanError: SQL cannot say an operator or a function of the plan; names it.
    """
    return _Writer(plan).statement()


def tables(
    plan: Plan,
    scans: Mapping[str, NDArray[Any]],
    regions: Mapping[str, Sequence[Sequence[Box]]] | None = None,
    queries: int | None = None,
) -> dict[str, dict[str, NDArray[Any]]]:
    """The tables that :func:`to_sql` reads, as columns by name.

    Args:
        plan: the plan.
        scans: values of the base relations by name, shaped as their axes.
        regions: boxes per query of each base relation, as the interpreter takes them.
        queries: number of queries; by default that of ``regions``, else 1.
    """
    regions = regions or {}
    count = queries or next(map(len, regions.values()), 1)
    found: dict[str, dict[str, NDArray[Any]]] = {QUERY: {QUERY: np.arange(count)}}
    for node in plan.nodes():
        if isinstance(node, (Scan, Const)):
            values = np.asarray((scans if isinstance(node, Scan) else plan.constants)[node.name])
            keys = np.indices(values.shape).reshape(values.ndim, values.size)
            table = dict(zip(names(node.axes), keys, strict=True))
            found[node.name] = {**table, "v": values.reshape(-1).astype(np.float64)}
    for scan in plan.scans:
        if scan.name in regions:
            boxes = [(q, box) for q, some in enumerate(regions[scan.name]) for box in some]
            table = {QUERY: np.array([q for q, _ in boxes], dtype=np.int64)}
            for i, axis in enumerate(scan.axes):
                for j, end in enumerate(("lo", "hi")):
                    ends = [box[i][j] for _, box in boxes]
                    table[f"{axis.name}_{end}"] = np.array(ends, dtype=np.int64)
            found[f"changed_{scan.name}"] = table
    return found


class _Writer:
    """Writes one common table expression per node and region."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._labels = Labels.of(node for _, node in plan.roots)
        self._readers = plan.readers()
        self._names: dict[Node, str] = {}
        self._ctes: list[str] = []
        self._numbers: dict[str, int] = {}
        scans = {scan.name: scan.axes for scan in plan.scans}
        taken = [node.name for node in plan.nodes() if isinstance(node, (Scan, Const))]
        taken += [QUERY, *(f"changed_{name}" for name in scans)]
        self._taken = {name.lower() for name in taken}
        if len(self._taken) < len(taken):
            raise PlanError(f"SQL cannot tell these tables apart: {', '.join(sorted(taken))}")
        self._regions = Regions(scans, self._write_region)

    def statement(self) -> str:
        for node in self._plan.nodes():
            if isinstance(node, (Scan, Const)):
                self._names[node] = identifier(node.name)
            else:
                comment = format_definition(node, self._labels)
                shared = self._readers[node] > 1 or isinstance(node, Saved)
                self._names[node] = self._write("n", self._query(node), comment, shared)
        head = "WITH\n" + ",\n".join(self._ctes) + "\n" if self._ctes else ""
        return head + self._outputs() + "\n"

    def _write(self, prefix: str, query: str, comment: str, shared: bool) -> str:
        """Add a table; returns its name, which is no base relation's."""
        while True:
            number = self._numbers.get(prefix, 0)
            self._numbers[prefix] = number + 1
            name = f"{prefix}{number}"
            if name not in self._taken:
                break
        kind = "MATERIALIZED " if shared else ""
        self._ctes.append(f"-- {comment}\n{name} AS {kind}(\n  {query}\n)")
        return name

    def _write_region(self, query: str, region: Region) -> str:
        labels = self._labels.regions
        text = format_region(region, labels)
        return self._write("r", query, f"{labels[region]} = {text}", True)

    def _outputs(self) -> str:
        roots = self._plan.roots
        if len(roots) == 1:
            node = roots[0][1]
            columns = list(map(identifier, names(node.schema)))
            order = f"\nORDER BY {', '.join(columns)}" if columns else ""
            return f"SELECT {', '.join([*columns, 'v'])}\nFROM {self._names[node]}{order}"
        every = tuple(dict.fromkeys(name for _, node in roots for name in names(node.schema)))
        selects = []
        for output, node in roots:
            have = names(node.schema)
            keys = [("" if n in have else "NULL AS ") + identifier(n) for n in every]
            label = "'" + output.replace("'", "''") + "' AS output"
            selects.append(f"SELECT {', '.join([label, *keys, 'v'])} FROM {self._names[node]}")
        return "\nUNION ALL\n".join(selects)

    def _query(self, node: Node) -> str:
        if isinstance(node, Domain):
            keys = {a.name: column(f"d{i}", a.name) for i, a in enumerate(node.axes)}
            spans = [domain(a.extent or 0, f"d{i}", a.name) for i, a in enumerate(node.axes)]
            return _select(keys, "1e0", " CROSS JOIN ".join(spans))
        if isinstance(node, Join):
            return self._join(node, self._names[node.left], self._names[node.right])
        if isinstance(node, Group):
            return self._group(node, self._names[node.input])
        if isinstance(node, Map):
            keys = {name: column("s", name) for name in names(node.schema)}
            value = expression(node.fn, {"v": "s.v"})
            return _select(keys, value, f"{self._names[node.input]} AS s")
        if isinstance(node, Union):
            return self._union(node)
        if isinstance(node, Slice):
            return self._slice(node)
        if isinstance(node, Rekey):
            return self._rekey(node, f"{self._names[node.input]} AS s")
        if isinstance(node, Overlay):
            return self._overlay(node)
        if isinstance(node, Saved):
            return f"SELECT * FROM {self._names[node.input]}"
        if isinstance(node, Physical):
            return self._physical(node)
        if isinstance(node, Opaque):
            raise PlanError(f"SQL cannot say Opaque {node.name}, which torch runs")
        raise PlanError(f"SQL cannot say {node.op}")

    def _join(self, node: Join, left: str, right: str) -> str:
        found = solve(
            "l", names(node.left.schema), "r", names(node.right.schema), node.on, declared=node.axes
        )
        keys = {name: found.keys[name] for name in names(node.schema)}
        how = f"JOIN {right} AS r ON {' AND '.join(found.equal)}"
        how = how if found.equal else f"CROSS JOIN {right} AS r"
        source = " ".join([f"{left} AS l", how, *found.more])
        where = f"\n  WHERE {' AND '.join(found.where)}" if found.where else ""
        return _select(keys, apply(node.combine, "l.v", "r.v"), source) + where

    def _group(self, node: Group, source: str) -> str:
        """Aggregate, and give groups without members the identity: groups are dense."""
        by = names(node.schema)
        keys = ", ".join(map(identifier, by))
        value = f"{AGGREGATE[node.agg]}(v)"
        if not by:
            return f"SELECT COALESCE({value}, {IDENTITY[node.agg]}) AS v FROM {source}"
        found = f"(SELECT {keys}, {value} AS v FROM {source} GROUP BY {keys}) AS a"
        spans = [
            "q" if name == QUERY else domain(extent_of(node.schema, name), f"d{i}", name)
            for i, name in enumerate(by)
        ]
        all_keys = {n: column("q" if n == QUERY else f"d{i}", n) for i, n in enumerate(by)}
        match = alignment((key, column("a", name)) for name, key in all_keys.items())
        return _select(
            all_keys,
            f"COALESCE(a.v, {IDENTITY[node.agg]})",
            f"{' CROSS JOIN '.join(spans)}\n  LEFT JOIN {found} {match}",
        )

    def _union(self, node: Union) -> str:
        parts = []
        for part, offset in zip(node.parts, node.offsets, strict=True):
            keys, source = self._varied(part, has_query(node.schema))
            keys = {name: keys[name] for name in names(node.schema)}
            keys[node.axis] = linear({keys[node.axis]: 1}, offset)
            parts.append(_select(keys, "s.v", source))
        return "\n  UNION ALL ".join(parts)

    def _varied(self, node: Node, query: bool) -> tuple[dict[str, str], str]:
        """Keys and source of a relation under the alias s, for every query where asked for."""
        keys = {name: column("s", name) for name in names(node.schema)}
        source = f"{self._names[node]} AS s"
        if query and QUERY not in keys:
            return {QUERY: "q.q", **keys}, f"q CROSS JOIN {source}"
        return keys, source

    def _held(self, at: Region, keys: Mapping[str, str]) -> str:
        """A join with a region's table under the alias h, on its columns."""
        table = self._regions.table(at)
        pairs = [(column("h", name), keys[name]) for name in table.columns if name in keys]
        if QUERY in keys:
            pairs.insert(0, ("h.q", keys[QUERY]))
        return f"JOIN {table.name} AS h {alignment(pairs)}"

    def _slice(self, node: Slice) -> str:
        keys = {name: column("s", name) for name in names(node.schema)}
        if QUERY not in keys:
            raise PlanError("SQL cannot say a Slice that does not vary by query")
        source = f"{self._names[node.input]} AS s {self._held(node.at, keys)}"
        return _select(keys, "s.v", source)

    def _rekey(self, node: Rekey, source: str) -> str:
        axes = without_query(node.input.schema)
        keys = {QUERY: "s.q"} if has_query(node.schema) else {}
        for old, new in aligned(tuple((n, extent_of(axes, n)) for n in node.order), node.axes):
            keys |= renumber([(column("s", name), extent_of(axes, name)) for name in old], new)
        return _select(keys, "s.v", source)

    def _overlay(self, node: Overlay) -> str:
        """The patch where it has a tuple in the region, the base elsewhere, for every query."""
        keys = {QUERY: "q.q", **{n: column("b", n) for n in names(node.base.schema)}}
        patch, match = self._names[node.patch], names(node.patch.schema)
        if not (isinstance(node.patch, Slice) and node.patch.at is node.at):
            held = self._held(node.at, {name: column("s", name) for name in match})
            table = self._regions.table(node.at)
            chosen = {name: column("s", name) for name in match}
            chosen |= {n: column("h", n) for n in (QUERY, *table.columns) if n not in chosen}
            patch, match = f"({_select(chosen, 's.v', f'{patch} AS s {held}')})", tuple(chosen)
        found = alignment((column("p", name), keys[name]) for name in match)
        source = f"q CROSS JOIN {self._names[node.base]} AS b\n  LEFT JOIN {patch} AS p {found}"
        return _select(keys, "COALESCE(p.v, b.v)", source)

    def _physical(self, node: Physical) -> str:
        """What the operator stands for, then its epilogue."""
        logical = stands_for(node)
        if isinstance(logical, Union):
            query = self._union(logical)
        else:
            below = unnumbered(logical)
            joined = below.input if isinstance(below, Group) else below
            assert isinstance(joined, Join)
            query = self._join(joined, self._names[node.input], self._names[node.weight])
            if isinstance(below, Group):
                query = self._group(below, f"({query}) AS j")
            if isinstance(logical, Rekey):
                query = self._rekey(logical, f"({query}) AS s")
        source = f"({query}) AS s"
        keys = {name: column("s", name) for name in names(logical.schema)}
        values = {"v": "s.v"}
        for alias, operand in epilogue_operands(node).items():
            axes = names(operand.schema)
            pairs = [(column(alias, n), keys[n]) for n in axes if n in keys]
            source += f"\n  JOIN {self._names[operand]} AS {alias} {alignment(pairs)}"
            keys |= {n: column(alias, n) for n in axes if n not in keys}
            values[alias] = f"{alias}.v"
        ordered = {name: keys[name] for name in names(node.schema)}
        return _select(ordered, expression(node.tail, values), source)


def _select(keys: Mapping[str, str], value: str, source: str) -> str:
    chosen = [f"{key} AS {identifier(name)}" for name, key in keys.items()]
    head = f"SELECT {', '.join([*chosen, f'{value} AS v'])}"
    return f"{head}\n  FROM {source}" if source else head

"""Regions in SQL: one table per region expression, of the (query, key) pairs that it holds.

An axis that a region covers whole by construction has no column in its table: the channels that a
convolution writes, for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kqo.explain.sql_expr import column, domain, identifier
from kqo.explain.sql_join import linear, renumber, solve
from kqo.ir.boxes import aligned
from kqo.ir.region import (
    Changed,
    Clip,
    Either,
    Everything,
    Image,
    Region,
    Regroup,
    Shift,
    Shrink,
    walk_regions,
)
from kqo.ir.schema import Axes, extent_of, is_position, names


@dataclass(frozen=True, slots=True)
class RegionTable:
    """A region's table: its SQL name, key columns besides q, and all axes of the relation."""

    name: str
    columns: tuple[str, ...]
    axes: Axes


class Regions:
    """Writes the tables of regions, each once.

    Args:
        scans: axes of the base relations, by name.
        write: adds a table, given its query and the region; returns its SQL name.
    """

    def __init__(self, scans: Mapping[str, Axes], write: Callable[[str, Region], str]) -> None:
        self._scans = scans
        self._write = write
        self._known: dict[Region, RegionTable] = {}

    def table(self, region: Region) -> RegionTable:
        """The table of a region; those that it is made of are written first."""
        for part in walk_regions(region):
            if part not in self._known:
                keys, axes, query = self._query(part)
                self._known[part] = RegionTable(self._write(query, part), keys, axes)
        return self._known[region]

    def _query(self, region: Region) -> tuple[tuple[str, ...], Axes, str]:
        """Key columns, axes and defining query of one region expression."""
        if isinstance(region, Changed):
            return _changed(region, self._scans[region.relation])
        if isinstance(region, Everything):
            return (), region.into, "SELECT q FROM q"
        if isinstance(region, Either):
            return self._either(region)
        of = self._known[region.of]
        if isinstance(region, Image):
            return _image(region, of)
        if isinstance(region, Shift):
            return _shift(region, of)
        if isinstance(region, Regroup):
            return _regroup(region, of)
        if isinstance(region, Shrink):  # SQL for the region that holds it
            return of.columns, region.into, f"SELECT * FROM {of.name}"
        return _clip(region, of)

    def _either(self, region: Either) -> tuple[tuple[str, ...], Axes, str]:
        parts = [self._known[part] for part in region.of]
        axes = parts[0].axes
        keys = tuple(name for name in names(axes) if any(name in part.columns for part in parts))
        chosen = ", ".join(["q", *map(identifier, keys)])
        return keys, axes, " UNION ".join(f"SELECT {chosen} FROM {_over(p, keys)}" for p in parts)


def _over(table: RegionTable, keys: tuple[str, ...]) -> str:
    """The table with columns for all of the keys, as what may follow FROM."""
    missing = [name for name in keys if name not in table.columns]
    if not missing:
        return f"{table.name} AS r"
    joined = "".join(
        f" CROSS JOIN {domain(extent_of(table.axes, name), f'd{i}', name)}"
        for i, name in enumerate(missing)
    )
    return f"(SELECT * FROM {table.name}{joined}) AS r"


def _select(keys: Mapping[str, str], source: str, distinct: bool = False) -> str:
    chosen = ", ".join(["r.q", *(f"{key} AS {identifier(name)}" for name, key in keys.items())])
    return f"SELECT {'DISTINCT ' if distinct else ''}{chosen} FROM {source}"


def _changed(region: Changed, axes: Axes) -> tuple[tuple[str, ...], Axes, str]:
    source = f"{identifier(f'changed_{region.relation}')} AS r"
    keys = {}
    for i, axis in enumerate(axes):
        alias, name = f"d{i}", axis.name
        keys[name] = column(alias, name)
        lo, hi = column("r", f"{name}_lo"), column("r", f"{name}_hi")
        source += (
            f" JOIN {domain(axis.extent or 0, alias, name)} "
            f"ON {keys[name]} >= {lo} AND {keys[name]} < {hi}"
        )
    return names(axes), axes, _select(keys, source, distinct=True)


def _image(region: Image, of: RegionTable) -> tuple[tuple[str, ...], Axes, str]:
    """Output keys of the join, solved from the keys of the region; taps are not selected."""
    on = [condition for condition in region.on if condition.axis in of.columns]
    read = {name for condition in on for name in condition.reads}
    new = tuple(axis for axis in (*region.taps, *region.into) if axis.name in read)
    found = solve("r", of.columns, "r", (), on, declared=new)
    keys = {name: found.keys[name] for name in names(region.into) if name in found.keys}
    source = " ".join([f"{of.name} AS r", *found.more])
    where = f" WHERE {' AND '.join(found.where)}" if found.where else ""
    return tuple(keys), region.into, _select(keys, source, distinct=True) + where


def _shift(region: Shift, of: RegionTable) -> tuple[tuple[str, ...], Axes, str]:
    have = (*of.columns, region.axis)
    keys = {name: column("r", name) for name in names(region.into) if name in have}
    keys[region.axis] = linear({keys[region.axis]: 1}, region.offset)
    return tuple(keys), region.into, _select(keys, _over(of, tuple(keys)))


def _regroup(region: Regroup, of: RegionTable) -> tuple[tuple[str, ...], Axes, str]:
    """Runs of axes that the bijection keeps whole stay so; others are numbered anew."""
    extents = {axis.name: axis.extent or 0 for axis in region.source}
    keys: dict[str, str] = {}
    needed: list[str] = []
    for old, new in aligned(tuple((name, extents[name]) for name in region.order), region.into):
        if any(name in of.columns for name in old):
            needed += old
            keys |= renumber([(column("r", name), extents[name]) for name in old], new)
    return tuple(keys), region.into, _select(keys, _over(of, tuple(needed)))


def _clip(region: Clip, of: RegionTable) -> tuple[tuple[str, ...], Axes, str]:
    """Each position axis cut around the centre of the query's hull."""
    keys = {name: column("r", name) for name in of.columns}
    source, hull, where = f"{of.name} AS r", [], []
    for axis in region.into:
        name, extent = axis.name, axis.extent or 0
        most = max(1, round(region.tau * extent))
        if not is_position(name) or most >= extent:
            continue
        if name not in keys:
            keys[name] = column(f"c{len(source)}", name)
            alias, start = f"c{len(source)}", (extent - most) // 2
            span = f"generate_series({start}, {start + most - 1})"
            source += f" CROSS JOIN {span} AS {alias}({identifier(name)})"
            continue
        key, lo, hi = identifier(name), identifier(f"{name}_lo"), identifier(f"{name}_hi")
        hull.append(f"MIN({key}) AS {lo}, MAX({key}) + 1 AS {hi}")
        start_at = f"h.{lo} + CAST(FLOOR((h.{hi} - h.{lo} - {most}) / 2.0) AS BIGINT)"
        where.append(
            f"(h.{hi} - h.{lo} <= {most} OR "
            f"{keys[name]} BETWEEN {start_at} AND {start_at} + {most - 1})"
        )
    if not hull:
        return tuple(keys), region.into, _select(keys, source)
    source += f" JOIN (SELECT q, {', '.join(hull)} FROM {of.name} GROUP BY q) AS h ON h.q = r.q"
    return tuple(keys), region.into, f"{_select(keys, source)} WHERE {' AND '.join(where)}"

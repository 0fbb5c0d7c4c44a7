"""Runs a plan's SQL in DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import KqoError
from kqo.explain.sql import tables, to_sql
from kqo.ir.plan import Plan
from kqo.ir.region_mask import Box
from kqo.ir.schema import names, shape

Values = NDArray[Any]


def need_duckdb() -> Any:
    """The module; KqoError that names the extra where it is not installed."""
    try:
        import duckdb
    except ImportError:
        raise KqoError(
            "DuckDB is not installed, in which rules are tested", hint="pip install 'kqo[sql]'"
        ) from None
    return duckdb


def run_sql(
    plan: Plan,
    scans: Mapping[str, Values],
    regions: Mapping[str, Sequence[Sequence[Box]]] | None = None,
    queries: int | None = None,
) -> dict[str, Values]:
    """Results by output name, float64, shaped as the interpreter's; absent tuples are NaN.

    Args:
        plan: the plan, with values for its constants.
        scans: values of the base relations by name.
        regions: boxes per query of each base relation.
        queries: number of queries; by default that of ``regions``, else 1.

    Raises:
        PlanError: SQL cannot say an operator or a function of the plan.
        KqoError: DuckDB is not installed.
    """
    duckdb = need_duckdb()
    given = tables(plan, scans, regions, queries)
    count = len(given["q"]["q"])
    statement = to_sql(plan)
    found = {}
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        for name, columns in given.items():
            quoted = '"' + name.replace('"', '""') + '"'
            connection.register("loading", columns)
            # DuckDB reads NaN as NULL, which aggregates pass over.
            nan = "REPLACE (COALESCE(v, 'NaN'::DOUBLE) AS v)" if "v" in columns else ""
            connection.execute(f"CREATE TABLE {quoted} AS SELECT * {nan} FROM loading")
            connection.unregister("loading")
        columns = connection.execute(statement).fetchnumpy()
    for output, node in plan.roots:
        many = "output" in columns
        chosen = columns["output"] == output if many else slice(None)
        full = (count,) * (len(names(node.schema)) - len(shape(node.schema))) + shape(node.schema)
        values = np.full(full, np.nan)
        keys = [np.asarray(columns[n][chosen], dtype=np.int64) for n in names(node.schema)]
        flat = np.ravel_multi_index(keys, full) if keys else [0]
        values.reshape(-1)[flat] = columns["v"][chosen]
        found[output] = values
    return found

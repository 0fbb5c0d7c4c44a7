"""Runs a plan's SQL in DuckDB."""

from __future__ import annotations

import duckdb
import numpy as np

from kqo.explain.sql import tables, to_sql
from kqo.ir.plan import Plan
from kqo.ir.schema import names, shape


def run_sql(plan: Plan, scans, regions=None, queries=None) -> dict[str, np.ndarray]:
    """Results by output name, shaped as the interpreter's; absent tuples are NaN."""
    given = tables(plan, scans, regions, queries)
    count = len(given["q"]["q"])
    statement = to_sql(plan)
    found = {}
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        for name, columns in given.items():
            quoted = '"' + name.replace('"', '""') + '"'
            connection.register("loading", columns)
            connection.execute(f"CREATE TABLE {quoted} AS SELECT * FROM loading")
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

"""EXPLAIN as JSON: what ``explain.schema.json`` describes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from kqo.explain.subject import Subject
from kqo.explain.text import describe, is_off, layer_of
from kqo.ir.boxes import Boxes
from kqo.ir.plan import Plan
from kqo.ir.schema import Axes, has_query, without_query
from kqo.ir.text import Labels, format_definition
from kqo.planner.physical import Table
from kqo.planner.rounding import rounding_of
from kqo.runtime.timing import Timings

VERSION = 1


def to_json(subject: Subject, stage: str, timings: Timings | None = None) -> str:
    """The plan at a stage as JSON text; equal plans give equal text."""
    return json.dumps(document(subject, stage, timings), indent=1, allow_nan=False) + "\n"


def document(subject: Subject, stage: str, timings: Timings | None = None) -> dict[str, Any]:
    """The plan at a stage as plain values.

    Args:
        subject: the plan.
        stage: logical, normalized, delta or physical.
        timings: of a run, for the physical stage.
    """
    head = {"version": VERSION, "model": subject.physical.name, "stage": stage}
    if stage != "physical":
        return {**head, **_logical(subject.plan(stage))}
    return {**head, **_physical(subject, timings)}


def _axes(axes: Axes) -> dict[str, int]:
    return {axis.name: axis.extent or 0 for axis in without_query(axes)}


def _logical(plan: Plan) -> dict[str, Any]:
    labels = Labels.of(node for _, node in plan.roots)
    nodes = []
    for node in plan.nodes():
        origin = plan.origins.get(node)
        nodes.append(
            {
                "id": labels.nodes[node],
                "op": node.op,
                "inputs": [labels.nodes[source] for source in node.inputs],
                "axes": _axes(node.schema),
                "varies": has_query(node.schema),
                "layer": origin.layer if origin is not None else "",
                "text": format_definition(node, labels),
            }
        )
    outputs = [{"name": name, "node": labels.nodes[node]} for name, node in plan.roots]
    return {"dtype": plan.dtype, "nodes": nodes, "outputs": outputs}


def _physical(subject: Subject, timings: Timings | None) -> dict[str, Any]:
    plan, prediction = subject.physical, subject.prediction
    fired = Counter([*subject.fired, *(a.rule for a in subject.chooser.memo.trace)])
    steps = []
    spent = 0.0
    if timings is not None:
        spent = sum(timings.of(n) for n in range(len(plan.steps)))
    for number, (step, estimate) in enumerate(zip(plan.steps, prediction.steps, strict=True)):
        about: dict[str, Any] = {
            "step": number,
            "layer": layer_of(subject, step),
            "operator": describe(step),
            "form": step.form,
            "rule": step.rule,
            "kind": "delta" if step.delta else "view",
            "table": step.table,
            "reads": [source for source in step.sources if source is not None],
            "rows": estimate.rows,
            "macs": estimate.work.macs,
            "bytes": estimate.work.gathered + estimate.work.streamed,
            "seconds": estimate.seconds,
        }
        if step.siblings:
            about["siblings"] = [sibling.table for sibling in step.siblings]
        if step.leader is not None:
            about["leader"] = step.leader
        if estimate.distinct is not None:
            about["distinct_rows"] = estimate.distinct
        if timings is not None:
            about["measured_seconds"] = timings.of(number)
            about["off"] = is_off(estimate, timings.of(number), spent)
        steps.append(about)
    run: dict[str, Any] = {"seconds": prediction.seconds}
    if saved := sum(e.rows - e.distinct for e in prediction.steps if e.distinct is not None):
        run["saved_rows"] = saved
    if timings is not None:
        run |= {"measured_seconds": timings.wall, "measured_processor_seconds": spent}
    return {
        "dtype": plan.dtype,
        "exact": not subject.approximate,
        "approximations": {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in subject.approximations.items()
        },
        "approximate_by": list(subject.approximate),
        "expected": None if subject.expected is None else asdict(subject.expected),
        "stages": [asdict(stage) for stage in subject.stages],
        "rounding": rounding_of(plan),
        "queries": subject.queries,
        "batch": subject.batch,
        "threads": subject.workers,
        "rates": subject.rates.source,
        "run": run,
        "tables": [_table(t, subject.boxes.get(t.id), subject.queries) for t in plan.tables],
        "steps": steps,
        "outputs": [{"name": name, "table": table} for name, table, _ in plan.roots],
        "rules": dict(sorted(fired.items())),
        "notes": list(subject.notes),
    }


def _table(table: Table, boxes: Boxes | None, queries: int) -> dict[str, Any]:
    changed = 0.0
    if boxes is not None and queries:
        changed = float(np.mean(boxes.volume()[:queries]))
    return {
        "id": table.id,
        "name": table.name,
        "axes": _axes(table.axes),
        "rows": table.rows,
        "columns": table.columns,
        "view": table.view,
        "changed_rows_per_query": changed,
    }

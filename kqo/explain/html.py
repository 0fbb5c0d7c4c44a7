"""A plan as one self-contained page: its graph, regions over the image, costs, what rules did."""

from __future__ import annotations

import base64
import gzip
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.explain.changes import Changes
from kqo.explain.graph import BOX, GAP, drawing, graph_of
from kqo.explain.layout import layered
from kqo.explain.subject import Subject
from kqo.explain.text import describe, explain_head, is_off, layer_of
from kqo.ir.boxes import Boxes
from kqo.ir.schema import format_axes, shape
from kqo.planner.physical import Table
from kqo.runtime.timing import Timings

Picture = NDArray[np.uint8]
REGION_BYTES = 1 << 20
"""Of regions in the page, before they are written as text: beyond that queries are sampled."""
THUMBNAIL = 36.0


def page(subject: Subject, timings: Timings | None = None, image: Picture | None = None) -> str:
    """The page; it reads nothing from the network, and equal plans give equal text.

    Args:
        subject: the plan.
        timings: of a run, to stand beside the estimates.
        image: uint8 (H, W, 3), drawn under the regions; a grey grid by default.
    """
    graph = graph_of(subject, "physical")
    layout = layered(graph, BOX, GAP)
    heading, *summary = explain_head(subject, timings)
    values = {
        "TITLE": escape(f"kqo: {subject.physical.name}"),
        "HEADING": escape(heading),
        "SUMMARY": "".join(f"<p>{escape(line)}</p>" for line in summary),
        "WIDTH": f"{layout.width:.0f}",
        "HEIGHT": f"{layout.height:.0f}",
        "DRAWING": drawing(graph, layout, THUMBNAIL),
        "DATA": _script(_data(subject, timings, image)),
        "CHANGES": _changes(subject),
    }
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    head, *rest = text.split("@")
    # Every second piece is a name between at signs; values are not searched for further ones.
    return head + "".join(
        values[piece] if number % 2 == 0 else piece for number, piece in enumerate(rest)
    )


def _script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _changes(subject: Subject) -> str:
    """The applications of rules: JSON with each line once, compressed, as base64.

    A network of 300 operators has thousands of applications, and megabytes of text.
    """
    lines: dict[str, int] = {}
    found = [
        [
            c.rule,
            c.family,
            c.target,
            c.result,
            [lines.setdefault(line, len(lines)) for line in c.removed],
            [lines.setdefault(line, len(lines)) for line in c.added],
        ]
        for c in Changes(subject.applications())
    ]
    text = json.dumps({"lines": list(lines), "changes": found}, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _data(subject: Subject, timings: Timings | None, image: Picture | None) -> dict[str, Any]:
    plan = subject.physical
    distinct: dict[int, int] = {}
    found: list[Boxes] = []
    for boxes in subject.boxes.values():
        if id(boxes) not in distinct:
            distinct[id(boxes)] = len(found)
            found.append(boxes)
    per_query = sum(boxes.lo.shape[1] * 4 * 2 for boxes in found)
    most = max(1, REGION_BYTES // max(1, per_query))
    queries = np.unique(np.linspace(0, max(0, subject.queries - 1), most).astype(np.int64))
    regions = [{"count": b.lo.shape[1], "boxes": _encoded(b, queries)} for b in found]
    tables = {
        t.id: _table(subject, t, distinct.get(id(subject.boxes.get(t.id)), -1)) for t in plan.tables
    }
    spent = sum(timings.of(n) for n in range(len(plan.steps))) if timings is not None else 0.0
    steps = []
    order: list[int] = []
    for number, step in enumerate(plan.steps):
        estimate, about = subject.prediction.steps[number], tables[step.table]
        row: dict[str, Any] = {
            "step": number,
            "layer": layer_of(subject, step),
            "operator": describe(step),
            "kind": "delta" if step.delta else "view",
            "table": step.table,
            "rows": estimate.rows,
            "macs": estimate.work.macs,
            "bytes": estimate.work.gathered + estimate.work.streamed,
            "seconds": float(f"{estimate.seconds:.3g}"),
            "rule": step.rule,
        }
        about["seconds"] += row["seconds"]
        about["operator"], about["rule"], about["name"] = row["operator"], step.rule, row["layer"]
        if timings is not None:
            row["measured"] = timings.of(number)
            row["off"] = is_off(estimate, timings.of(number), spent)
            about["measured"] = about.get("measured", 0.0) + row["measured"]
        steps.append(row)
        if step.delta:
            order.append(step.table)
    scan = next(t for t in plan.tables if t.id in subject.boxes)
    extent = tables[scan.id]["extent"]
    return {
        "tables": tables,
        "steps": steps,
        "order": order,
        "regions": regions,
        "queries": queries.tolist(),
        "total": subject.queries,
        "clock": "processor time" if timings is None else timings.clock,
        "window": {"region": tables[scan.id]["region"], "extent": extent},
        "image": _picture(image, extent),
    }


def _table(subject: Subject, table: Table, region: int) -> dict[str, Any]:
    extent = (1, 1, *shape(table.positions))[-2:]
    mean = 0.0
    if table.id in subject.boxes:
        volume = subject.boxes[table.id].volume()[: subject.queries]
        mean = float(np.mean(volume)) / table.rows
    return {
        "name": table.name,
        "operator": "input",
        "axes": format_axes(table.axes),
        "rows": table.rows,
        "extent": extent,
        "region": region,
        "mean": float(f"{mean:.4g}"),
        "seconds": 0.0,
        "rule": "",
    }


def _encoded(boxes: Boxes, queries: NDArray[np.int64]) -> str:
    """Base64 of int16 (queries, boxes, 4): y0, x0, y1, x1 along the last two position axes."""
    lo, hi = boxes.lo[queries], boxes.hi[queries]
    filled = np.asarray((hi > lo).all(axis=2))
    count = lo.shape[:2]
    flat = np.zeros((*count, 4), dtype="<i2")
    flat[..., 2:] = filled[..., None]
    for place, axis in enumerate(range(max(0, lo.shape[2] - 2), lo.shape[2])):
        at = place + 2 - min(2, lo.shape[2])
        flat[..., at] = np.where(filled, lo[:, :, axis], 0)
        flat[..., at + 2] = np.where(filled, hi[:, :, axis], 0)
    return base64.b64encode(flat.tobytes()).decode()


def _picture(image: Picture | None, extent: tuple[int, int]) -> dict[str, Any]:
    """The image, or a grey grid of the input's extent, as a PNG within the page."""
    from PIL import Image

    if image is None:
        y, x = np.indices(extent)
        cell = max(1, max(extent) // 16)
        grey = (205 + 20 * ((y // cell + x // cell) % 2)).astype(np.uint8)
        image = np.repeat(grey[:, :, None], 3, axis=2)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    return {"height": image.shape[0], "width": image.shape[1], "source": source}

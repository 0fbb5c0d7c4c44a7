"""EXPLAIN as text: a screen wide, one line per step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from kqo.ir.boxes import Boxes
from kqo.ir.nodes import Physical
from kqo.ir.region import is_clipped
from kqo.ir.schema import size
from kqo.ir.window import roles
from kqo.planner.cost import Work, work
from kqo.planner.physical import PhysicalPlan, Step


def human(value: float, unit: str = "") -> str:
    """A number with three digits and a metric prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def describe(step: Step) -> str:
    """The operator, in a few words."""
    node = step.node
    if not isinstance(node, Physical):
        return step.form if step.form == "patch" else f"{node.op} (plain)"
    window = roles(node)
    if step.form == "rowwise":
        return "rowwise"
    if step.form == "concat":
        return "concat"
    taps = "x".join(str(a.extent) for a in window.taps)
    if step.form == "gather_gemm":
        return f"gather-GEMM {taps}" if taps else "GEMM"
    if step.form == "winograd":
        return f"Winograd F({node.tile},3)"
    return f"{node.agg} {taps}"


def step_work(plan: PhysicalPlan, step: Step, rows: int) -> Work:
    """Counts of a step over the given number of rows."""
    tiles = 0
    if step.form == "winograd" and isinstance(step.node, Physical):
        tiles = -(-int(rows * 1.2) // step.node.tile**2)
    if step.form == "patch":
        return Work(streamed=rows * plan.tables[step.table].columns * 8)
    return work(step.form, step.node, rows, tiles)


def explain_text(
    plan: PhysicalPlan,
    rows: Mapping[int, Boxes],
    queries: int,
    fired: Sequence[str],
    *,
    batch: int,
    notes: Sequence[str] = (),
    approximations: Mapping[str, float] | None = None,
) -> str:
    """What the plan does, per operator and in all.

    Args:
        plan: the physical plan.
        rows: for each table with delta rows its regions, one query per row; the last is the untouched
            input.
        queries: queries of the workload.
        fired: names of the rules that were applied, once per application.
        batch: queries per batch.
        notes: sentences for the reader.
        approximations: parameters of approximate rules.
    """
    clipped = any(t.region is not None and is_clipped(t.region) for t in plan.tables)
    used = ", ".join(f"{k} = {v:g}" for k, v in (approximations or {}).items())
    lines = [f"APPROXIMATE ({used})" if clipped else "EXACT"]
    lines[0] += f" incremental plan of {plan.name}: {queries} queries in batches of {batch}"
    total = Counter[str]()
    body = [
        f"{'step':28} {'operator':18} {'rows':>8} {'share':>6} {'MACs':>8} {'bytes':>8}  rule",
    ]
    views = 0
    full = 0
    for number, step in enumerate(plan.steps):
        table = plan.tables[step.table]
        whole = table.rows
        if not step.delta:
            views += step_work(plan, step, whole).macs
            continue
        count = int(rows[step.table].volume().sum())
        per_query = count / max(1, queries)
        counted = step_work(plan, step, count)
        dense = step_work(plan, step, whole).macs
        full += dense
        total["macs"] += counted.macs
        total["bytes"] += counted.gathered + counted.streamed
        name = f"{number:3} {step.name or table.name}"
        body.append(
            f"{name[:28]:28} {describe(step):18} {per_query:8.1f} "
            f"{per_query / whole:6.1%} {human(counted.macs / max(1, queries)):>8} "
            f"{human((counted.gathered + counted.streamed) / max(1, queries)):>8}  {step.rule}"
        )
    if total["macs"]:
        lines.append(
            f"multiply-adds per query: {human(total['macs'] / queries)} of {human(full)} by full "
            f"re-inference, {full * queries / (total['macs'] + views):.1f}x fewer"
        )
    moved = human(total["bytes"] / max(1, queries), "B")
    held = sum(t.rows * t.columns for t in plan.tables if t.view) * 4
    lines.append(f"bytes moved per query: {moved}; materialized views: {human(held, 'B')}")
    dense_tables = [
        t.name
        for t in plan.tables
        if t.region is not None and not t.view and size(t.positions) > 1
    ]
    if dense_tables:
        lines.append(f"locality ends at {dense_tables[0]}: every position is computed from there")
    lines += list(notes)
    counts = Counter(fired)
    shown = ", ".join(f"{n} {c}" for n, c in sorted(counts.items(), key=lambda i: (-i[1], i[0])))
    lines.append("")
    lines += body
    lines += ["", "rows, MACs and bytes are per query; share is of all rows of the relation."]
    lines.append(f"rules applied: {shown}")
    return "\n".join(lines)

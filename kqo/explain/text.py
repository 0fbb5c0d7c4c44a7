"""EXPLAIN as text: a screen wide, one line per step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from kqo.explain.locality import locality
from kqo.explain.subject import Subject
from kqo.ir.nodes import GROUPED, Const, Physical
from kqo.ir.window import roles
from kqo.planner.choose import Chooser
from kqo.planner.estimate import Estimate, Prediction
from kqo.planner.physical import PhysicalPlan, Step
from kqo.planner.rounding import rounding_of
from kqo.runtime.timing import Timings

WIDTH = 100
"""Characters of a line."""
OFF = 2.0
"""An estimate that is off by more than this factor is marked."""
NOTICEABLE = 0.005
"""Below this share of the time nobody would look: such estimates are not marked."""
SIBLING = "of the same GEMM"
"""The operator of a step whose rows the step before it computes, with others' and its own."""


def human(value: float, unit: str = "") -> str:
    """A number with three digits and a metric prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def torch_instead(subject: Subject) -> str:
    """What is said of a plan in whose place torch runs the whole model."""
    predicted = duration(subject.reinference)
    return f"torch runs the whole model instead: predicted {predicted} per input"


def duration(seconds: float) -> str:
    """A time with three digits, in the unit that suits it."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def describe(step: Step) -> str:
    """The operator, in a few words."""
    node = step.node
    if step.form == "opaque":
        return "torch"
    if not isinstance(node, Physical):
        return step.form if step.form == "patch" else f"{node.op} (plain)"
    window = roles(node)
    if not node.agg:
        return step.form
    taps = "x".join(str(a.extent) for a in window.taps)
    if step.leader is not None:
        return SIBLING
    if step.siblings:
        return f"GEMM of {len(step.members)}"
    if step.form == "gather_gemm":
        return f"gather-GEMM {taps}" if taps else "GEMM"
    if step.form == GROUPED:
        return f"grouped GEMM {taps}".rstrip()
    if step.form == "winograd":
        extents = sorted({a.extent or 1 for a in window.taps} - {1}) or [1]
        return f"Winograd F({node.tile},{'x'.join(map(str, extents))})"
    return f"{node.agg} {taps}" if step.form == "taps" else f"{step.form} {taps}".rstrip()


def layer_of(subject: Subject, step: Step) -> str:
    """What a step is called: its layer, else that of its kernel, else its table; of what the model
    computes outside of its modules the operator, and of what has no name its form."""
    kernel = step.node.weight if isinstance(step.node, Physical) else None
    owner = kernel.name.split("#")[0].rpartition(".")[0] if isinstance(kernel, Const) else ""
    named = step.name or owner or subject.physical.tables[step.table].name
    if named:
        return named
    operator = subject.chooser.origin(step.node).kind
    return operator if operator and operator != "output" else step.form


def explain_text(subject: Subject, timings: Timings | None = None) -> str:
    """What the plan does, per operator and in all; with timings, what a run of it took."""
    prediction = subject.prediction
    lines = [*explain_head(subject, timings), *subject.notes, ""]
    lines += _analyzed(subject, prediction, timings) if timings else _planned(subject, prediction)
    lines += ["", *_fired(subject)]
    return "\n".join(lines)


def explain_head(subject: Subject, timings: Timings | None = None) -> list[str]:
    """The plan in all: EXACT or APPROXIMATE, what it saves, what it takes."""
    lines = _head(subject, subject.prediction)
    if timings is not None:
        lines.append(_measured(subject, subject.prediction, timings))
    return lines


def _head(subject: Subject, prediction: Prediction) -> list[str]:
    plan, queries = subject.physical, max(1, subject.queries)
    by = subject.approximate
    first = f"APPROXIMATE ({'; '.join(by)})" if by else "EXACT"
    first += f" incremental plan of {plan.name}: {subject.queries} "
    first += f"{'query' if subject.queries == 1 else 'queries'} in batches of {subject.batch}"
    lines = [first]
    if by:
        quality = "not known (kqo tune measures it)"
        if subject.expected is not None:
            quality = str(subject.expected)
        lines.append(f"expected: {quality}; no bound on the error is known")
    if subject.cut:
        layers = ", ".join(dict.fromkeys(part.layer for part in subject.cut))
        lines.append(f"regions are cut as it runs, behind {layers}; figures are for whole ones")
    macs = subject.multiply_adds
    moved = sum(
        estimate.work.gathered + estimate.work.streamed
        for step, estimate in zip(plan.steps, prediction.steps, strict=True)
        if step.delta
    )
    if macs.deltas:
        # Where they are most of it, the numbers before do not explain the ratio.
        views = " with the views" if macs.views > macs.deltas else ""
        lines.append(
            f"multiply-adds per query: {human(macs.deltas / queries)} of {human(macs.full)} by "
            f"full re-inference, {macs.fewer:.1f}x fewer{views}"
        )
    held = sum(t.rows * t.columns for t in plan.tables if t.view) * 4
    lines.append(
        f"bytes moved per query: {human(moved / queries, 'B')}; "
        f"materialized views: {human(held, 'B')}"
    )
    if (rounding := rounding_of(plan)) or subject.chooser.most_rounding:
        lines.append(_rounding(subject.chooser, rounding))
    threads = "1 thread" if subject.workers == 1 else f"{subject.workers} threads"
    seconds = prediction.seconds
    if subject.stages:
        seconds = sum(stage.seconds for stage in subject.stages)
        lines += [
            f"{stage.name + ':':9} {stage.operator}"
            + (f", {stage.queries} queries, {duration(stage.seconds)}" if stage.queries else "")
            for stage in subject.stages
        ]
    lines.append(
        f"predicted: {duration(seconds)} per input, "
        f"{duration(seconds / queries)} per query on {threads} "
        f"({subject.rates.source} rates)"
    )
    called = {number: layer_of(subject, step) for number, step in enumerate(plan.steps)}
    lines += locality(subject, called)
    return lines


def _rounding(chooser: Chooser, expected: float) -> str:
    found = f"rounding of fast forms: {expected:.2g} expected"
    if chooser.tolerance is not None:
        found += f", {chooser.tolerance:g} allowed"
    if layers := len(chooser.most_rounding):
        found += f", for which {layers} {'layer is' if layers == 1 else 'layers are'} slower"
    return found


def _measured(subject: Subject, prediction: Prediction, timings: Timings) -> str:
    spent = sum(timings.of(n) for n in range(len(prediction.steps)))
    expected = sum(e.seconds for e in prediction.steps)
    return (
        f"measured:  {duration(timings.wall)} per input, "
        f"{duration(timings.wall / max(1, subject.queries))} per query; {timings.clock} "
        f"{duration(spent)}, predicted {duration(expected)} ({expected / spent - 1:+.0%})"
    )


def saved_rows(subject: Subject) -> list[str]:
    """For each step that computes equal rows once how many it saves, and for all of them."""
    plan = subject.physical
    found = {
        f"{number:3} {layer_of(subject, plan.steps[number])}": (estimate.rows, estimate.distinct)
        for number, estimate in enumerate(subject.prediction.steps)
        if estimate.distinct is not None
    }
    if not found:
        return []
    total = sum(rows for rows, _ in found.values()), sum(n or 0 for _, n in found.values())
    lines = ["", "rows that are equal in several queries of a batch are computed once, and copied:"]
    for name, (rows, computed) in {**found, "    in all": total}.items():
        saved = rows - (computed or 0)
        share = f"{saved / max(1, rows):.0%}"
        counts = f"{_short(computed or 0):>7} of {_short(rows):>7} computed"
        lines.append(f"{_shortened(name, 24):24} {counts}, {_short(saved):>7} saved ({share})")
    return lines


def _planned(subject: Subject, prediction: Prediction) -> list[str]:
    plan, queries = subject.physical, max(1, subject.queries)
    total = sum(e.seconds for e in prediction.steps) or 1.0
    rows = []
    for number, (step, estimate) in enumerate(zip(plan.steps, prediction.steps, strict=True)):
        if not step.delta:
            continue
        count = estimate.rows / queries
        moved = estimate.work.gathered + estimate.work.streamed
        numbers = f"{count:7.1f} {min(1.0, count / plan.tables[step.table].rows):6.1%} "
        if step.leader is not None:
            numbers += f"{'-':>7} {'-':>7} {'-':>5}"
        else:
            numbers += (
                f"{_short(estimate.work.macs / queries):>7} {_short(moved / queries):>7} "
                f"{estimate.seconds / total:5.1%}"
            )
        rows.append((f"{number:3} {layer_of(subject, step)}", describe(step), numbers, step.rule))
    views = sum(e.seconds for s, e in zip(plan.steps, prediction.steps, strict=True) if not s.delta)
    rows.append(("    materialized views", "", f"{'':30} {views / total:5.1%}", ""))
    head = f"{'rows':>7} {'share':>6} {'MACs':>7} {'bytes':>7} {'time':>5}"
    return [
        *table([("step", "operator", head, "rule"), *rows]),
        "",
        "rows, MACs and bytes are per query; share is of all rows of the relation.",
        *_siblings(plan),
        *saved_rows(subject),
    ]


def table(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    """Steps as lines of at most :data:`WIDTH`. Rules are shown whole, and operators; layers give
    way, from the middle, since what tells them apart is at their end."""
    operator, rule = (max(len(row[i]) for row in rows) for i in (1, 3))
    room = WIDTH - len(rows[0][2]) - operator - rule - 4
    width = min(room, max(len(row[0]) for row in rows))
    return [
        f"{_shortened(step, width):{width}} {form:{operator}} {numbers}  {name}".rstrip()
        for step, form, numbers, name in rows
    ]


def _shortened(step: str, width: int) -> str:
    """The number of a step and its layer, with dots for what does not fit of the layer."""
    if len(step) <= width:
        return step
    return f"{step[:4]}..{step[len(step) - width + 6 :]}"


def _analyzed(subject: Subject, prediction: Prediction, timings: Timings) -> list[str]:
    plan = subject.physical
    body = [
        f"{'step':24} {'operator':17} {'rows':>7} {'bytes':>7} {'estimate':>8} {'measured':>8} "
        f"{'off':>6} {'GFLOP/s':>7} {'share':>6}"
    ]
    spent = sum(timings.of(n) for n in range(len(plan.steps))) or 1.0
    for number, (step, estimate) in enumerate(zip(plan.steps, prediction.steps, strict=True)):
        took = timings.of(number)
        if not step.delta and took < NOTICEABLE * spent:
            continue
        name = f"{number:3} {layer_of(subject, step)}{'' if step.delta else ' (view)'}"
        head = f"{_shortened(name, 24):24} {describe(step):17} {_short(estimate.rows):>7}"
        if step.leader is not None:
            body.append(f"{head} {'-':>7} {'-':>8} {'-':>8} {'-':>6} {'-':>7} {'-':>6}")
            continue
        moved = estimate.work.gathered + estimate.work.streamed
        speed = f"{2e-9 * estimate.work.macs / took:.0f}" if estimate.work.macs and took else "-"
        factor = estimate.seconds / took if took else 1.0
        mark = " *" if is_off(estimate, took, spent) else "  "
        body.append(
            f"{head} {_short(moved):>7} "
            f"{duration(estimate.seconds):>8} {duration(took):>8} {factor:5.2f}x{mark[1]}"
            f"{speed:>7} {took / spent:6.1%}"
        )
    shared = " of all threads" if timings.workers > 1 else ""
    body += [
        "",
        f"over the whole run, in {timings.clock}{shared}; GFLOP/s are those of the definition",
        "(Winograd needs fewer); * marks estimates off by more than 2x that matter.",
        *_siblings(plan),
        *saved_rows(subject),
    ]
    return body


def _siblings(plan: PhysicalPlan) -> list[str]:
    """What is to be said of steps that are computed with others."""
    if not any(step.siblings for step in plan.steps):
        return []
    return [f'a step "{SIBLING}" is computed by the step above it, whose figures are for all.']


def is_off(estimate: Estimate, took: float, spent: float) -> bool:
    """Whether an estimate is off by more than :data:`OFF`, and its step long enough to matter."""
    most, least = max(estimate.seconds, took), min(estimate.seconds, took)
    return most > OFF * least and most > NOTICEABLE * spent


def _short(value: float) -> str:
    return human(value).replace(" ", "")


def _fired(subject: Subject) -> list[str]:
    counts = Counter([*subject.fired, *(a.rule for a in subject.chooser.memo.trace)])
    shown = [f"{n} {c}" for n, c in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]
    lines, line = [], "rules applied:"
    for word in shown:
        if len(line) + len(word) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {word}," if word is not shown[-1] else f" {word}"
    return [*lines, line]


def format_comparison(subject: Subject, other: Subject, without: Sequence[str]) -> str:
    """The cost of a plan beside that of the plan which has the rules that it lacks."""
    costs: Mapping[str, float] = {
        "with": other.prediction.seconds,
        "without": subject.prediction.seconds,
    }
    names = ", ".join(without)
    change = costs["without"] / costs["with"] - 1
    verdict = "the same" if abs(change) < 0.0005 else f"{change:+.1%}"
    return (
        f"without {names}: predicted {duration(costs['without'])} per input; "
        f"with {'it' if len(without) == 1 else 'them'} {duration(costs['with'])} ({verdict})"
    )

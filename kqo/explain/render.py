"""EXPLAIN: which rendering of which stage of a plan was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError
from kqo.explain.subject import STAGES, Subject
from kqo.explain.text import explain_text, format_comparison
from kqo.runtime.timing import Timings

FORMATS = ("text", "json", "dot", "svg", "html", "sql")
TIMED = ("text", "json", "html")
"""Formats that show measured times."""


def check_asked(
    *,
    stage: str | None = None,
    format: str = "text",
    rule: str | None = None,
    steps: bool = False,
    analyze: bool = False,
) -> None:
    """Whether there is such a rendering: before a model is exported, or a plan run for minutes.

    Raises:
        ArgumentError: a stage or format that there is not, or a combination that says nothing.
    """
    if format not in FORMATS:
        raise ArgumentError("format", repr(format), ", ".join(FORMATS))
    if stage is not None and stage not in STAGES:
        raise ArgumentError("stage", repr(stage), ", ".join(STAGES))
    if rule is not None or steps:
        _refuse(format != "text", "format", f"{format!r} of what rules did", "'text'")
        _refuse(stage is not None, "stage", f"{stage!r} of what rules did", "a stage or rules")
        _refuse(analyze, "analyze", "True with what rules did", "one of them")
        return
    if format == "html":
        _refuse(stage not in (None, "physical"), "stage", f"{stage!r} as html", "no stage")
        return
    if analyze:
        _refuse(
            stage not in (None, "physical"), "analyze", f"True with stage {stage!r}", "physical"
        )
        _refuse(format not in TIMED, "analyze", f"True as {format}", ", ".join(TIMED))
    if format == "sql":
        accepted = "logical, normalized or delta"
        _refuse(stage in ("physical", "source"), "stage", f"{stage!r} as SQL", accepted)
    elif stage == "source":
        _refuse(format != "text", "format", f"{format!r} of the source", "'text'")


def explain(
    subject: Subject,
    *,
    stage: str | None = None,
    format: str = "text",
    rule: str | None = None,
    steps: bool = False,
    known_rules: Sequence[str] = (),
    timings: Timings | None = None,
    without: Sequence[str] = (),
    other: Subject | None = None,
    image: NDArray[np.uint8] | None = None,
) -> str:
    """A plan in words or pictures; equal plans give equal text.

    Args:
        subject: the plan.
        stage: one of :data:`~kqo.explain.subject.STAGES`; by default logical for SQL, else
            physical.
        format: one of :data:`FORMATS`.
        rule: show what this rule did, in place of the plan.
        steps: show a diff per application of a rule, in place of the plan.
        known_rules: names that ``rule`` may be.
        timings: of a run, to stand beside the estimates.
        without: rules that the subject was planned without.
        other: the plan with them, for the difference.
        image: uint8 (H, W, 3), for the page to draw regions on.

    Raises:
        ArgumentError: what :func:`check_asked` refuses, or a rule that there is not.
        PlanError: SQL cannot say an operator of the plan.
    """
    check_asked(stage=stage, format=format, rule=rule, steps=steps, analyze=timings is not None)
    if rule is not None or steps:
        return _rules(subject, rule, steps, known_rules)
    if format == "html":
        from kqo.explain.html import page

        return page(subject, timings, image)
    if format == "sql":
        from kqo.explain.sql import to_sql

        return to_sql(subject.plan(stage or "logical"))
    wanted = stage or "physical"
    if wanted == "source":
        return subject.source
    if format == "json":
        from kqo.explain.document import to_json

        return to_json(subject, wanted, timings)
    if format in ("dot", "svg"):
        from kqo.explain.graph import graph_of, to_dot, to_svg

        graph = graph_of(subject, wanted)
        return to_dot(graph) if format == "dot" else to_svg(graph)
    if wanted != "physical":
        from kqo.ir.text import format_plan

        return format_plan(subject.plan(wanted))
    text = explain_text(subject, timings)
    if other is not None:
        text = format_comparison(subject, other, without) + "\n\n" + text
    return text


def _rules(subject: Subject, rule: str | None, steps: bool, known: Sequence[str]) -> str:
    from kqo.explain.changes import Changes, format_rule_changes, format_steps, of_rule

    applications = subject.applications()
    if rule is None:
        return format_steps(list(Changes(applications)))
    if subject.normalizing is None and rule in subject.fired:
        given = f"{rule}, of a plan that was loaded from a file"
        hint = "a plan file holds the normalized plan; compile the model to see how it came about"
        raise ArgumentError("rule", given, "a rule of another family than normalize", hint=hint)
    changes = of_rule(applications, rule, known)
    return format_steps(changes) if steps else format_rule_changes(rule, changes)


def _refuse(wrong: bool, argument: str, given: str, accepted: str) -> None:
    if wrong:
        raise ArgumentError(argument, given, accepted)

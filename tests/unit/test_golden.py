"""Golden cases of the rules: what each rule prints, and that what it prints means the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kqo.ir.interpret import interpret
from kqo.ir.nodes import Const, Scan, walk
from kqo.ir.plan import Plan
from kqo.ir.schema import shape
from kqo.ir.verify import verify
from kqo.lang.ruleset import load_rules
from kqo.prove.compare import equal
from tests.golden_case import (
    GOLDEN,
    Case,
    case_files,
    read_cases,
    rewritten,
    run_case,
    write_cases,
)

FILES = case_files()
CASES = [case for path in FILES for case in read_cases(path)]
FIRING = [case for case in CASES if case.fires]
# Numbers whose sums, products and quotients are exact in binary.
EXACT = np.array([-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0])


def _id(value: object) -> str:
    if isinstance(value, Case):
        return f"{value.file.stem}:{value.line}"
    return value.stem if isinstance(value, Path) else str(value)


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_golden_file_is_what_the_rule_prints(path: Path, update_golden: bool) -> None:
    cases = read_cases(path)
    found = [replace(case, output=run_case(case)) for case in cases]
    if update_golden:
        write_cases(path, found)
        return
    for case, new in zip(cases, found, strict=True):
        assert case.output, f"{path.name}:{case.line} has no output; run pytest --update-golden"
        assert case.output.strip() == new.output.strip()
    assert path.read_text(encoding="utf-8") == "\n".join(map(str, cases))


def test_every_rule_has_cases_that_fire_and_that_do_not() -> None:
    for rule in load_rules():
        path = GOLDEN / rule.family / f"{rule.name}.case"
        assert path.is_file(), f"{path} is missing"
        fires = [case.fires for case in read_cases(path) if case.rule == rule.name]
        assert True in fires, f"{path.name} has no case where the rule fires"
        assert False in fires, f"{path.name} has no case where the rule does not fire"


def test_every_case_file_is_about_a_rule() -> None:
    for path in FILES:
        assert load_rules().get(path.stem).family == path.parent.name
        assert all(case.rule == path.stem for case in read_cases(path))


def _with_values(plan: Plan, seed: int) -> tuple[Plan, dict[str, np.ndarray]]:
    """The plan with a value for every constant, and values for its scans."""
    rng = np.random.default_rng(seed)
    constants, scans = {}, {}
    for node in walk(*(root for _, root in plan.roots)):
        if isinstance(node, Const):
            constants[node.name] = rng.choice(EXACT, shape(node.axes))
        elif isinstance(node, Scan):
            scans[node.name] = rng.choice(EXACT, shape(node.axes))
    return replace(plan, constants=constants), scans


def _regions(plan: Plan, seed: int) -> dict[str, list[list[list[tuple[int, int]]]]]:
    """Two queries: one box, and two boxes that overlap."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[list[list[tuple[int, int]]]]] = {}
    for scan in plan.scans:
        boxes = []
        for _ in range(3):
            starts = [int(rng.integers(0, axis.extent)) for axis in scan.axes]
            boxes.append(
                [
                    (0, axis.extent) if axis.name == "c" else (start, min(start + 2, axis.extent))
                    for start, axis in zip(starts, scan.axes, strict=True)
                ]
            )
        found[scan.name] = [[boxes[0]], boxes[1:]]
    return found


@pytest.mark.parametrize("case", FIRING, ids=_id)
def test_rule_keeps_the_meaning(case: Case) -> None:
    """Exact rules: equal over exact rationals. Approximate ones: at the neutral parameter."""
    rule = load_rules().get(case.rule)
    if rule.parameter is not None:
        _check_neutral(case)
        return
    plan, scans = _with_values(case.plan, seed=1)
    after = rewritten(case, plan)
    assert after is not None
    regions = _regions(plan, seed=2)
    if rule.family == "normalize":
        verify(after)
        before = interpret(plan, scans, regions, 2, exact=True)
        found = interpret(after, scans, regions, 2, exact=True)
        assert list(found) == list(before)
        assert all(equal(before[name], found[name]).all() for name in before)
        return
    _check_pairs(after, scans, regions)


def _check_pairs(after: Plan, scans: dict[str, np.ndarray], regions: object) -> None:
    values = interpret(after, scans, regions, 2, exact=True)  # type: ignore[arg-type]
    names = [name for name, _ in after.roots]
    for original, alternative in zip(names[::2], names[1::2], strict=True):
        assert equal(values[original], values[alternative]).all()


def _check_neutral(case: Case) -> None:
    rule = load_rules().get(case.rule)
    assert rule.parameter is not None and rule.neutral is not None
    neutral = replace(case, command=f"apply {case.rule} {rule.parameter}={rule.neutral}")
    assert run_case(neutral) == "no match", "a rule at its neutral parameter does not run"
    plan, scans = _with_values(case.plan, seed=1)
    approximate = rewritten(case, plan)
    assert approximate is not None
    pairs = []
    from kqo.lang.context import Context

    for (_, node), (name, _) in zip(approximate.roots[::2], approximate.roots[1::2], strict=True):
        made = list(rule.apply(node, Context(lambda node: 1)))
        assert len(made) == 1
        pairs += [(f"before {name}", node), (f"after {name}", made[0])]
    _check_pairs(replace(approximate, roots=tuple(pairs)), scans, _regions(plan, seed=2))

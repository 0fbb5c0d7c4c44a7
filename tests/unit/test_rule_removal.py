"""Removing a rule file takes away what it did, and nothing else: results stay what they were."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kqo.data import data_path
from kqo.ir.interpret import interpret
from kqo.ir.nodes import Const, Scan
from kqo.ir.plan import Plan
from kqo.ir.schema import shape
from kqo.ir.text import parse_plan
from kqo.lang.ruleset import RuleSet, load_rules
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize

RULES = data_path("rules")
FILES = sorted(p for p in RULES.glob("*/*.rules") if p.parent.name != "physical")

# A small network in which every rule file has something to do.
NET = """plan net float64
image = Scan(axes: (c:2, y:6, x:6))
fill = Const(axes: (c:2))
o = Overlay(base: image, patch: fill, at: Changed(relation: image))
w1 = Const(axes: (c:4, i:2, ky:3, kx:3))
mean = Const(axes: (c:4))
scale = Const(axes: (c:4))
padj = Join(left: o, right: Domain(axes: ()), on: [y = y - 1, x = x - 1], axes: (y:8, x:8),
            combine: left)
pad = Group(input: padj, by: (c, y, x), agg: sum)
convj = Join(left: pad, right: w1, on: [c = i, y = y + ky, x = x + kx], axes: (y:6, x:6),
             combine: mul)
conv = Group(input: convj, by: (c, y, x), agg: sum)
shifted = Join(left: conv, right: mean, on: [], axes: (), combine: sub)
deviation = Map(input: scale, fn: abs(v) + 1)
scaled = Join(left: shifted, right: deviation, on: [], axes: (), combine: div)
relu = Map(input: scaled, fn: max(v, 0))
dropped = Map(input: relu, fn: v)
poolj = Join(left: dropped, right: Domain(axes: (ky:3, kx:3)), on: [y = y + ky - 1, x = x + kx - 1],
             axes: (y:6, x:6), combine: left)
pool = Map(input: Group(input: poolj, by: (c, y, x), agg: sum), fn: v / 8)
w2 = Const(axes: (c:2, i:4, ky:1, kx:1))
pointj = Join(left: pool, right: w2, on: [c = i, y = y + ky, x = x + kx], axes: (y:6, x:6),
              combine: mul)
point = Group(input: pointj, by: (c, y, x), agg: sum)
still = Map(input: image, fn: v * v)
both = Union(parts: [point, still, dropped], axis: c)
added = Join(left: both, right: Map(input: both, fn: exp(v / 64)), on: [], axes: (), combine: add)
flat = Rekey(input: added, order: (c, y, x), axes: (c:288))
w3 = Const(axes: (c:3, i:288))
fcj = Join(left: flat, right: w3, on: [c = i], axes: (), combine: mul)
fc = Group(input: fcj, by: (c), agg: sum)
return scores = fc
return features = added
"""
BOXES = {
    "image": [[[(0, 2), (1, 3), (2, 4)]], [[(0, 2), (0, 2), (0, 1)], [(0, 2), (4, 6), (3, 6)]]]
}


def _net() -> tuple[Plan, dict[str, np.ndarray]]:
    plan = parse_plan(NET)
    rng = np.random.default_rng(0)
    values = {
        node.name: rng.integers(-2, 3, shape(node.axes)) / 2.0
        for node in plan.nodes()
        if isinstance(node, (Const, Scan))
    }
    image = values.pop("image")
    return replace(plan, constants=values), {"image": image}


def _run(plan: Plan, scans: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return interpret(plan, scans, BOXES, 2)


def _fired(plan: Plan, rules: RuleSet) -> set[str]:
    """Names of the rules that fire on the plan."""
    normal, trace = normalize(plan, rules, check=True)
    tau = {"tau": 0.9} if rules.family("prune").rules else {}
    memo = explore(normal, rules.without("physical"), tau)
    return set(trace.counts()) | set(memo.trace.counts())


def _alternatives(plan: Plan, rules: RuleSet) -> Plan:
    """The normalized plan, with every alternative of its roots that exact rules add as a root."""
    normal, _ = normalize(plan, rules)
    memo = explore(normal, rules.without("physical"))
    roots = [
        (f"{name} {number}", alternative)
        for name, root in normal.roots
        for number, alternative in enumerate(memo.alternatives(root))
    ]
    return replace(normal, roots=tuple(roots))


def _check(plan: Plan, scans: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in _run(plan, scans).items():
        np.testing.assert_allclose(value, expected[name.split()[0]], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return _run(*_net())


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(p.parts[-2:]))
def test_removing_a_rule_file(path: Path, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    shutil.copytree(RULES, tmp_path / "rules")
    (tmp_path / "rules" / path.parent.name / path.name).unlink()
    everything, fewer = load_rules(), load_rules(tmp_path / "rules")
    removed = set(everything.names()) - set(fewer.names())
    assert removed
    plan, scans = _net()
    assert removed & _fired(plan, everything), "the file has something to do in this network"
    assert not removed & _fired(plan, fewer), "what it did is gone"
    _check(_alternatives(plan, fewer), scans, expected)


def test_all_rules_together_keep_every_alternative_equal(expected: dict[str, np.ndarray]) -> None:
    plan, scans = _net()
    rules = load_rules()
    alternatives = _alternatives(plan, rules)
    assert len(alternatives.roots) > len(plan.roots) + 2
    fired = _fired(plan, rules)
    assert {"MergePaddingIntoWindow", "CommuteMeanWithPointwise"} <= fired
    assert {"AddDeltaToSumOfProducts", "HoistOverlayThroughUnion", "MaterializeView"} <= fired
    _check(alternatives, scans, expected)

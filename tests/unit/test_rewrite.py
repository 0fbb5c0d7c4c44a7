"""The engine: rewriting to a fixpoint, cycles and budgets, origins, and the memo."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from kqo.errors import ArgumentError, PlanError, RuleError
from kqo.ir.nodes import Const, Group, Join, Map, Node, Overlay, Saved, Scan, Slice
from kqo.ir.plan import Origin, Plan
from kqo.ir.region import Changed, Clip
from kqo.ir.scalar import RELU, V, call
from kqo.ir.schema import axes_of
from kqo.ir.text import parse_plan
from kqo.lang.ruleset import RuleSet, compile_text, load_rules
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize

X = Scan("x", axes_of(c=2, y=4, x=4))


def plan_of(root: Node, **constants: np.ndarray) -> Plan:
    return Plan("test", (("output", root),), constants, {}, "float64")


def rule(body: str, name: str = "R") -> str:
    return f"## {name} is for a test.\nrule {name} exact {{\n{body}\n}}\n"


# ---- normalize ----------------------------------------------------------------------


def test_rules_that_undo_each_other_are_named() -> None:
    rules = compile_text(
        rule('match Map(input: $x, fn: "v + 1") replace Map(input: $x, fn: "1 + v")', "Left")
        + rule('match Map(input: $x, fn: "1 + v") replace Map(input: $x, fn: "v + 1")', "Right")
    )
    with pytest.raises(RuleError, match=r"rewrite in a circle: Left, Right"):
        normalize(plan_of(Map(X, call("add", V, 1))), rules)


def test_a_rule_that_wraps_what_it_matched_is_named() -> None:
    rules = compile_text(
        rule('match $n @ Map(fn: "v") replace Map(input: $n, fn: "v + 0")', "Wrap")
    )
    with pytest.raises(RuleError, match=r"rewrite in a circle: Wrap"):
        normalize(plan_of(Map(X, V)), rules)


def test_growth_without_end_meets_the_budget() -> None:
    grow = 'match Map(input: $x, fn: $f) replace Map(input: $x, fn: compose($f, "v + 1"))'
    with pytest.raises(RuleError, match=r"no normal form after 20 applications; last fired: Grow"):
        normalize(plan_of(Map(X, call("exp", V))), compile_text(rule(grow, "Grow")), budget=20)


def test_a_replacement_with_other_axes_is_an_error_of_the_rule() -> None:
    rules = compile_text(rule("match Group(input: $x) replace $x", "Lose"), file="f")
    with pytest.raises(RuleError, match=r"f:3:24: rule Lose: the replacement has axes \(c:2, y:4"):
        normalize(plan_of(Group(X, ("c",), "sum")), rules)


def test_a_replacement_that_cannot_be_built_is_an_error_of_the_rule() -> None:
    body = 'match $n @ Map(input: $x, fn: "v") replace Union(parts: [$x], axis: w)'
    with pytest.raises(RuleError, match=r"rule R: no 'w'"):
        normalize(plan_of(Map(X, V)), compile_text(rule(body)))
    body = (
        "match $n @ Group(input: $x, by: $by) let $y = Group(input: $n, by: names_of($x), agg: sum)"
    )
    with pytest.raises(RuleError, match=r"rule R: Group by y: the input has axes"):
        normalize(
            plan_of(Group(X, ("c",), "sum")),
            compile_text(rule(f"{body}\nreplace Group(input: $y, by: $by, agg: sum)")),
        )


def test_each_replacement_is_verified_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = 'match Map(input: $x, fn: "v") replace Map(input: $x, fn: "w")'
    bad = compile_text(rule(body))
    normalize(plan_of(Map(X, V)), bad, check=False)
    with pytest.raises(PlanError):
        normalize(plan_of(Map(X, V)), bad, check=True)
    monkeypatch.setenv("KQO_CHECK", "1")
    with pytest.raises(PlanError):
        normalize(plan_of(Map(X, V)), bad)


def test_a_node_with_two_readers_is_rewritten_once() -> None:
    m = Map(X, V)
    both = Join(Map(m, RELU), m, (), (), "add")
    after, trace = normalize(plan_of(both), load_rules())
    assert after.roots[0][1] is Join(Map(X, RELU), X, (), (), "add")
    assert trace.counts() == {"DropIdentityMap": 1}


def test_a_root_counts_as_a_reader() -> None:
    inner = Map(X, call("exp", V))
    outer = Map(inner, RELU)
    plan = replace(plan_of(outer), roots=(("a", outer), ("b", inner)))
    after, trace = normalize(plan, load_rules())
    assert after.roots == plan.roots and not len(trace)
    after, _ = normalize(plan_of(outer), load_rules())
    assert after.roots[0][1] is Map(X, call("max", call("exp", V), 0))


def test_a_long_chain_is_fast_and_does_not_recurse() -> None:
    node: Node = X
    for number in range(1, 2001):
        node = Map(Join(node, X, (), (), "add"), call("add", V, number))
    start = time.perf_counter()
    _, trace = normalize(plan_of(node), load_rules())
    memo = explore(plan_of(node), load_rules().without("physical"))
    assert time.perf_counter() - start < 10
    assert len(memo) >= 4000 and not len(trace.counts())


def test_constants_are_computed_once_in_float64_and_rounded_once() -> None:
    third = np.full(2, 1 / 3, dtype=np.float32)
    k = np.full((2,), 3.0, dtype=np.float32)
    a, b = Const("a", axes_of(c=2)), Const("b", axes_of(c=2))
    scaled = Join(Join(Join(X, a, (), (), "div"), b, (), (), "mul"), b, (), (), "mul")
    plan = replace(plan_of(scaled, a=third, b=k), dtype="float32")
    after, _ = normalize(plan, load_rules())
    (value,) = after.constants.values()
    assert value.dtype == np.float32
    expected = 1 / third.astype(np.float64) * 9
    np.testing.assert_array_equal(value, expected.astype(np.float32))
    again, _ = normalize(plan, load_rules())
    assert again.roots == after.roots, "names of constants are the same every time"


def test_constants_that_are_no_longer_read_are_dropped_and_shapes_kept() -> None:
    w = Const("w", axes_of(c=3, i=2))
    s = Const("s", axes_of(c=3))
    conv = Group(Join(X, w, parse_on("c = i"), (), "mul"), ("c", "y", "x"), "sum")
    after, _ = normalize(
        plan_of(Join(conv, s, (), (), "mul"), w=np.ones((3, 2)), s=np.arange(3.0)), load_rules()
    )
    assert [value.shape for value in after.constants.values()] == [(3, 2)]
    np.testing.assert_array_equal(next(iter(after.constants.values()))[:, 0], [0, 1, 2])


def parse_on(text: str) -> tuple[object, ...]:
    source = "plan p float32\nreturn o = Join(left: Scan(name: x, axes: (c:2, y:4, x:4)), right: "
    source += f"Const(name: w, axes: (c:3, i:2)), on: [{text}], axes: (), combine: mul)"
    node = parse_plan(source).roots[0][1]
    assert isinstance(node, Join)
    return node.on


def test_origins_stay_with_the_layer_that_took_in_the_others() -> None:
    w, s = Const("w", axes_of(c=3, i=2)), Const("s", axes_of(c=3))
    joined = Join(X, w, parse_on("c = i"), (), "mul")
    conv = Group(joined, ("c", "y", "x"), "sum")
    norm = Join(conv, s, (), (), "mul")
    root = Map(norm, RELU)
    origins = {
        joined: Origin("conv"),
        conv: Origin("conv"),
        norm: Origin("norm"),
        root: Origin("relu"),
    }
    after, _ = normalize(replace(plan_of(root), origins=origins), load_rules())
    found = {node.op: after.origins[node].layer for node in after.nodes() if node in after.origins}
    assert found["Group"] == found["Join"] == "conv" and found["Map"] == "relu"
    assert set(after.origins) <= set(after.nodes())


def test_the_trace_tells_what_a_node_was() -> None:
    chain = Map(Map(Map(X, call("exp", V)), call("add", V, 1)), RELU)
    after, trace = normalize(plan_of(chain), load_rules())
    history = trace.history(after.roots[0][1])
    assert [a.rule for a in history] == ["FuseMaps"]
    assert trace.counts() == {"FuseMaps": 2}
    assert trace.of_node(after.roots[0][1]) == history
    assert "fn: max(v, 0)" in history[0].before_text
    assert parse_plan(history[0].after_text).roots[0][1] is after.roots[0][1]


# ---- the memo ----------------------------------------------------------------------

CHANGED = Overlay(X, Const("fill", axes_of(c=2)), Changed("x"))


def test_a_chain_of_overlays_is_hoisted_link_by_link() -> None:
    one = Map(CHANGED, RELU)
    two = Map(one, call("exp", V))
    memo = explore(plan_of(two), load_rules().family("delta", "batch"))
    original, hoisted, saved = memo.alternatives(two)
    assert original is two and memo.rule_of(two) is None
    assert isinstance(hoisted, Overlay) and memo.rule_of(hoisted) == "HoistOverlayThroughMap"
    assert hoisted.base is Map(Map(X, RELU), call("exp", V)), "the base is never a view's reader"
    assert hoisted.patch is Slice(two, hoisted.at)
    assert isinstance(saved, Overlay) and saved.base is Saved(hoisted.base)
    assert memo.rule_of(saved) == "MaterializeView"
    assert memo.representative(saved) is two
    assert memo.alternatives(Const("alone", ())) == (Const("alone", ()),)
    assert memo.trace.counts() == {"HoistOverlayThroughMap": 2, "MaterializeView": 2}


def test_a_deep_plan_has_two_alternatives_per_layer() -> None:
    node: Node = CHANGED
    for number in range(300):
        node = Map(node, call("add", V, number))
    memo = explore(plan_of(node), load_rules().family("delta", "batch"))
    counts = [len(memo.alternatives(n)) for n in plan_of(node).nodes() if isinstance(n, Map)]
    assert counts == [3] * 300


def test_an_alternative_that_comes_late_is_seen_two_levels_up() -> None:
    see = 'match Map(input: $x @ Map(input: Group(agg: max)), fn: "v + 1") '
    see += 'replace Map(input: $x, fn: "v + 2")'
    make = 'match Map(input: $x, fn: "v") replace Group(input: $x, by: names_of($x), agg: max)'
    rules = compile_text(rule(see, "See") + rule(make, "Make"), family="delta")
    root = Map(Map(Map(X, V), RELU), call("add", V, 1))
    memo = explore(plan_of(root), rules)
    assert [memo.rule_of(a) for a in memo.alternatives(root)] == [None, "See"]


def test_prune_rules_take_the_place_of_what_they_rewrite() -> None:
    root = Map(CHANGED, RELU)
    rules = load_rules().family("delta", "batch", "prune")
    exact = explore(plan_of(root), rules, {"tau": 1.0})
    assert "ClipProjectiveField" not in exact.trace.counts()
    clipped = explore(plan_of(root), rules, {"tau": 0.5})
    assert len(clipped.alternatives(root)) == len(exact.alternatives(root)) == 3
    for alternative in clipped.alternatives(root)[1:]:
        assert isinstance(alternative, Overlay) and isinstance(alternative.at, Clip)
        assert alternative.at.tau == 0.5 and alternative.patch is Slice(root, alternative.at)
    with pytest.raises(ArgumentError, match=r"parameters: got rho; accepted: tau"):
        explore(plan_of(root), rules, {"rho": 1})


def test_a_memo_that_grows_without_end_is_an_error() -> None:
    grow = 'match Map(input: $x, fn: $f) replace Map(input: $x, fn: compose($f, "v + 1"))'
    with pytest.raises(RuleError, match=r"no end after \d+ alternatives; last fired: Grow"):
        explore(plan_of(Map(X, RELU)), compile_text(rule(grow, "Grow"), family="physical"))


def test_bases_are_read_as_often_as_what_they_are_the_old_value_of() -> None:
    once, twice = Map(CHANGED, RELU), Map(CHANGED, call("exp", V))
    root = Join(Join(once, twice, (), (), "add"), twice, (), (), "mul")
    probe = compile_text(
        rule(
            "match $n @ Map(input: $x, fn: $f) where single_use($n) replace Saved(input: $n)",
            "Probe",
        ),
        family="physical",
    )
    memo = explore(plan_of(root), RuleSet((*load_rules().family("delta").rules, *probe.rules)))
    alone = {n for n in memo.groups() if len(memo.alternatives(n)) > 1 and isinstance(n, Map)}
    marked = {n for n in alone if any(isinstance(a, Saved) for a in memo.alternatives(n))}
    assert marked == {once, Map(X, RELU)}


def test_what_rules_make_comes_from_where_their_match_did() -> None:
    root = Map(CHANGED, RELU)
    plan = replace(plan_of(root), origins={root: Origin("relu")})
    memo = explore(plan, load_rules().family("delta", "batch"))
    for alternative in memo.alternatives(root):
        assert memo.origin(alternative) == Origin("relu")
    assert memo.origin(Map(X, RELU)) == Origin("relu")
    assert memo.origin(X) is None

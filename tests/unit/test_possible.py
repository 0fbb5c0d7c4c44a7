"""A rule that may not match a node has no match there."""

from __future__ import annotations

import pytest
import torch

import kqo
from kqo.frontend.lower import lower
from kqo.ir.equations import Affine
from kqo.ir.nodes import Const, Group, Join, Map, Node, Scan
from kqo.ir.scalar import RELU
from kqo.ir.schema import axes_of
from kqo.lang.compile import CompiledRule, itself
from kqo.lang.context import Context
from kqo.lang.index import RuleIndex
from kqo.lang.ruleset import compile_text, load_rules
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from tests.models import GoogLeNet


@pytest.fixture(scope="module")
def stages():
    torch.manual_seed(0)
    lowered = lower(GoogLeNet().eval(), (torch.zeros(1, 3, 64, 64),), "small").plan
    plan = normalize(lowered, load_rules())[0]
    return lowered, kqo.Occlusion(4, 2).apply(plan)


def _found(rule: CompiledRule, node: Node, expand) -> int:
    bound = {"": node}
    for approximation in filter(None, [rule.rule.approximation]):
        bound[approximation.parameter] = approximation.neutral
    return sum(1 for _ in rule._match(node, bound, expand))


def test_what_may_not_match_does_not(stages) -> None:
    lowered, overlaid = stages
    memo = explore(overlaid, load_rules())
    asked = [(node, itself) for node in lowered.nodes()]
    asked += [(a, memo.alternatives) for home in memo.groups() for a in memo.alternatives(home)]
    passed = refused = matched = 0
    for rule in load_rules():
        for node, expand in asked:
            if node.op not in rule.roots:
                continue
            may = rule._possible is None or rule._possible(node, expand)
            count = _found(rule, node, expand)
            assert may or not count, f"{rule.name}: {node}"
            assert rule.starts_at(node) or not may, f"{rule.name}: {node}"
            passed, refused, matched = passed + may, refused + (not may), matched + bool(count)
    assert matched <= passed < refused


RULE = """
## Pick drops a scale or a map below a sum.
rule Pick exact {
  match   $n @ Group(input: (Join(left: $x, on: [], combine: mul) | Map(input: $x)), agg: sum)
  replace $x
}
"""


def test_options_lists_and_literals() -> None:
    (rule,) = compile_text(RULE)
    assert rule._possible is not None
    x = Scan("x", axes_of(c=3, y=4))
    k = Const("k", axes_of(c=3))
    scaled, shifted = Join(x, k, (), (), "mul"), Join(x, k, (), (), "add")
    window = Join(x, k, (Affine("y", ((2, "y"),), 0),), axes_of(y=2), "mul")
    found = {
        (node.op, agg): rule._possible(Group(node, ("c",), agg), itself)
        for node in (scaled, Map(x, RELU), x)
        for agg in ("sum", "max")
    }
    assert found == {(op, agg): op != "Scan" and agg == "sum" for op, agg in found}
    assert not rule._possible(Group(shifted, ("c",), "sum"), itself)
    assert not rule._possible(Group(window, ("c",), "sum"), itself)
    assert rule._possible(Group(x, ("c",), "sum"), lambda node: (node, scaled))  # an alternative


KINDS = """
## Sums are of sums, or of maps.
rule Sums exact {
  match   $n @ (Group(input: $x, agg: sum) | Map(input: $x))
  replace $x
}

## Joins are of any kind, below a group of one kind.
rule Joins exact {
  match   Group(input: Join(left: $x, combine: left), agg: $a @ (max | min))
  replace $x
}

## Any of all groups.
rule Any exact {
  match   Group(input: $x)
  replace $x
}
"""


def test_rules_are_found_by_what_a_node_does() -> None:
    index = RuleIndex(compile_text(KINDS))
    x = Scan("x", axes_of(c=2, y=2))
    found = {
        agg: [rule.name for rule in index.at(Group(x, ("c",), agg))]
        for agg in ("sum", "max", "mean", "sum")
    }
    assert found == {"sum": ["Any", "Sums"], "max": ["Any", "Joins"], "mean": ["Any"]}
    assert [rule.name for rule in index.at(Map(x, RELU))] == ["Sums"]
    assert index.at(x) == index.at(Join(x, x, (), (), "left")) == []


ALONE = """
## Alone says what it is, and no more.
rule Alone exact {
  match   $n @ (Group() | Map())
  where   is_const($n)
  replace evaluate($n)
}
"""


def test_operators_alone() -> None:
    (rule,) = compile_text(ALONE)
    x, k = Scan("x", axes_of(c=2, y=2)), Const("k", axes_of(c=2, y=2))
    context = Context(lambda node: 1)
    asked = [Group(k, ("c",), "sum"), Map(k, RELU), Map(x, RELU), Join(k, k, (), (), "mul"), k]
    made = [list(rule.apply(node, context)) for node in asked]
    assert [len(found) for found in made] == [1, 1, 0, 0, 0]
    assert {node.op for found in made for node in found} == {"Const"}
    assert [rule.starts_at(node) for node in asked] == [True, True, True, False, False]

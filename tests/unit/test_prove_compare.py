"""What counts as a difference between the two sides of a rule."""

from __future__ import annotations

import numpy as np

from kqo.ir.nodes import Const, Group, Join, Node, Overlay, Saved, Scan, Slice
from kqo.ir.plan import Plan
from kqo.ir.region import Changed
from kqo.ir.schema import axes_of
from kqo.prove.compare import RATIONALS, Tally, compare
from kqo.prove.instances import Pair
from kqo.prove.plans import Instance

OLD = Scan("image", axes_of(x=2))
AT = Changed("image")
NEW = Overlay(OLD, Const("fill", ()), AT)


def total(source: Node, combine: str) -> Node:
    return Group(Join(source, source, (), (), combine), (), "sum")


def added(combine: str) -> Node:
    old = Join(OLD, OLD, (), (), combine)
    change = Join(Slice(Join(NEW, NEW, (), (), combine), AT), old, (), (), "sub")
    return Join(Saved(Group(old, (), "sum")), Group(change, (), "sum"), (), (), "add")


def pair(before: Node, after: Node) -> Pair:
    plan = Plan("both", (("before", before), ("after", after)), dtype="float64")
    plan = plan.with_roots(plan.roots, {"fill": np.array(2.0)})
    instance = Instance(plan, {"image": np.array([-1.5, 2.0])}, {"image": [[((0, 1),)]]})
    return Pair(plan, None, instance)


def test_what_has_no_value_stays_in_a_sum_that_starts_from_the_old_one() -> None:
    tally = Tally()
    assert compare(pair(total(NEW, "pow"), added("pow")), tally) is None
    assert not tally.compared and [check for check, _ in tally.left_out] == [RATIONALS]


def test_sums_that_have_values_are_compared() -> None:
    tally = Tally()
    assert compare(pair(total(NEW, "mul"), added("mul")), tally) is None
    assert tally.compared[RATIONALS] == 1
    assert compare(pair(total(NEW, "mul"), added("max")), Tally()) is not None


def test_a_value_that_is_lost_otherwise_is_a_difference() -> None:
    found = compare(pair(total(NEW, "pow"), total(OLD, "pow")), Tally())
    assert found is not None and found.one_absent

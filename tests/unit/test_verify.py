"""The verifier: sound plans pass, and every kind of malformed node is named with what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from kqo.errors import PlanError
from kqo.ir.equations import Affine, Ranged, equal, window
from kqo.ir.nodes import (
    Const,
    Domain,
    Group,
    Join,
    Map,
    Overlay,
    Physical,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
)
from kqo.ir.plan import Plan
from kqo.ir.region import Changed, Clip, Either, Everything, Image, Regroup, Shift
from kqo.ir.scalar import V, Var, call
from kqo.ir.schema import QUERY_AXIS, Axis, axes_of
from kqo.ir.verify import verify
from tests.unit import nets

IMAGE = Scan("image", axes_of(c=3, y=8, x=8))
WEIGHT = Const("w", axes_of(c=4, i=3))
CHANGED = Changed("image")
OVER = Overlay(IMAGE, Const("fill", axes_of(c=3)), CHANGED)


def test_sound_plans_pass():
    node = nets.softmax(nets.linear(nets.flatten(nets.pool(OVER, 2, 4, "max", stride=2)), "fc", 5))
    verify([node, Slice(OVER, CHANGED), Slice(IMAGE, Everything(IMAGE.axes))])
    values = {"fill": np.zeros(3), "fc.weight": np.zeros((5, 48)), "fc.bias": np.zeros(5)}
    verify(Plan("t", (("out", node),), values))
    verify(Plan("t", (("out", node),)), values=False)


def region(at):
    return Slice(OVER, at)


def physical(**given):
    fields = {
        "form": "gemm", "input": IMAGE, "weight": WEIGHT, "on": (equal("c", "i"),), "axes": (),
        "by": ("c", "y", "x"), "combine": "mul", "agg": "sum", "tail": V, "operands": (), "tile": 0,
    }  # fmt: skip
    return Physical(**{**fields, **given})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Domain((Axis("x", 0),)), "axis x:0: extent is not positive"),
        (Domain((Axis("x", 2), Axis("x", 3))), "axis x occurs twice"),
        (Domain((Axis("a b", 2),)), "'a b' is no name of an axis"),
        (Scan("s", (QUERY_AXIS,)), "the query axis is carried along"),
        (Join(IMAGE, WEIGHT, (), (), "mul"), "axis c has extent 3 on the left, 4 on the right"),
        (Join(IMAGE, WEIGHT, (equal("c", "i"),), (), "plus"), "combine 'plus'; accepted: mul, add"),
        (
            Join(IMAGE, WEIGHT, (equal("d", "i"),), (), "mul"),
            "condition d = i: the left side has axes (c:3, y:8, x:8)",
        ),
        (
            Join(IMAGE, WEIGHT, (equal("c", "i"), equal("c", "c")), (), "mul"),
            "two conditions bind c",
        ),
        (
            Join(IMAGE, WEIGHT, (equal("c", "i"), equal("y", "z")), (), "mul"),
            "condition y = z reads z",
        ),
        (
            Join(IMAGE, WEIGHT, (equal("c", "i"),), axes_of(y=8), "mul"),
            "declared axis y is a free one of the left side",
        ),
        (
            Join(IMAGE, WEIGHT, (equal("c", "i"),), axes_of(i=8), "mul"),
            "declared axis i is one of the right side",
        ),
        (
            Join(IMAGE, Domain(()), (Affine("y", ((1, "y"),), 0, 0),), axes_of(y=2), "left"),
            "the scale is 0",
        ),
        (
            Join(
                IMAGE, Domain(axes_of(ky=4)), (Ranged("y", "y", "ky", (0, 4), (4,)),),
                axes_of(y=2), "left",
            ),
            "tables of 2 and 1 keys for 2",
        ),
        (
            Join(
                IMAGE, Domain(axes_of(ky=4)), (Ranged("y", "y", "ky", (4, 0), (4, 8)),),
                axes_of(y=2), "left",
            ),
            "a table decreases",
        ),
        (Group(IMAGE, ("c", "z"), "sum"), "by z: the input has axes"),
        (Group(IMAGE, ("c", "c"), "sum"), "by names c twice"),
        (Group(OVER, ("q", "c"), "sum"), "by names the query axis"),
        (Group(IMAGE, ("c",), "product"), "aggregate 'product'; accepted: sum, mean, max, min"),
        (Map(IMAGE, call("add", V, Var("a0"))), "the expression reads a0; known: v"),
        (Union((), "c"), "a union of nothing"),
        (Union((IMAGE, WEIGHT), "y"), "part 1 (c:4, i:3) has no axis y"),
        (Union((IMAGE, WEIGHT), "c"), "differ beside axis c"),
        (Slice(IMAGE, CHANGED), "the region varies by query, the input does not"),
        (Rekey(IMAGE, ("c", "y"), axes_of(c=24)), "order leaves out x"),
        (Rekey(IMAGE, ("c", "y", "x", "c"), axes_of(c=24)), "order names c twice"),
        (Rekey(IMAGE, ("c", "y", "x"), axes_of(c=24)), "has 192 keys, (c:24) has 24"),
        (Overlay(OVER, IMAGE, CHANGED), "the base varies by query"),
        (Overlay(IMAGE, WEIGHT, CHANGED), "the patch has axis c:4, not among (c:3, y:8, x:8)"),
        (
            Overlay(WEIGHT, WEIGHT, Everything(IMAGE.axes)),
            "the region is over (c:3, y:8, x:8), the relation (c:4, i:3)",
        ),
        (Saved(OVER), "a materialized view cannot vary by query"),
        (physical(agg="product"), "aggregate 'product'"),
        (physical(combine=""), "combine ''"),
        (physical(by=("k",)), "by k: the input has axes"),
        (physical(operands=(Const("b", axes_of(c=3)),)), "operand a0 has axis c:3"),
        (physical(tail=Var("a0")), "the expression reads a0; known: v"),
        (physical(form="concat"), "the axes are no concatenation of the parts"),
        (physical(agg="", axes=axes_of(c=4)), "axes (c:4); it stands for a relation over"),
        (region(Changed("other")), "region of other, which is no Scan of the plan"),
        (region(Either(())), "region Either of nothing"),
        (region(Either((CHANGED, Everything(axes_of(c=2))))), "region Either: parts over"),
        (
            region(Image(CHANGED, (window("z", "k"),), (), IMAGE.axes)),
            "binds no axis of (c:3, y:8, x:8)",
        ),
        (
            region(Image(CHANGED, (window("y", "ky"),), (), IMAGE.axes)),
            "reads ky, no axis of the output",
        ),
        (region(Image(CHANGED, (), axes_of(y=8), IMAGE.axes)), "an axis occurs twice"),
        (region(Image(CHANGED, (), (), axes_of(c=3, y=8, x=9))), "axis x:9 of the output"),
        (region(Shift(CHANGED, "c", 1, IMAGE.axes)), "does not fit"),
        (region(Shift(CHANGED, "z", 1, IMAGE.axes)), "region Shift along z"),
        (
            region(Regroup(CHANGED, IMAGE.axes, ("c", "y"), IMAGE.axes)),
            "order is no permutation",
        ),
        (
            region(Regroup(CHANGED, axes_of(c=2), ("c",), IMAGE.axes)),
            "region Regroup: source (c:2)",
        ),
        (
            region(Regroup(CHANGED, IMAGE.axes, ("c", "y", "x"), axes_of(c=3))),
            "differ in size",
        ),
        (region(Clip(CHANGED, 0.0, IMAGE.axes)), "tau 0.0; accepted: above 0, at most 1"),
        (region(Clip(CHANGED, 0.5, axes_of(c=3))), "region Clip: over (c:3, y:8, x:8)"),
    ],
)  # fmt: skip
def test_malformed_nodes_are_named(node, message):
    plan = Plan("t", (("out", node),))
    with pytest.raises(PlanError) as error:
        verify(plan, values=False)
    assert message in str(error.value)
    assert f"{node.op}(" in str(error.value).split(message)[0]
    assert "\n" not in str(error.value)


def test_the_definition_of_the_node_is_shown():
    node = Group(Map(IMAGE, V), ("z",), "sum")
    with pytest.raises(PlanError, match=r"^%1 = Group\(input: %0, by: \(z\), agg: sum\): by z: "):
        verify([node])


def test_regions_of_relations_elsewhere_pass_for_nodes():
    view = Const("view", axes_of(c=3))
    node = Overlay(view, view, Image(Changed("image"), (), axes_of(y=8, x=8), axes_of(c=3)))
    verify([node])
    with pytest.raises(PlanError, match="no Scan of the plan"):
        verify(Plan("t", (("out", node),)), values=False)


def test_constants_have_values_of_their_shape():
    plan = Plan("t", (("out", WEIGHT),))
    with pytest.raises(PlanError, match=r"^w = Const\(.*the plan has no values for it"):
        verify(plan)
    with pytest.raises(PlanError, match=r"shape \(3, 4\), its axes \(4, 3\)"):
        verify(Plan("t", plan.roots, {"w": np.zeros((3, 4))}))
    with pytest.raises(PlanError, match="dtype <U1"):
        verify(Plan("t", plan.roots, {"w": np.full((4, 3), "a")}))


def test_outputs_and_names_are_unique():
    with pytest.raises(PlanError, match="plan t has no outputs"):
        verify(Plan("t", ()))
    with pytest.raises(PlanError, match="two outputs named a"):
        verify(Plan("t", (("a", IMAGE), ("a", IMAGE))))
    with pytest.raises(PlanError, match="dtype half"):
        verify(Plan("t", (("a", IMAGE),), dtype="half"))
    with pytest.raises(PlanError, match=r"two base relations are named image: Scan .* and Const"):
        verify([Union((IMAGE, Const("image", IMAGE.axes)), "c")])

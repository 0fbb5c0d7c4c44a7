"""The text form: what prints, that it reads back, and where errors point."""

from __future__ import annotations

import math
import time

import pytest

from kqo.errors import PlanError
from kqo.ir.equations import Affine, Ranged
from kqo.ir.nodes import (
    OPERATORS,
    Const,
    Domain,
    Group,
    Join,
    Map,
    Opaque,
    Overlay,
    Physical,
    Rekey,
    Saved,
    Scan,
    Slice,
    Union,
)
from kqo.ir.plan import Plan
from kqo.ir.region import (
    Changed,
    Clip,
    Either,
    Everything,
    Image,
    Regroup,
    Shift,
)
from kqo.ir.scalar import Num, V, Var, call
from kqo.ir.schema import axes_of
from kqo.ir.text import Labels, format_definition, format_plan, format_region, parse_plan
from tests.unit import nets

IMAGE = Scan("image", axes_of(c=3, y=8, x=8))

SMALL = """\
plan "a small net" float32
image = Scan(axes: (c:3, y:8, x:8))
w = Const(axes: (c:4, i:3, ky:3, kx:3))
%0 = Join(left: image, right: w, on: [c = i, y = y + ky - 1, x = 2*x + kx - 1], axes: (y:8, x:4), \
combine: mul)
%1 = Group(input: %0, by: (c, y, x), agg: sum)
%2 = Map(input: %1, fn: max(v, 0))
return output = %2
"""


def roundtrip(*roots, name="t"):
    plan = Plan(name, tuple((f"out{i}", root) for i, root in enumerate(roots)))
    text = format_plan(plan)
    again = parse_plan(text)
    assert again.roots == plan.roots
    assert again.name == plan.name
    assert format_plan(again) == text
    return text


def test_a_small_plan_prints_as_it_is_written():
    weight = Const("w", axes_of(c=4, i=3, ky=3, kx=3))
    on = (
        Affine("c", ((1, "i"),)),
        Affine("y", ((1, "y"), (1, "ky")), -1),
        Affine("x", ((2, "x"), (1, "kx")), -1),
    )
    joined = Join(IMAGE, weight, on, axes_of(y=8, x=4), "mul")
    node = nets.relu(Group(joined, ("c", "y", "x"), "sum"))
    plan = Plan("a small net", (("output", node),))
    assert format_plan(plan) == SMALL
    assert parse_plan(SMALL).roots == plan.roots


def test_every_operator_and_region_reads_back():
    changed = Changed("image")
    on = (Affine("y", ((1, "y"), (-2, "ky")), 3, scale=2), Ranged("x", "x", "kx", (0, 4), (4, 8)))
    taps, into = axes_of(ky=2, kx=4), axes_of(c=3, y=5, x=2)
    image = Image(changed, on, taps, into)
    region = Either((Clip(image, 1 / 3, into), Everything(into), image))
    over = Overlay(IMAGE, Const("fill", ()), changed)
    pooled = Group(Join(over, Domain(taps), on, into[1:], "left"), ("c", "y", "x"), "max")
    cut = Slice(pooled, region)
    both = Union((cut, pooled), "c")
    moved = Overlay(
        Const("old", axes_of(c=6, y=5, x=2)), both, Shift(region, "c", 3, axes_of(c=6, y=5, x=2))
    )
    flat = Rekey(moved, ("y", "c", "x"), axes_of(c=60))
    regrouped = Regroup(region, into, ("c", "x", "y"), axes_of(c=30))
    view = Saved(Map(IMAGE, call("mul", V, Num(-0.1))))
    external = Opaque((view, flat), "a module.forward", 2, axes_of(c=30))
    late = Overlay(Const("30", axes_of(c=30)), external, regrouped)
    physical = Physical(
        "gemm", over, Const("w", axes_of(k=1, o=2)), (), (), ("o",), "mul", "sum",
        call("max", call("add", V, Var("a0")), 0.0), (Const("b", axes_of(o=2)),), 6,
    )  # fmt: skip
    rows = Physical("rows", over, Domain(()), (), IMAGE.axes, (), "left", "", V, (), 0)
    text = roundtrip(late, physical, rows, flat)
    assert all(f" {name}(" in text for name in OPERATORS)


@pytest.mark.parametrize(
    "value",
    [
        0.1,
        1 / 3,
        -2.5,
        1e300,
        5e-324,
        -1e-5,
        1e15,
        123456789.0,
        math.inf,
        -math.inf,
        math.nan,
        -0.0,
    ],
)
def test_numbers_are_exact(value):
    fn = call("sub", call("mul", V, value), call("sub", value, V))
    text = roundtrip(Map(IMAGE, fn))
    again = dict(parse_plan(text).roots)["out0"].fn.args[0].args[1].value
    assert math.isnan(again) if math.isnan(value) else again.hex() == value.hex()


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (call("sub", V, call("sub", V, 1.0)), "v - (v - 1)"),
        (call("sub", call("sub", V, 1.0), V), "v - 1 - v"),
        (call("div", V, call("mul", V, V)), "v / (v * v)"),
        (call("mul", call("add", V, -3.0), 2.0), "(v + -3) * 2"),
        (
            call("neg", call("where", call("gt", V, 0.0), V, Var("a0"))),
            "neg(where(gt(v, 0), v, a0))",
        ),
    ],
)
def test_expressions_are_infix(fn, text):
    assert f"fn: {text})" in roundtrip(Map(IMAGE, fn))


def test_odd_names_are_quoted():
    names = ("0.weight", 'a "b"', "return", "Join", "layer1.0.conv", "été\n", "")
    axes = axes_of(x=2)
    text = roundtrip(*(Const(name, axes) for name in names), name="plan 1\t")
    assert '"0.weight" = Const' in text
    assert "\nlayer1.0.conv = Const" in text


def test_relations_of_one_name_get_labels_of_their_own():
    text = roundtrip(Union((Scan("a", axes_of(x=2)), Const("a", axes_of(x=3))), "x"))
    assert "a = Scan(axes: (x:2))" in text
    assert "%0 = Const(name: a, axes: (x:3))" in text


def test_text_written_by_hand_may_nest():
    plan = parse_plan(
        """plan t float64  # a comment
        image = Scan(axes: (c:3, y:8, x:8))
        small = Slice(input: Overlay(base: image, patch: image, at: Changed(relation: image)),
                      at: Changed(relation: image))
        return out = Group(input: small, by: (), agg: max)"""
    )
    changed = Changed("image")
    wanted = Group(Slice(Overlay(IMAGE, IMAGE, changed), changed), (), "max")
    assert plan.roots == (("out", wanted),)
    assert plan.dtype == "float64"


def test_constants_are_those_given():
    assert parse_plan(SMALL, {"w": 3}).constants["w"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plan a half", "t.plan:1:8: dtype half; accepted: float32, float64"),
        ("plan a float32\n%1 = Saved(input: %0)", "t.plan:2:19: %0 is not defined above"),
        ("plan a float32\na = Saved(input: b)", "t.plan:2:18: b is not defined above"),
        ("plan a float32\na = Slice(input: b, at: @1)", "t.plan:2:18: b is not defined above"),
        (
            "plan a float32\na = Scan(axes: ())\na = Scan(axes: ())",
            "t.plan:3:1: a is defined twice",
        ),
        (
            "plan a float32\na = Scan(axes: ())\nreturn b = Map(input: a, fn: foo(v))",
            "t.plan:3:30: unknown scalar function 'foo'",
        ),
        (
            "plan a float32\na = Scan(axes: ())\nreturn b = Map(input: a, fn: exp(v, v))",
            "t.plan:3:30: exp takes 1 arguments, got 2",
        ),
        (
            "plan a float32\na = Scan(axes: ())\nreturn b = Map(input: a, fn: 3 - -v)",
            "t.plan:3:35: -v: write neg(v)",
        ),
        ("plan a float32\n%0 = Scan(axes: ())", "t.plan:2:1: %0 = Scan: give its name"),
        ("plan a float32\na = ?", "t.plan:2:5: unexpected '?'; expected "),
        ("plan a float32\na = Group(by: (c))", "t.plan:2:11: unexpected 'by'; expected 'input'"),
        ("plan a float32\nreturn a", "t.plan:2:8: the text ends too early; expected '='"),
        (
            "plan a float32\na = Join(left: Domain(axes: ()), right: Domain(axes: ()), "
            "on: [2*y = lo[y] + ky lo 1 hi 2], axes: (), combine: mul)",
            "t.plan:2:66: 2*y: a condition over tables has no scale",
        ),
        ('plan a float32\n"\\x" = Scan(axes: ())', 't.plan:2:1: "\\x" is no quoted string'),
    ],
)
def test_errors_have_a_place(text, message):
    with pytest.raises(PlanError) as error:
        parse_plan(text, file="t.plan")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_shared_regions_print_once():
    region = Changed("image")
    for _ in range(60):
        region = Either((region, Clip(region, 1.0, IMAGE.axes)))
    text = roundtrip(Slice(IMAGE, region))
    assert text.count("Either") == 60
    assert format_region(Changed("image")) == "Changed(relation: image)"


def test_definition_of_a_node():
    node = Group(IMAGE, ("c",), "sum")
    labels = Labels.of([node])
    assert format_definition(node, labels) == "%0 = Group(input: image, by: (c), agg: sum)"


def test_large_plans_read_fast():
    node = IMAGE
    for i in range(500):
        node = nets.relu(nets.conv(node, f"w{i}", 3, 3, 8, padding=1))
    text = format_plan(Plan("deep", (("out", node),)))
    parse_plan(SMALL)
    start = time.perf_counter()
    plan = parse_plan(text)
    assert time.perf_counter() - start < 10
    assert plan.roots == (("out", node),)

"""Plans as SQL, run by DuckDB, against the reference interpreter and torch."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kqo.errors import PlanError
from kqo.explain.sql import to_sql
from kqo.ir.equations import Affine, equal, window
from kqo.ir.interpret import interpret
from kqo.ir.nodes import (
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
from kqo.ir.region import Changed, Clip, Either, Everything, Image, Regroup
from kqo.ir.scalar import RELU, V, Var, call
from kqo.ir.schema import axes_of
from kqo.prove.duck import run_sql
from tests.unit import nets

RNG = np.random.default_rng(3)
IMAGE = Scan("image", axes_of(c=3, y=8, x=8))
X = RNG.standard_normal((3, 8, 8))
GRID = [(y, x) for y in range(0, 8, 3) for x in range(0, 8, 3)]
BOXES = [
    *([((0, 3), (y, min(y + 3, 8)), (x, min(x + 3, 8)))] for y, x in GRID),
    [],
    [((0, 3), (0, 1), (0, 8)), ((1, 2), (0, 8), (7, 8))],
]


def residual_net(source):
    """conv-BN-ReLU-max pool, a residual block, a concatenation and a linear layer."""
    stem = nets.relu(nets.batch_norm(nets.conv(source, "stem", 4, 3, 8, padding=1), "bn"))
    pooled = nets.pool(stem, 3, 4, "max", stride=2, padding=1)
    block = nets.relu(nets.conv(pooled, "a", 4, 3, 4, padding=1))
    block = nets.conv(block, "b", 4, 3, 4, padding=1)
    summed = nets.relu(Join(block, pooled, (), (), "add"))
    both = Union((summed, pooled), "c")
    return nets.linear(nets.flatten(both), "fc", 5)


def constants():
    shapes = {
        "stem": (4, 3, 3, 3), "a": (4, 4, 3, 3), "b": (4, 4, 3, 3), "bn.mean": 4, "bn.weight": 4,
        "bn.bias": 4, "fc.weight": (5, 128), "fc.bias": 5, "fill": 3,
    }  # fmt: skip
    values = {name: RNG.standard_normal(shape) for name, shape in shapes.items()}
    return {**values, "bn.var": RNG.random(4) + 0.5}


CONSTANTS = constants()
OVER = Overlay(IMAGE, Const("fill", axes_of(c=3)), Changed("image"))


def torch_net(x):
    t = {name: torch.from_numpy(value) for name, value in CONSTANTS.items()}
    x = F.conv2d(torch.from_numpy(x)[None], t["stem"], padding=1)
    x = F.relu(F.batch_norm(x, t["bn.mean"], t["bn.var"], t["bn.weight"], t["bn.bias"]))
    pooled = F.max_pool2d(x, 3, 2, 1)
    x = F.conv2d(F.relu(F.conv2d(pooled, t["a"], padding=1)), t["b"], padding=1)
    both = torch.cat([F.relu(x + pooled), pooled], 1).flatten(1)
    return F.linear(both, t["fc.weight"], t["fc.bias"])[0].numpy()


def plan_of(*roots, values=CONSTANTS):
    plan = Plan("t", tuple((f"out{i}", root) for i, root in enumerate(roots)))
    return plan.with_roots(plan.roots, values)


def check(*roots, values=CONSTANTS, boxes=None, scans=None):
    """DuckDB's answer equals the interpreter's within 1e-12 of the largest value."""
    plan = plan_of(*roots, values=values)
    regions = {"image": boxes} if boxes else None
    scans = scans or {"image": X}
    wanted = interpret(plan, scans, regions)
    found = run_sql(plan, scans, regions)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        most = np.abs(value[np.isfinite(value)]).max()
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12 * most)
    return found


def test_a_network():
    found = check(residual_net(IMAGE))
    np.testing.assert_allclose(found["out0"], torch_net(X), rtol=1e-10)


def test_a_network_over_a_grid_of_occlusions():
    found = check(residual_net(OVER), boxes=BOXES)["out0"]
    for query, boxes in enumerate(BOXES):
        seen = X.copy()
        for (c0, c1), (y0, y1), (x0, x1) in boxes:
            seen[c0:c1, y0:y1, x0:x1] = CONSTANTS["fill"][c0:c1, None, None]
        np.testing.assert_allclose(found[query], torch_net(seen), rtol=1e-9)


def delta(group, old, at):
    """A group over an overlay as an overlay of its saved old value."""
    taps = tuple(a for a in group.input.schema if a.name not in (*group.by, "q"))
    region = Image(at, group.input.on, taps, old.schema)
    return Overlay(Saved(old), Slice(group, region), region), region


def test_a_delta_plan():
    def stem(source):
        return nets.conv(source, "stem", 4, 3, 8, padding=1)

    first, at = delta(stem(OVER), stem(IMAGE), OVER.at)
    act = nets.relu(first)
    pooled, at = delta(
        nets.pool(act, 3, 4, "max", stride=2, padding=1),
        nets.pool(nets.relu(stem(IMAGE)), 3, 4, "max", stride=2, padding=1),
        at,
    )
    delta_net = nets.linear(nets.flatten(Union((pooled, pooled), "c")), "fc", 5)
    dense = nets.pool(nets.relu(stem(OVER)), 3, 4, "max", stride=2, padding=1)
    dense_net = nets.linear(nets.flatten(Union((dense, dense), "c")), "fc", 5)
    found = check(delta_net, pooled, dense_net, boxes=BOXES)
    np.testing.assert_allclose(found["out0"], found["out2"], rtol=1e-12)
    statement = to_sql(plan_of(delta_net))
    assert statement.count("changed_image") == 1
    assert "r1(c" not in statement


def test_regions_that_are_clipped_regrouped_or_whole():
    mapped = Map(OVER, call("mul", V, 2.0))
    order, flat = ("y", "c", "x"), axes_of(z=8, c=24)
    turned = Rekey(mapped, order, flat)
    whole = Regroup(OVER.at, IMAGE.axes, order, flat)
    clipped = Clip(OVER.at, 0.25, IMAGE.axes)
    every = Everything(IMAGE.axes)
    total = Group(Slice(mapped, Clip(every, 0.5, IMAGE.axes)), ("c",), "sum")
    channel = Image(OVER.at, (), IMAGE.axes[1:], IMAGE.axes[:1])
    gated = Image(channel, (), (), IMAGE.axes)
    check(
        Group(Slice(mapped, clipped), ("c", "y"), "sum"),
        total,
        Overlay(Saved(Rekey(IMAGE, order, flat)), Slice(turned, whole), whole),
        Group(Slice(mapped, Either((gated, clipped))), ("y",), "max"),
        Group(Slice(mapped, Either((every, clipped))), ("x",), "min"),
        boxes=BOXES,
    )


def test_unusual_conditions():
    in_groups = (Affine("c", ((2, "g"), (1, "n"))),)
    both = Join(
        Join(IMAGE, Domain(axes_of(g=2)), in_groups, axes_of(n=2), "left"),
        Const("w", axes_of(n=2, k=3)), (Affine("x", ((2, "xo"), (-3, "k")), 1),), axes_of(xo=5),
        "mul",
    )  # fmt: skip
    copies = Join(IMAGE, Domain(()), (), axes_of(copy=2), "left")
    crop = Join(IMAGE, Domain(()), (Affine("x", ((-1, "x"),), 6),), axes_of(x=4), "left")
    diagonal = Join(IMAGE, Domain(()), (equal("x", "y"),), (), "left")
    wide = Join(
        IMAGE, Const("w", axes_of(n=2, k=3)), (window("x", "n", 2),
        Affine("y", ((1, "k"), (1, "x")), 1)), axes_of(x=4), "mul",
    )  # fmt: skip
    check(*(Group(j, tuple(a.name for a in j.schema), "sum") for j in
            (both, copies, crop, diagonal, wide)),
          values={"w": RNG.standard_normal((2, 3))})  # fmt: skip


@pytest.mark.parametrize(
    "fn",
    [
        RELU,
        call("round", call("mul", V, 0.5)),
        call("where", call("ge", V, 1.0), call("neg", V), call("eq", V, 0.0)),
        call("sigmoid", call("tanh", V)),
        call("log", call("abs", V)),
        call("sqrt", V),
        call("rsqrt", V),
        call("pow", call("abs", V), 0.3),
        call("div", call("min", V, 0.1), -3e-7),
        call("add", call("sin", V), call("cos", call("ceil", call("floor", call("sign", V))))),
        call("min", call("exp", V), float("inf")),
        call("add", call("atan", V), call("fmod", V, 0.75)),
    ],
)
def test_functions(fn):
    x = np.arange(-8, 8) / 2
    check(Map(Scan("image", axes_of(x=16)), fn), scans={"image": x})


COMBINED = ("mul", "sub", "div", "min", "gt", "ge", "eq", "when")


def test_combines_and_identities():
    far = Join(IMAGE, Domain(()), (Affine("x", ((1, "x"),), 5),), IMAGE.axes[2:], "left")
    check(*(Group(far, ("x",), agg) for agg in ("sum", "max", "min", "mean")))
    empty = Group(Slice(OVER, OVER.at), (), "max")
    check(empty, Group(far, (), "sum"), boxes=BOXES)
    gate = Group(IMAGE, ("c",), "max")
    check(*(Join(IMAGE, gate, (), (), c) for c in COMBINED))


def test_physical_operators():
    conv = nets.conv(OVER, "stem", 4, 3, 8, padding=1)
    joined = conv.input
    bias = Const("bn.bias", axes_of(c=4))
    tail = call("max", call("add", V, call("mul", Var("a0"), Var("a1"))), 0.0)
    check(
        Physical(
            "gemm", joined.left, joined.right, joined.on, joined.axes, conv.by, "mul", "sum", tail,
            (bias, conv), 0,
        ),
        Physical(
            "rows", nets.conv(IMAGE, "stem", 4, 3, 8, padding=1), Domain(()), (), conv.schema[1:],
            (), "left", "", tail, (bias, conv), 0,
        ),
        Physical(
            "concat", IMAGE, Domain(()), (), axes_of(c=6, y=8, x=8), (), "left", "", V, (OVER,), 0
        ),
        boxes=BOXES[:2],
    )  # fmt: skip


def test_it_is_one_table_expression_per_node():
    shared = nets.relu(IMAGE)
    statement = to_sql(plan_of(Join(shared, Group(shared, ("c",), "mean"), (), (), "mul")))
    assert statement == (
        "WITH\n"
        "-- %0 = Map(input: image, fn: max(v, 0))\n"
        "n0 AS MATERIALIZED (\n"
        "  SELECT s.c AS c, s.y AS y, s.x AS x, GREATEST(s.v, 0e0) AS v\n"
        '  FROM "image" AS s\n'
        "),\n"
        "-- %1 = Group(input: %0, by: (c), agg: mean)\n"
        "n1 AS (\n"
        "  SELECT d0.c AS c, COALESCE(a.v, CAST('NaN' AS DOUBLE PRECISION)) AS v\n"
        "  FROM generate_series(0, 2) AS d0(c)\n"
        "  LEFT JOIN (SELECT c, AVG(v) AS v FROM n0 GROUP BY c) AS a ON d0.c = a.c\n"
        "),\n"
        "-- %2 = Join(left: %0, right: %1, on: [], axes: (), combine: mul)\n"
        "n2 AS (\n"
        "  SELECT l.c AS c, l.y AS y, l.x AS x, (l.v * r.v) AS v\n"
        "  FROM n0 AS l JOIN n1 AS r ON l.c = r.c\n"
        ")\n"
        "SELECT c, y, x, v\n"
        "FROM n2\n"
        "ORDER BY c, y, x\n"
    )


def test_names_are_quoted_and_not_taken():
    odd = Const('a "b" n0', axes_of(in_=2, y=2))
    plain = Const("n0", axes_of(y=2))
    values = {'a "b" n0': np.eye(2), "n0": np.array([1.0, 2.0])}
    check(Join(Map(odd, RELU), plain, (), (), "add"), values=values)


def test_what_sql_cannot_say_is_named():
    with pytest.raises(PlanError, match=r"SQL cannot say Opaque some\.module"):
        to_sql(plan_of(Opaque((IMAGE,), "some.module", 0, ())))
    with pytest.raises(PlanError, match="SQL cannot say erf: DuckDB has no such function"):
        to_sql(plan_of(Map(IMAGE, call("erf", V))))
    with pytest.raises(PlanError, match="cannot tell these tables apart: IMAGE, "):
        to_sql(plan_of(Union((IMAGE, Const("IMAGE", IMAGE.axes)), "c")))


def test_nan_is_a_value():
    plan = plan_of(Group(Scan("image", axes_of(c=2, x=2)), ("c",), "sum"))
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    np.testing.assert_array_equal(run_sql(plan, {"image": x})["out0"], [np.nan, 5.0])


def test_a_convolution_hashes():
    values = {"w": RNG.standard_normal((16, 16, 3, 3))}
    source = Scan("image", axes_of(c=16, y=28, x=28))
    plan = plan_of(nets.conv(source, "w", 16, 3, 28, padding=1), values=values)
    x = RNG.standard_normal((16, 28, 28))
    start = time.perf_counter()
    found = run_sql(plan, {"image": x})["out0"]
    assert time.perf_counter() - start < 10
    wanted = F.conv2d(torch.from_numpy(x)[None], torch.from_numpy(values["w"]), padding=1)
    np.testing.assert_allclose(found, wanted[0].numpy(), rtol=1e-9, atol=1e-9)

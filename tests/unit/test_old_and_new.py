"""Plans that models never lead to, and rules or texts of one's own may: old values read beside new
ones, and joins that are not below a Group."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from kqo.emit.source import emit
from kqo.errors import PlanError
from kqo.ir.equations import Affine, Ranged
from kqo.ir.interpret import interpret
from kqo.ir.nodes import Const, Domain, Group, Join, Map, Node, Overlay, Scan
from kqo.ir.plan import Plan
from kqo.ir.region import Changed
from kqo.ir.scalar import V, call
from kqo.ir.schema import axes_of
from kqo.ir.verify import verify
from kqo.lang.ruleset import load_rules
from kqo.planner.choose import Chooser
from kqo.planner.rates import REFERENCE
from kqo.prove.run import boxes_of
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from kqo.runtime.engine import Engine

RNG = np.random.default_rng(0)
OLD = Scan("image", axes_of(c=2, y=5, x=6))
X = RNG.normal(size=(2, 5, 6))
AT = Changed("image")
NEW = Overlay(OLD, Const("fill", ()), AT)
BRIGHT = Overlay(OLD, Const("bright", ()), AT)
CONSTANTS = {
    "fill": np.array(0.0),
    "bright": np.array(2.0),
    "w": RNG.normal(size=(3, 2, 3, 3)),
}
REGIONS = [[((0, 2), (1, 3), (1, 4))], [], [((0, 1), (0, 2), (2, 6)), ((0, 2), (4, 5), (0, 1))]]


def conv(source: Node) -> Node:
    on = (
        Affine("c", ((1, "i"),), 0, 1),
        Affine("y", ((1, "y"), (1, "ky")), -1, 1),
        Affine("x", ((1, "x"), (1, "kx")), -1, 1),
    )
    kernel = Const("w", axes_of(d=3, i=2, ky=3, kx=3))
    return Group(Join(source, kernel, on, axes_of(y=5, x=6), "mul"), ("d", "y", "x"), "sum")


def sub(left: Node, right: Node) -> Node:
    return Join(left, right, (), (), "sub")


def answers(without: tuple[str, ...], roots: Mapping[str, Node]) -> None:
    plan = Plan("odd", tuple(roots.items()), dtype="float64")
    plan = plan.with_roots(plan.roots, CONSTANTS)
    verify(plan)
    rules = load_rules().without(*without) if without else load_rules()
    normal, _ = normalize(plan, rules)
    memo = explore(normal, rules)
    changed = {"image": boxes_of(OLD.axes, REGIONS)}
    chosen = Chooser(normal, memo, changed, REFERENCE).choose()
    found = Engine(chosen, emit(chosen), changed, threads=1).run({"image": X})
    wanted = interpret(plan, {"image": X}, {"image": REGIONS})
    for name in roots:
        np.testing.assert_allclose(
            found[name][:-1], np.broadcast_to(wanted[name], found[name][:-1].shape), atol=1e-12
        )


def wide(source: Node) -> Node:
    """All windows of two positions, side by side."""
    on = (Affine("x", ((2, "x"), (1, "k")), 0, 1),)
    return Join(source, Domain(axes_of(k=2)), on, axes_of(x=3), "left")


def ranged(source: Node) -> Node:
    on = (Ranged("x", "x", "k", (0, 2, 4), (2, 4, 6)),)
    return Join(source, Domain(axes_of(k=2)), on, axes_of(x=3), "left")


ODD = {
    "a change": {"out": sub(NEW, OLD)},
    "a change the other way round": {"out": sub(OLD, NEW)},
    "the change of a convolution": {
        "out": Map(sub(conv(NEW), conv(OLD)), call("max", V, 0.0)),
        "old": conv(OLD),
        "image": OLD,
    },
    "an old value times a new sum": {
        "out": Join(OLD, Group(NEW, ("c", "y"), "sum"), (), (), "mul")
    },
    "two fills": {"out": sub(conv(NEW), conv(BRIGHT)), "raw": sub(NEW, BRIGHT)},
    "two fills and none": {"out": sub(sub(conv(BRIGHT), conv(OLD)), conv(NEW))},
    "windows that are kept": {"out": wide(NEW), "most": Group(wide(NEW), ("c", "y"), "max")},
    "windows of a table": {"out": ranged(NEW), "old": ranged(OLD)},
    "a map of windows": {"out": Group(Map(wide(NEW), call("exp", V)), ("c", "k"), "sum")},
    "a map of windows of a table": {
        "out": Group(Map(ranged(NEW), call("exp", V)), ("c", "y", "x"), "mean")
    },
}


@pytest.mark.parametrize(
    "without", [(), ("delta",), ("physical",), ("batch",), ("delta", "physical")]
)
@pytest.mark.parametrize("name", ODD)
def test_odd_plans_answer_right(name: str, without: tuple[str, ...]) -> None:
    answers(without, ODD[name])


@pytest.mark.parametrize("tables", [False, True])
def test_a_join_that_misses_keys_is_refused_where_it_is_stored(tables: bool) -> None:
    """Rows have no room for keys that are not there, and a map would take them for zeros."""
    on = Ranged("x", "x", "k", (0, 2, 4), (2, 3, 6)) if tables else Affine("x", ((1, "x"),), -1, 1)
    taps, axes = (axes_of(k=2), axes_of(x=3)) if tables else ((), axes_of(x=8))
    padded = Join(NEW, Domain(taps), (on,), axes, "left")
    answers((), {"out": Group(padded, ("c", "y", "x"), "sum")})
    with pytest.raises(PlanError, match=r"no physical form for Join.*may find no partner"):
        answers((), {"out": Group(Map(padded, call("exp", V)), ("c", "y", "x"), "sum")})

"""Scalar functions in C, compiled with the shim, against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from kqo.emit.cuda_expr import c_expr
from kqo.ir.interpret import interpret
from kqo.ir.nodes import Map
from kqo.ir.plan import Plan
from kqo.ir.scalar import FUNCTIONS, Expr, V, call
from kqo.lang.ruleset import load_rules
from kqo.planner.choose import Chooser
from kqo.planner.rates import REFERENCE
from kqo.prove.run import boxes_of
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from kqo.runtime.cuda.engine import CudaEngine
from tests.cuda.host import HostDevice, has_compiler
from tests.unit.test_old_and_new import CONSTANTS, NEW, OLD, REGIONS, X

ANGLES: dict[str, Expr] = {
    "arc": call("atan", V),
    "rest": call("fmod", V, 0.75),
    "rest of a number": call("fmod", 2.5, call("add", V, 0.3)),
}


@pytest.mark.skipif(not has_compiler(), reason="needs g++")
def test_arcs_and_remainders_are_those_of_the_interpreter(tmp_path) -> None:
    image = X.astype(np.float32)
    roots = tuple((name, Map(NEW, fn)) for name, fn in ANGLES.items())
    constants = {key: value.astype(np.float32) for key, value in CONSTANTS.items()}
    plan = Plan("angles", roots).with_roots(roots, constants)
    normal, _ = normalize(plan, load_rules())
    memo = explore(normal, load_rules())
    changed = {"image": boxes_of(OLD.axes, REGIONS)}
    chosen = Chooser(normal, memo, changed, REFERENCE).choose()
    found = CudaEngine(chosen, changed, device=HostDevice(tmp_path)).run({"image": image})
    wanted = interpret(plan, {"image": image.astype(float)}, {"image": REGIONS})
    for name in ANGLES:
        want = np.broadcast_to(wanted[name], found[name][:-1].shape).astype(float)
        np.testing.assert_allclose(found[name][:-1], want, rtol=1e-5, atol=1e-5)


def test_every_function_has_a_form_in_c() -> None:
    for name, function in FUNCTIONS.items():
        arguments = (call("neg", V), V, V)[: function.arity]
        assert c_expr(call(name, *arguments), {"v": "x"}).count("x") >= function.arity

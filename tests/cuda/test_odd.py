"""Plans that few models lead to, emitted as CUDA and run under the shim."""

from __future__ import annotations

import numpy as np
import pytest

from kqo.ir.interpret import interpret
from kqo.ir.plan import Plan
from kqo.lang.ruleset import load_rules
from kqo.planner.choose import Chooser
from kqo.planner.rates import REFERENCE
from kqo.prove.run import boxes_of
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize
from kqo.runtime.cuda.engine import CudaEngine
from tests.cuda.host import HostDevice, has_compiler
from tests.unit.test_old_and_new import CONSTANTS, ODD, OLD, REGIONS, X

pytestmark = pytest.mark.skipif(not has_compiler(), reason="needs g++")


QUICK = ("the change of a convolution", "two fills", "windows that are kept", "windows of a table")


@pytest.mark.parametrize("name", QUICK)
def test_odd_plans_answer_right(name: str, tmp_path) -> None:
    roots, image = ODD[name], X.astype(np.float32)
    constants = {key: value.astype(np.float32) for key, value in CONSTANTS.items()}
    plan = Plan("odd", tuple(roots.items())).with_roots(tuple(roots.items()), constants)
    normal, _ = normalize(plan, load_rules())
    memo = explore(normal, load_rules())
    changed = {"image": boxes_of(OLD.axes, REGIONS)}
    chosen = Chooser(normal, memo, changed, REFERENCE).choose()
    found = CudaEngine(chosen, changed, device=HostDevice(tmp_path)).run({"image": image})
    wanted = interpret(plan, {"image": X}, {"image": REGIONS})
    for key in roots:
        want = np.broadcast_to(wanted[key], found[key][:-1].shape).astype(float)
        np.testing.assert_allclose(found[key][:-1], want, atol=1e-4)

"""On a GPU: random networks under random workloads, options, rules and forms equal PyTorch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kqo.runtime.cuda.device import gpu_available
from tests.cuda.test_whole import on_gpu
from tests.property.test_networks import PHASES, QUIET, _check_case, cases

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_available(), reason="needs CuPy and a GPU"),
]
NETWORKS, QUESTIONS = 40, 5


@settings(max_examples=NETWORKS, suppress_health_check=QUIET, deadline=None, phases=PHASES)
@given(data=st.data())
def test_random_networks_answer_as_pytorch_does(data):
    """Those that a GPU cannot run, since torch runs a part of them, are answered by NumPy."""
    _check_case(on_gpu(data.draw(cases(False, QUESTIONS))))

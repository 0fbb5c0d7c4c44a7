"""Random networks under random workloads, options, rules and forms: every answer is PyTorch's.

One export serves several questions; each question is an example. Float64 models are compared within
1e-9 of the largest output. Float32 models are compared with the same model in float64, within 1e-5
of the largest output beyond what PyTorch's own float32 is off by.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import kqo
from kqo.api import CompiledPlan
from kqo.frontend.lower import Lowered, lower
from kqo.ir.text import format_plan, parse_plan
from kqo.ir.verify import verify
from kqo.lang.ruleset import rules_for
from kqo.planner.rounding import rounding_of
from kqo.rewrite.normalize import normalize
from tests.property.asked import Question, asked_again, occluded, questions, random_costs
from tests.property.layers import Draw
from tests.property.networks import Network, networks

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

NETWORKS, QUESTIONS = 20, 5
SLOW_NETWORKS, SLOW_QUESTIONS, SHARDS = 125, 10, 2
# Every step of a search for a smaller network is an export, which takes seconds.
PHASES = (Phase.explicit, Phase.generate)
QUIET = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
    HealthCheck.filter_too_much,
]


@dataclass(frozen=True)
class Case:
    network: Network
    questions: list[Question] = field(default_factory=list)


@st.composite
def cases(draw: Draw, double: bool, count: int) -> Case:
    network = draw(networks(double))
    return Case(network, [draw(questions(network)) for _ in range(count)])


def _check_case(case: Case) -> None:
    network = case.network
    images = network.images(0)
    lowered = lower(network.model, tuple(x[None] for x in images), "network")
    for number, question in enumerate(case.questions):
        with random_costs(question.costs):
            _check_question(network, lowered, question, stored=number == 0)


def _check_question(network: Network, lowered: Lowered, question: Question, stored: bool) -> None:
    options = kqo.Options(**question.options)
    normalized, trace = normalize(lowered.plan, rules_for(options))
    verify(normalized)
    verify(question.workload.apply(normalized))
    text = format_plan(normalized)
    assert parse_plan(text, normalized.constants).roots == normalized.roots
    fired = [a.rule for a in trace.applications]
    plan = CompiledPlan(normalized, question.workload, options, normalized_by=fired)
    if question.least:
        options = replace(options, memory=plan.engine.least_bytes)
        plan = CompiledPlan(normalized, question.workload, options, normalized_by=fired)
    inputs = occluded(network, question)
    images = network.images(question.seed)
    found = _answers(plan, images)
    _compare(network, plan, found, inputs)
    if stored:
        with TemporaryDirectory() as folder:
            plan.save(Path(folder, "plan.kqo"))
            loaded = kqo.load(Path(folder, "plan.kqo"))
            again = _answers(loaded, images)
        # Where threads are cut down to those of this machine, so are batches, and products of other
        # numbers of rows are rounded otherwise.
        if question.costs is None and loaded.options == options:
            for mine, theirs in zip(found, again, strict=True):
                np.testing.assert_array_equal(mine, theirs)
        else:
            _compare(network, loaded, again, inputs)


def _answers(plan: CompiledPlan, images: tuple) -> list[np.ndarray]:
    result = plan.run(*images)
    return [
        np.concatenate([result.outputs[name], result.originals[name][None]])
        for name in result.outputs
    ]


def _compare(network: Network, plan: CompiledPlan, found: list[np.ndarray], inputs: list) -> None:
    if network.double:
        exact = asked_again(network.model, inputs)
        slack = [1e-9 * np.abs(x).max() for x in exact]
    else:
        double = copy.deepcopy(network.model).double()
        exact = asked_again(double, [x.double() for x in inputs])
        own = asked_again(network.model, inputs)
        rounding = rounding_of(plan.physical)
        slack = [
            # Where layers cancel, as a norm of one value does, all that is left is rounding; what
            # fast forms lose is expected in the mean, and seldom three times as much at the most.
            max(1e-5, 3 * rounding) * np.abs(x).max() + 4 * np.abs(x - y).max() + 2e-6
            for x, y in zip(exact, own, strict=True)
        ]
    assert len(found) == len(exact)
    for got, wanted, most in zip(found, exact, slack, strict=True):
        assert got.dtype == (np.float64 if network.double else np.float32)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=0, atol=most or 1e-12)


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
@settings(max_examples=NETWORKS, suppress_health_check=QUIET, deadline=None, phases=PHASES)
@given(data=st.data())
def test_random_networks_answer_as_pytorch_does(double, data):
    _check_case(data.draw(cases(double, QUESTIONS)))


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
@settings(max_examples=SLOW_NETWORKS, suppress_health_check=QUIET, deadline=None, phases=PHASES)
@given(data=st.data())
def test_many_random_networks_answer_as_pytorch_does(double, shard, data):
    _check_case(data.draw(cases(double, SLOW_QUESTIONS)))

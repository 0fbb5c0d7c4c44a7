"""Property tests of NumPy's engine, asked of a GPU: the same questions with target auto."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings

import kqo.captum.cache
from kqo.options import Options
from tests.property import test_captum, test_not_finite
from tests.property.test_networks import PHASES, QUIET, Case, _check_case, cases


def on_gpu(case: Case) -> Case:
    """The same questions with target auto."""
    asked = [replace(q, options={**q.options, "target": "auto"}) for q in case.questions]
    return Case(case.network, asked)


def check_networks(examples: int, questions: int) -> None:
    """Random networks under random workloads, options, rules and forms equal PyTorch. Those that a
    GPU cannot run, since torch runs a part of them, are answered by NumPy."""

    @settings(max_examples=examples, suppress_health_check=QUIET, deadline=None, phases=PHASES)
    @given(case=cases(False, questions))
    def check(case):
        _check_case(on_gpu(case))

    check()


def check_not_finite(examples: int) -> None:
    """NaN and infinity are where PyTorch has them."""

    @settings(max_examples=examples, suppress_health_check=QUIET, deadline=None, phases=PHASES)
    @given(case=test_not_finite.cases(False))
    def check(case):
        asked = [
            (replace(question, options={**question.options, "target": "auto"}), *rest)
            for question, *rest in case.asked
        ]
        test_not_finite._check(replace(case, asked=asked))

    check()


def check_captum(examples: int) -> None:
    """Attributions are Captum's."""
    check = given(test_captum.questions())(
        test_captum.test_attributions_are_captums.hypothesis.inner_test
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kqo.captum.cache, "Options", partial(Options, target="auto"))
        settings(max_examples=examples, suppress_health_check=QUIET, deadline=None)(check)()

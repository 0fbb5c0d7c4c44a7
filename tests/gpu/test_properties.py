"""On a GPU: what the property tests ask of NumPy, asked of the device."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from kqo.runtime.cuda.device import CupyDevice, gpu_available
from tests.cuda.asked import check_captum, check_networks, check_not_finite
from tests.cuda.chosen import check_rows, check_rule
from tests.cuda.test_rules import RULES, SELDOM
from tests.property.plans import cases
from tests.property.test_networks import QUIET

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_available(), reason="needs CuPy and a GPU"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:invalid value encountered"),
]
NETWORKS, QUESTIONS, EXAMPLES = 40, 5, 8


def test_random_networks_answer_as_pytorch_does():
    check_networks(NETWORKS, QUESTIONS)


def test_nan_and_infinity_are_where_pytorch_has_them():
    check_not_finite(NETWORKS)


def test_attributions_are_captums():
    check_captum(NETWORKS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_what_a_rule_offers_is_computed_as_it_is_meant(rule):
    ran = check_rule(rule, CupyDevice, examples=EXAMPLES, seed=1)
    assert ran >= EXAMPLES // 2 or rule.name in SELDOM


@settings(max_examples=150, suppress_health_check=QUIET, deadline=None)
@given(case=cases(most_steps=7))
def test_delta_rows_are_the_keys_of_their_regions(case):
    check_rows(case, CupyDevice())

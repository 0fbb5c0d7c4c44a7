"""Whatever plan the rules make, its CUDA gives the interpreter's answers, on the host device."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from kqo.lang.ruleset import load_rules
from tests.cuda.chosen import check_rows, check_rule
from tests.cuda.host import HostDevice, has_compiler
from tests.property.plans import cases
from tests.property.test_networks import QUIET

pytestmark = pytest.mark.skipif(not has_compiler(), reason="needs g++")
RULES = [rule for rule in load_rules() if rule.parameter is None]
QUICK = ("GatherProduct", "TapByTap", "AddDeltaTapByTap", "AddDeltaToSumOfProducts")
SELDOM = (
    "WinogradProduct",
    "WinogradProductBy2",
    "WinogradProductBy6",
    "MaterializeInvariantParts",
    "HoistOverlayThroughRight",
)
"""They hardly ever fire in random plans as a whole; those of models in test_host.py have them."""


def marked(rule):
    """Most rules are tried among the slow tests."""
    quick = rule.name in QUICK
    marks = () if quick else pytest.mark.slow
    return pytest.param(rule, 2 if quick else 1, id=rule.name, marks=marks)


@pytest.mark.parametrize(("rule", "examples"), [marked(rule) for rule in RULES])
def test_what_a_rule_offers_is_computed_as_it_is_meant(rule, examples, tmp_path) -> None:
    ran = check_rule(rule, lambda: HostDevice(tmp_path), examples=examples, seed=0)
    assert ran == examples or rule.name in SELDOM


class Binders(HostDevice):
    """Compiles none of a plan's kernels, but those that number rows, once."""

    known: dict[str, object] = {}  # noqa: RUF012

    def load(self, kernels):
        own = {name: kernels[name] for name in ("next_batch", "bind_rows", "check_views")}
        if not self.known:
            self.known.update(super().load(own))
        return self.known


@pytest.fixture(scope="module")
def binders(tmp_path_factory):
    return Binders(tmp_path_factory.mktemp("binders"))


def test_delta_rows_are_the_keys_of_their_regions(binders) -> None:
    seen = []

    @settings(max_examples=60, suppress_health_check=QUIET, deadline=None)
    @given(case=cases(most_steps=7))
    def check(case):
        seen.append(check_rows(case, binders))

    check()
    assert sum(count > 0 for count in seen) > 20

"""Every rule fires on random plans, and what it matched equals what it put in its place: over exact
rationals, in DuckDB, by torch, and in the answers of the source that runs.

The plans follow from the seed; KQO_EXAMPLES=1000 KQO_SEED=7 pytest -m slow tries other and more.
"""

from __future__ import annotations

import os

import pytest

from kqo.lang.compile import CompiledRule
from kqo.lang.ruleset import load_rules
from kqo.prove.compare import CHECKS
from kqo.prove.prover import prove
from kqo.prove.report import format_counterexample
from kqo.prove.run import RUN

EXAMPLES = 8
SLOW_EXAMPLES = int(os.environ.get("KQO_EXAMPLES", "60"))
SLOW_SEED = int(os.environ.get("KQO_SEED", "1"))


def check(rule: CompiledRule, examples: int, seed: int) -> None:
    outcome = prove(rule, load_rules().without(rule.name), examples=examples, seed=seed)
    assert outcome.counterexample is None, format_counterexample(outcome)
    assert outcome.fired == examples, f"fired on {outcome.fired} of {outcome.tried} plans"
    for name in CHECKS:
        assert outcome.tally.compared.get(name, 0) >= examples // 2, name
    if rule.family == "physical":  # only a run tells whether the implementation does what it says
        assert outcome.tally.compared.get(RUN, 0) >= examples // 4


@pytest.mark.parametrize("rule", load_rules().rules, ids=lambda rule: rule.name)
def test_a_rule_fires_and_holds(rule: CompiledRule) -> None:
    check(rule, EXAMPLES, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("rule", load_rules().rules, ids=lambda rule: rule.name)
def test_a_rule_holds_on_many_plans(rule: CompiledRule) -> None:
    check(rule, SLOW_EXAMPLES, seed=SLOW_SEED)

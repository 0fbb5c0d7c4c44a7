"""Holding rules against random instances, and making a counterexample small.

What is said here of a rule is that no instance contradicted it. A rule that never fired is not
proven, whatever else holds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kqo.errors import KqoError
from kqo.ir.nodes import walk
from kqo.ir.plan import Plan
from kqo.ir.schema import size
from kqo.lang.compile import CompiledRule
from kqo.lang.ruleset import RuleSet
from kqo.prove.choices import Choices, Recorded, shrink
from kqo.prove.compare import CHECKS, Difference, Tally, compare
from kqo.prove.directed import directed
from kqo.prove.instances import pairs
from kqo.prove.plans import Instance, random_case
from kqo.prove.run import RUN, run_emitted

EXAMPLES = 100
MORE = 60
"""Plans that are tried once a rule failed, for a smaller counterexample to start from."""
TRIES = 100
"""Plans that are tried for each instance that is asked for, before a rule is given up."""


@dataclass(frozen=True, eq=False)
class Counterexample:
    """An instance on which a rule does not hold.

    Attributes:
        plan: ``before`` and ``after`` as outputs; the whole plan where a run of it went wrong.
        instance: values and boxes.
        difference: the tuple that differs; None where the replacement could not be evaluated.
        message: what is wrong, where no tuple is to be shown.
    """

    plan: Plan
    instance: Instance
    difference: Difference | None
    message: str = ""

    @property
    def kind(self) -> str:
        """What found it."""
        return self.difference.check if self.difference is not None else "error"


@dataclass
class Outcome:
    """What became of one rule.

    Attributes:
        rule: the rule.
        tried: plans it was tried on.
        fired: of those, plans it fired on.
        tally: how often each evaluation compared, and why it could not.
        counterexample: the smallest that was found; None where the rule holds.
        beside: names of other rules of the same files that it needed to fire at all.
    """

    rule: CompiledRule
    tried: int = 0
    fired: int = 0
    tally: Tally = field(default_factory=Tally)
    counterexample: Counterexample | None = None
    beside: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it fired, and nothing contradicted it."""
        return self.counterexample is None and self.fired > 0


def prove(
    rule: CompiledRule, others: RuleSet, *, examples: int = EXAMPLES, seed: int = 0
) -> Outcome:
    """Hold a rule against random instances.

    Args:
        rule: the rule. An approximate one is held at the neutral value of its parameter.
        others: rules that it lives beside: those of the package.
        examples: plans on which it has to fire and hold.
        seed: of the random plans; the same seed gives the same plans.

    Raises:
        KqoError: DuckDB is not installed.
    """
    outcome = Outcome(rule)
    while outcome.fired < examples and outcome.tried < TRIES * examples:
        choices = Recorded(random.Random(f"{seed} {rule.name} {outcome.tried}"))
        instance = _generate(choices, rule)
        outcome.tried += 1
        if instance is None:
            continue
        fired, found = _check(rule, instance, others, outcome.tally)
        outcome.fired += fired
        if found is not None:
            smallest = _smallest(rule, others, [(choices.made, found), *_more(rule, others, seed)])
            outcome.counterexample = smallest
            break
    return outcome


def prove_all(
    rules: Sequence[CompiledRule], package: RuleSet, *, examples: int = EXAMPLES, seed: int = 0
) -> Iterator[Outcome]:
    """Hold every rule of some files against random instances, one after the other.

    Each is tried beside the package's rules, less one of its own name, and without the others of
    the files, so that it answers for itself. Those that never fired so come last: they are tried
    once more beside the rules of the files that hold.
    """
    good: list[CompiledRule] = []
    quiet: list[Outcome] = []
    for rule in rules:
        others = RuleSet(tuple(other for other in package if other.name != rule.name))
        outcome = prove(rule, others, examples=examples, seed=seed)
        if outcome.holds:
            good.append(rule)
        if outcome.fired or outcome.counterexample is not None:
            yield outcome
        else:
            quiet.append(outcome)
    for outcome in quiet:
        names = {outcome.rule.name, *(rule.name for rule in good)}
        others = RuleSet(tuple(other for other in package if other.name not in names))
        if good:
            beside = RuleSet((*others, *good))
            again = prove(outcome.rule, beside, examples=examples, seed=seed)
            again.tried += outcome.tried
            again.beside = tuple(rule.name for rule in good)
            outcome = again  # noqa: PLW2901
        yield outcome


def _generate(choices: Choices, rule: CompiledRule) -> Instance | None:
    """A plan after the rule's pattern; now and then one that knows nothing of it."""
    if choices.integer(0, 7) == 7:
        return random_case(choices, deltas=choices.boolean(), most_queries=2)
    return directed(choices, rule.rule)


def _check(
    rule: CompiledRule,
    instance: Instance,
    others: RuleSet,
    tally: Tally,
    checks: tuple[str, ...] = (*CHECKS, RUN),
) -> tuple[bool, Counterexample | None]:
    """Whether the rule fires in a plan, and what contradicts it there."""
    fired = False
    plan = instance.plan
    try:
        for pair in pairs(rule, instance, others):
            fired, plan = True, pair.plan
            difference = compare(pair, tally, checks)
            if difference is not None:
                return True, Counterexample(plan, pair.instance, difference)
        if fired and rule.parameter is None and RUN in checks:
            plan = instance.plan
            ran, difference = run_emitted(rule, instance, others)
            if ran:
                tally.count(RUN)
            if difference is not None:
                return True, Counterexample(plan, instance, difference)
    except KqoError as error:
        return True, Counterexample(plan, instance, None, str(error))
    return fired, None


def _more(
    rule: CompiledRule, others: RuleSet, seed: int
) -> Iterator[tuple[list[int], Counterexample]]:
    """Further counterexamples among a few plans: the smallest is where shrinking starts."""
    for number in range(MORE):
        choices = Recorded(random.Random(f"{seed} {rule.name} more {number}"))
        instance = _generate(choices, rule)
        if instance is not None:
            _, found = _check(rule, instance, others, Tally())
            if found is not None:
                yield choices.made, found


def _measure(found: Counterexample) -> tuple[int, ...]:
    """The number of nodes of a counterexample, then that of its keys."""
    nodes = list(walk(*(node for _, node in found.plan.roots)))
    return len(nodes), sum(size(node.schema) for node in nodes)


def _smallest(
    rule: CompiledRule, others: RuleSet, known: Sequence[tuple[Sequence[int], Counterexample]]
) -> Counterexample:
    """The counterexample with the fewest nodes, then the smallest extents, that a search finds
    from the smallest of those that are of the kind of the first."""
    kind = known[0][1].kind
    alike = [(made, found) for made, found in known if found.kind == kind]
    made, first = min(alike, key=lambda pair: _measure(pair[1]))
    checks = (kind,) if first.difference is not None else (*CHECKS, RUN)
    best: dict[tuple[int, ...], Counterexample] = {tuple(made): first}

    def measure(choices: Sequence[int]) -> tuple[int, ...] | None:
        instance = _generate(Recorded(choices), rule)
        if instance is None:
            return None
        _, again = _check(rule, instance, others, Tally(), checks)
        if again is None or again.kind != kind:
            return None
        best[tuple(choices)] = again
        return _measure(again)

    return best[shrink(made, measure)]

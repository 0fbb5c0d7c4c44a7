"""Where a rule fires in a plan: what it matched and what it put in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kqo.ir.nodes import Const, Node, walk
from kqo.ir.plan import Array, Plan
from kqo.lang.compile import CompiledRule
from kqo.lang.context import Context
from kqo.lang.ruleset import RuleSet
from kqo.prove.plans import Instance
from kqo.rewrite.memo import Memo, explore
from kqo.rewrite.normalize import normalize

MOST_PAIRS = 4
"""Per plan: the next plan says more than the fifth match in this one."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One application of a rule, as a plan of two outputs, ``before`` and ``after``.

    Attributes:
        plan: with the values of constants that the rule folded.
        unfolded: the same with what such constants were folded from, so that folding rounds nothing
            away; None where the rule folded none.
        instance: the values and boxes to run it on.
    """

    plan: Plan
    unfolded: Plan | None
    instance: Instance

    @property
    def before(self) -> Node:
        """What the rule matched."""
        return self.plan.roots[0][1]

    @property
    def after(self) -> Node:
        """What it put in its place."""
        return self.plan.roots[1][1]


def pairs(rule: CompiledRule, instance: Instance, others: RuleSet) -> Iterator[Pair]:
    """Where the rule fires in a plan.

    It is tried on every node of the plan as it is and in normal form. A rule that adds alternatives
    is tried in a memo as well, beside the other rules, since it may read what they add; a prune
    rule, which is tried at the neutral value of its parameter, on every alternative of the memo.

    Raises:
        RuleError: the rule's replacement is malformed, or has other axes than what it matched.
    """
    seen: set[tuple[Node, Node]] = set()
    for pair in _found(rule, instance, others):
        key = (pair.before, pair.after)
        if key not in seen:
            seen.add(key)
            yield pair
            if len(seen) == MOST_PAIRS:
                return


def _found(rule: CompiledRule, instance: Instance, others: RuleSet) -> Iterator[Pair]:
    fired = False
    for plan in (instance.plan, normalize(instance.plan, others)[0]):
        for pair in _direct(rule, plan, plan.nodes(), instance):
            fired = True
            yield pair
    if fired or rule.family == "normalize":
        return
    if rule.parameter is None:
        memo = explore(plan, RuleSet((*others, rule)))
        for applied in memo.trace:
            if applied.rule == rule.name:
                known = {**plan.constants, **memo.constants}
                yield _pair(plan, applied.before, applied.after, known, {}, instance)
    else:
        memo = explore(plan, others)
        yield from _direct(rule, plan, _alternatives(memo), instance)


def _alternatives(memo: Memo) -> Iterator[Node]:
    for home in memo.groups():
        yield from memo.alternatives(home)


def _direct(
    rule: CompiledRule, plan: Plan, nodes: Iterator[Node], instance: Instance
) -> Iterator[Pair]:
    """Applications to nodes of the plan, without any other rule."""
    readers = plan.readers()
    for node in nodes:
        if node.op not in rule.roots:
            continue
        context = Context(lambda n: readers.get(n, 1), known=plan.constants)
        for made in rule.apply(node, context):
            folded = set(context.folded)
            values = context.values(folded, plan.constants, "float64")
            known = {**plan.constants, **values}
            yield _pair(plan, node, made, known, context.folded, instance)


def _pair(
    plan: Plan,
    before: Node,
    after: Node,
    constants: dict[str, Array],
    folded: dict[str, Node],
    instance: Instance,
) -> Pair:
    bare = replace(plan, roots=(), constants={}, origins={}, dtype="float64")
    made = bare.with_roots((("before", before), ("after", after)), constants)
    unfolded = None
    if folded:
        whole = _unfold(after, folded)
        unfolded = bare.with_roots((("before", before), ("after", whole)), constants)
    return Pair(made, unfolded, instance)


def _unfold(node: Node, folded: dict[str, Node]) -> Node:
    """The node with every folded constant replaced by what it was folded from."""
    made: dict[Node, Node] = {}
    for each in walk(node):
        if isinstance(each, Const) and each.name in folded:
            made[each] = _unfold(folded[each.name], folded)
        else:
            made[each] = each.with_inputs(tuple(made[source] for source in each.inputs))
    return made[node]

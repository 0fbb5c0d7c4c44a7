"""Rewriting to a fixpoint: rules that replace what they match.

A pass visits every node once, inputs first, and rewrites each until no rule matches; passes are
repeated until one changes nothing. One pass does nearly everything. What is left for the next are
rules that ask for a single reader by ``single_use``: within a pass it counts readers too high
rather than too low, since nodes that fell out of use still count. So such a rule comes behind those
of nodes above its match. A rule that need not wait asks ``read_once``, which leaves these out.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable

from kqo.errors import RuleError
from kqo.ir.folded import Constants
from kqo.ir.nodes import Const, Node, walk
from kqo.ir.plan import Origin, Plan
from kqo.lang.compile import CompiledRule
from kqo.lang.context import Context
from kqo.lang.index import RuleIndex
from kqo.lang.ruleset import RuleSet
from kqo.rewrite.trace import Trace

CHECK_VARIABLE = "KQO_CHECK"
_CONSUMED_DEPTH = 4


def normalize(
    plan: Plan, rules: RuleSet, *, budget: int | None = None, check: bool | None = None
) -> tuple[Plan, Trace]:
    """Rewrite a plan by the rules of the family ``normalize`` until none matches.

    Args:
        plan: any plan. Constants may lack values; what is folded from them then lacks values, too.
        rules: rules of other families are left aside.
        budget: the most applications; the default grows with the plan.
        check: verify each replacement; the default is whether the environment sets ``KQO_CHECK``.

    Returns:
        The plan, with origins carried over, and the trace of what was applied.

    Raises:
        RuleError: rules that undo each other or grow the plan without end, named in the message; or
            a rule whose replacement has other axes than what it matched.
        PlanError: with ``check``, a replacement that is malformed.
    """
    if check is None:
        check = os.environ.get(CHECK_VARIABLE, "") not in ("", "0")
    engine = _Engine(plan, rules.family("normalize"), budget, check)
    roots = tuple(node for _, node in plan.roots)
    while True:
        before = len(engine.trace)
        roots = engine.run(roots)
        if len(engine.trace) == before:
            break
    return _finish(plan, roots, engine), engine.trace


def _finish(plan: Plan, roots: tuple[Node, ...], engine: _Engine) -> Plan:
    nodes = list(walk(*roots))
    used = {node.name for node in nodes if isinstance(node, Const)}
    folded = engine.context.releasable(used, plan.constants, plan.dtype)
    constants = Constants(plan.constants, folded, names=used)
    origins = {node: engine.origins[node] for node in nodes if node in engine.origins}
    named = tuple((name, root) for (name, _), root in zip(plan.roots, roots, strict=True))
    return Plan(plan.name, named, constants, origins, plan.dtype, plan.inputs)


class _Engine:
    """What lasts over the passes: trace, origins, constants, nodes that need no second look."""

    def __init__(self, plan: Plan, rules: RuleSet, budget: int | None, check: bool) -> None:
        self.trace = Trace()
        self.origins: dict[Node, Origin] = dict(plan.origins)
        self.context = Context(self._readers, live=self._live, known=plan.constants)
        self._check = check
        self._plan = plan
        self._rules = RuleIndex(rules)
        size = sum(1 for _ in plan.nodes())
        self._budget = budget if budget is not None else 1000 + 50 * size
        self._settled: set[Node] = set()
        self._begin(())

    def _begin(self, roots: Iterable[Node]) -> None:
        """Count readers afresh, and forget the normal forms of the last pass."""
        self._uses: defaultdict[Node, int] = defaultdict(int, Counter(roots))
        self._counted: set[Node] = set()
        for node in walk(*self._uses):
            self._counted.add(node)
            for source in node.inputs:
                self._uses[source] += 1
        self._gone: defaultdict[Node, int] = defaultdict(int)
        self._dead: set[Node] = set()
        self._done: dict[Node, Node] = {}
        self._links: dict[Node, Node] = {}
        self._fired: dict[Node, str] = {}

    def run(self, roots: tuple[Node, ...]) -> tuple[Node, ...]:
        """One pass; gives the rewritten roots."""
        self._begin(roots)
        for root in roots:
            self._normal_form(root)
        return tuple(self._done[root] for root in roots)

    def _normal_form(self, goal: Node) -> None:
        """Fill in the normal form of the goal and all below it; iterative, since plans are deep."""
        stack, done, links = [goal], self._done, self._links
        active: dict[Node, None] = {}
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            active[node] = None
            link = links.get(node)
            if link is not None:
                if link in done:
                    done[node] = done[link]
                    del active[node]
                    stack.pop()
                else:
                    self._no_cycle(link, active)
                    stack.append(link)
                continue
            waiting = [source for source in node.inputs if source not in done]
            if waiting:
                for source in waiting:
                    self._no_cycle(source, active)
                stack.extend(reversed(waiting))
                continue
            self._step(node)
            if node in done:
                del active[node]

    def _no_cycle(self, node: Node, active: dict[Node, None]) -> None:
        if node not in active:
            return
        path = list(active)
        names = {self._fired[n] for n in path[path.index(node) :] if n in self._fired}
        raise RuleError(
            f"rules rewrite in a circle: {', '.join(sorted(names))}",
            hint="one undoes what another does, or puts what it matched into its replacement",
        )

    def _step(self, node: Node) -> None:
        """Give a node whose inputs are in normal form its successor, or note that it is done."""
        inputs = tuple(self._done[source] for source in node.inputs)
        if inputs != node.inputs:
            made = node.with_inputs(inputs)
            self._counted.add(made)
            self._dead.discard(made)
            if node in self.origins:
                self.origins.setdefault(made, self.origins[node])
            self._link(node, made)
            return
        replacement = None if node in self._settled else self._replace(node)
        if replacement is None:
            self._done[node] = node
        else:
            self._link(node, replacement)
            for source in node.inputs:
                self._release(source)

    def _link(self, node: Node, to: Node) -> None:
        self._links[node] = to
        uses, gone = self._uses[node], self._gone[node]
        target: Node | None = to
        while target is not None and target is not node:
            self._uses[target] += uses
            self._gone[target] += gone
            target = self._links.get(target)

    def _replace(self, node: Node) -> Node | None:
        """The first replacement that a rule has, in the order of rule names."""
        self.context.consulted = False
        for rule in self._rules.at(node):
            for made in rule.apply(node, self.context):
                self._note(rule, node, made)
                return made
        if not self.context.consulted:
            self._settled.add(node)
        return None

    def _note(self, rule: CompiledRule, node: Node, made: Node) -> None:
        self.trace.add(rule.name, rule.family, node, made)
        self._fired[node] = rule.name
        if len(self.trace) > self._budget:
            last = Counter(item.rule for item in self.trace.applications[-200:])
            names = ", ".join(name for name, _ in last.most_common(3))
            raise RuleError(
                f"no normal form after {self._budget} applications; last fired: {names}",
                hint="a rule matches its own replacement, or the budget is too small",
            )
        new = self._count(made)
        self._inherit(node, new)
        if self._check:
            from kqo.ir.verify import verify

            verify([made])

    def _count(self, made: Node) -> list[Node]:
        """Count what the new nodes of a replacement read; gives the new nodes, readers first."""
        new: list[Node] = []
        stack = [made]
        while stack:
            node = stack.pop()
            if node in self._counted:
                self._revive(node)
                continue
            self._counted.add(node)
            new.append(node)
            for source in node.inputs:
                self._use(source)
                stack.append(source)
        return new

    def _use(self, node: Node) -> None:
        target: Node | None = node
        while target is not None:
            self._uses[target] += 1
            target = self._links.get(target)

    def _release(self, node: Node) -> None:
        """One reader of a node fell out of use, and with the last one what the node reads."""
        stack = [node]
        while stack:
            node = stack.pop()
            self._gone[node] += 1
            if node not in self._dead and self._uses[node] == self._gone[node]:
                self._dead.add(node)
                stack += node.inputs

    def _revive(self, node: Node) -> None:
        """A node is used, maybe again."""
        stack = [node]
        while stack:
            node = stack.pop()
            if node in self._dead:
                self._dead.remove(node)
                for source in node.inputs:
                    self._gone[source] -= 1
                stack += node.inputs

    def _readers(self, node: Node) -> int:
        return self._uses[node]

    def _live(self, node: Node) -> int:
        return self._uses[node] - self._gone[node]

    def _inherit(self, node: Node, new: list[Node]) -> None:
        """Origins of new nodes: that of the deepest matched node of the same operator, so that a
        convolution which took in a scale is still called by its own layer; else the root's.
        """
        if not new:
            return
        kept = {source for made in new for source in made.inputs} - set(new)
        by_operator: dict[str, Origin] = {}
        level = [node]
        for _ in range(_CONSUMED_DEPTH):
            for matched in level:
                if matched in self.origins:
                    by_operator[matched.op] = self.origins[matched]
            level = [s for matched in level for s in matched.inputs if s not in kept]
        fallback = self.origins.get(node)
        for made in new:
            origin = by_operator.get(made.op, fallback)
            if origin is not None:
                self.origins.setdefault(made, origin)

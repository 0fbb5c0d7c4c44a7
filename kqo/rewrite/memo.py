"""Exploring a plan: rules that add alternatives, in groups of nodes that are equal.

As in Volcano and Cascades (Graefe 1993, 1995), a memo holds for every node the nodes that compute
the same relation. An operator pattern below a rule's root matches any alternative of the group at
its place; a variable binds the group's representative, the node that the group was made for, so
that one match stands for all ways to compute an input.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping

from kqo.errors import ArgumentError, RuleError
from kqo.ir.nodes import Node, Overlay, Saved, walk
from kqo.ir.plan import Array, Origin, Plan
from kqo.lang.compile import CompiledRule
from kqo.lang.context import Context
from kqo.lang.index import RuleIndex
from kqo.lang.ruleset import RuleSet
from kqo.rewrite.trace import Trace

_ADDING = ("delta", "batch", "physical")
_PRUNED = ("delta", "batch")
_MOST_PRUNINGS = 100
_MOST_ALTERNATIVES = 200


class Memo:
    """Groups of equal nodes. Read-only once :func:`explore` has filled it.

    Attributes:
        trace: the alternatives that rules added, in order, and what prune rules made of them.
        constants: values of the constants that rules folded, by name.
    """

    def __init__(self) -> None:
        self.trace = Trace()
        self._groups: dict[Node, dict[Node, str | None]] = {}
        self._parents: dict[Node, list[tuple[Node, Node]]] = {}
        self._home: dict[Node, Node] = {}
        self._origins: dict[Node, Origin] = {}
        self.constants: dict[str, Array] = {}

    def origin(self, node: Node) -> Origin | None:
        """Where a node came from; one that a rule made came from where its match did."""
        return self._origins.get(node) or self._origins.get(self.representative(node))

    def groups(self) -> tuple[Node, ...]:
        """The representatives of all groups, in the order in which they were made."""
        return tuple(self._groups)

    def alternatives(self, node: Node) -> tuple[Node, ...]:
        """The nodes known to be equal to the node, the representative first.

        A node that no group holds is its own only alternative.
        """
        group = self._groups.get(node)
        if group is None:
            group = self._groups.get(self._home.get(node, node))
        return tuple(group) if group is not None else (node,)

    def representative(self, node: Node) -> Node:
        """The node that the group of ``node`` was made for.

        A node that is in several groups stands for the one it was made for, or the first it joined.
        """
        return node if node in self._groups else self._home.get(node, node)

    def rule_of(self, alternative: Node, group: Node | None = None) -> str | None:
        """Name of the rule that added the alternative; None for a representative.

        Args:
            alternative: the node.
            group: whose alternative it is; needed only for a node that is in several groups.
        """
        home = group if group is not None else self._home.get(alternative)
        return self._groups.get(home, {}).get(alternative) if home is not None else None

    def __len__(self) -> int:
        """Number of alternatives in all groups, representatives included."""
        return sum(map(len, self._groups.values()))


def explore(plan: Plan, rules: RuleSet, parameters: Mapping[str, float] | None = None) -> Memo:
    """Fill a memo with every alternative that the rules give.

    Args:
        plan: normalized, with overlays over the base relations that change.
        rules: families delta, batch and physical add alternatives; prune rules rewrite what delta
            and batch rules made before it is added; normalize rules are left aside.
        parameters: values of the parameters of approximate rules. A rule runs only where its
            parameter's value is not the neutral one.

    Raises:
        ArgumentError: a parameter that no rule has.
        RuleError: rules that add alternatives without end, named in the message.
    """
    parameters = dict(parameters or {})
    known = {rule.parameter for rule in rules if rule.parameter}
    for name in parameters:
        if name not in known:
            raise ArgumentError("parameters", name, ", ".join(sorted(known)) or "none")
    return _Explorer(plan, rules, parameters).run()


class _Explorer:
    def __init__(self, plan: Plan, rules: RuleSet, parameters: Mapping[str, float]) -> None:
        self.memo = Memo()
        self._plan = plan
        self._parameters = parameters
        readers = plan.readers()
        # The base of an overlay has the readers of what it is the old value of. Other nodes that
        # rules made may get readers later on, so that they never count as read once.
        self._old: dict[Node, Node] = {}
        self._context = Context(
            lambda node: readers.get(self._old.get(node, node), 2),
            self.memo.alternatives,
            layer=self._layer,
        )
        self._by_inner: dict[str, list[tuple[int, CompiledRule]]] = {}
        adding = [rule for rule in rules.family(*_ADDING) if rule.enabled(parameters)]
        self._rules = RuleIndex(adding)
        for rule in adding:
            for op, depth in sorted(rule.inner):
                self._by_inner.setdefault(op, []).append((depth, rule))
        self._prunes = [r for r in rules.family("prune") if r.enabled(parameters)]
        self._queue: deque[tuple[Node, Node, CompiledRule]] = deque()
        self._queued: set[tuple[Node, Node, CompiledRule]] = set()

    def run(self) -> Memo:
        roots = [node for _, node in self._plan.roots]
        for node in walk(*roots):
            self._group(node, None)
        budget = 1000 + 200 * len(self.memo.groups())
        while self._queue:
            item = self._queue.popleft()
            self._queued.discard(item)
            home, node, rule = item
            for made in self._apply(rule, node, home):
                self._add(home, made, rule)
            if len(self.memo.trace) > budget or len(self.memo._groups[home]) > _MOST_ALTERNATIVES:
                last = Counter(a.rule for a in self.memo.trace.applications[-_MOST_ALTERNATIVES:])
                names = ", ".join(name for name, _ in last.most_common(3))
                count = len(self.memo.trace)
                raise RuleError(f"no end after {count} alternatives; last fired: {names}")
        folded = set(self._context.folded)
        self.memo.constants |= self._context.values(folded, self._plan.constants, self._plan.dtype)
        return self.memo

    def _apply(self, rule: CompiledRule, node: Node, home: Node) -> Iterator[Node]:
        found = rule.apply(
            node,
            self._context,
            representative=home,
            expand=self.memo.alternatives,
            parameters=self._parameters,
        )
        for made in found:
            yield self._prune(made) if rule.family in _PRUNED else made

    def _prune(self, node: Node) -> Node:
        """The node rewritten by the prune rules until none matches."""
        for _ in range(_MOST_PRUNINGS):
            found = next(
                (
                    (rule, made)
                    for rule in self._prunes
                    if node.op in rule.roots
                    for made in rule.apply(node, self._context, parameters=self._parameters)
                ),
                None,
            )
            if found is None:
                return node
            rule, made = found
            self.memo.trace.add(rule.name, rule.family, node, made)
            node = made
        names = ", ".join(rule.name for rule in self._prunes)
        raise RuleError(f"no end after {_MOST_PRUNINGS} prunings of one node: {names}")

    def _layer(self, node: Node) -> str:
        origin = self.memo.origin(node)
        return origin.layer if origin is not None else ""

    def _group(self, node: Node, origin: Origin | None) -> None:
        """A group for a node that has none, and for all below it."""
        memo = self.memo
        stack = [node]
        while stack:
            top = stack[-1]
            missing = [source for source in top.inputs if source not in memo._groups]
            if top in memo._groups or not missing:
                stack.pop()
                if top not in memo._groups:
                    memo._groups[top] = {}
                    self._come_from(top, origin)
                    self._join(top, top, None)
            else:
                stack.extend(missing)

    def _come_from(self, node: Node, origin: Origin | None) -> None:
        found = self._plan.origins.get(node, origin)
        if found is not None:
            self.memo._origins.setdefault(node, found)

    def _join(self, home: Node, node: Node, rule: str | None) -> None:
        """Put a node whose inputs have groups into a group; queue the rules for it."""
        memo = self.memo
        memo._groups[home][node] = rule
        memo._home.setdefault(node, home)
        for source in dict.fromkeys(node.inputs):
            memo._parents.setdefault(source, []).append((home, node))
        for known in self._rules.at(node):
            self._enqueue(home, node, known)

    def _add(self, home: Node, made: Node, rule: CompiledRule) -> None:
        memo = self.memo
        if made in memo._groups[home]:
            return
        if isinstance(made, Overlay):
            base = made.base.input if isinstance(made.base, Saved) else made.base
            self._old.setdefault(base, home)
        origin = memo.origin(home)
        for source in made.inputs:
            self._group(source, origin)
        memo.trace.add(rule.name, rule.family, home, made)
        self._join(home, made, rule.name)
        self._retry(home, made.op)

    def _retry(self, home: Node, op: str) -> None:
        """Queue the rules above a group whose patterns may match its new alternative."""
        wanted = self._by_inner.get(op, [])
        level = [home]
        for depth in range(1, max((d for d, _ in wanted), default=0) + 1):
            above = [pair for node in level for pair in self.memo._parents.get(node, ())]
            ops = {reader.op for _, reader in above}
            for found, rule in wanted:
                if found == depth and not ops.isdisjoint(rule.roots):
                    for reader_home, reader in above:
                        if reader.op in rule.roots:
                            self._enqueue(reader_home, reader, rule)
            level = list(dict.fromkeys(reader_home for reader_home, _ in above))

    def _enqueue(self, home: Node, node: Node, rule: CompiledRule) -> None:
        item = (home, node, rule)
        if item not in self._queued:
            self._queued.add(item)
            self._queue.append(item)

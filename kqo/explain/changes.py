"""What rules did: one rule's applications before and after, or a diff per application."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kqo.errors import ArgumentError
from kqo.ir.nodes import Node, Overlay, Slice, walk
from kqo.ir.region import Region
from kqo.ir.text import Labels, format_definition, format_region
from kqo.rewrite.trace import Application


@dataclass(frozen=True, slots=True)
class Change:
    """One application, as lines of a plan's text.

    Attributes:
        number: its place among all applications, from 1.
        rule: the rule's name.
        family: the rule's family.
        target: label of the node that the rule matched.
        result: label of what it made.
        removed: definitions that only the matched node needs.
        added: definitions that only the replacement needs.
        kept: definitions that both have and the changed ones read.
    """

    number: int
    rule: str
    family: str
    target: str
    result: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def adds(self) -> bool:
        """Whether the rule added an alternative rather than replaced what it matched."""
        return self.family not in ("normalize", "prune")


class Changes:
    """The applications of a rewrite with one numbering of nodes for all of them."""

    def __init__(self, applications: Sequence[Application]) -> None:
        self._applications = applications
        ends = [node for item in applications for node in (item.before, item.after)]
        self._labels = Labels.of(ends)
        self._order = {node: i for i, node in enumerate(walk(*ends))}
        self._nodes = list(self._order)
        self._texts: dict[Node, str] = {}
        self._regions: dict[Region, str] = {}
        self._below: list[int] = []
        for node, i in self._order.items():
            bits = 1 << i
            for source in node.inputs:
                bits |= self._below[self._order[source]]
            self._below.append(bits)

    def __iter__(self) -> Iterator[Change]:
        for number, item in enumerate(self._applications, 1):
            yield self.change(number, item)

    def change(self, number: int, item: Application) -> Change:
        """What one application did."""
        before, after = self._order[item.before], self._order[item.after]
        gone = self._members(self._below[before] & ~self._below[after])
        new = self._members(self._below[after] & ~self._below[before])
        read = {source for node in (*gone, *new) for source in node.inputs}
        if not gone:
            read.add(item.before)
        kept = [n for n in self._nodes_of(read) if n not in gone and n not in new]
        return Change(
            number,
            item.rule,
            item.family,
            self._labels.nodes[item.before],
            self._labels.nodes[item.after],
            tuple(self._lines(gone)),
            tuple(self._lines(new)),
            tuple(self._lines(kept)),
        )

    def _nodes_of(self, nodes: set[Node]) -> list[Node]:
        return sorted(nodes, key=self._order.__getitem__)

    def _members(self, bits: int) -> list[Node]:
        found = []
        while bits:
            low = bits & -bits
            found.append(self._nodes[low.bit_length() - 1])
            bits ^= low
        return found

    def _lines(self, nodes: Sequence[Node]) -> Iterator[str]:
        seen: set[Region] = set()
        for node in nodes:
            if isinstance(node, (Slice, Overlay)) and node.at not in seen:
                # The parts of a region go by their labels: they are regions of other nodes.
                seen.add(node.at)
                yield self._region(node.at)
            yield self._definition(node)

    def _definition(self, node: Node) -> str:
        if node not in self._texts:
            self._texts[node] = format_definition(node, self._labels)
        return self._texts[node]

    def _region(self, region: Region) -> str:
        if region not in self._regions:
            text = format_region(region, self._labels.regions)
            self._regions[region] = f"{self._labels.regions[region]} = {text}"
        return self._regions[region]


def of_rule(applications: Sequence[Application], rule: str, known: Sequence[str]) -> list[Change]:
    """The changes that one rule made.

    Raises:
        ArgumentError: there is no rule of that name.
    """
    if rule not in known:
        from kqo.lang.ruleset import fail_hint

        hint = fail_hint(rule, tuple(known))
        raise ArgumentError("rule", rule, "the name of a rule, as kqo rules lists them", hint=hint)
    changes = Changes(applications)
    return [changes.change(n, a) for n, a in enumerate(applications, 1) if a.rule == rule]


def format_rule_changes(rule: str, changes: Sequence[Change]) -> str:
    """Each application of a rule, with what it found and what it made of it."""
    if not changes:
        return f"{rule} did nothing: it matched nowhere, or was left out."
    family = changes[0].family
    times = "once" if len(changes) == 1 else f"{len(changes)} times"
    lines = [f"{rule} ({family}) fired {times}."]
    for change in changes:
        lines += ["", f"application {change.number}"]
        lines += [f"    {line}" for line in change.kept]
        if change.removed:
            lines += ["  before", *(f"    {line}" for line in change.removed)]
        verb = f"  another way to compute {change.target}" if change.adds else "  after"
        # Where nothing is new, the rule led to a node that was there: a shared one, or an input.
        lines += [verb, *(f"    {line}" for line in change.added or (change.result,))]
    return "\n".join(lines)


def format_steps(changes: Sequence[Change]) -> str:
    """A diff per application, without the lines that stayed."""
    lines: list[str] = []
    for change in changes:
        arrow = "=" if change.adds else "->"
        head = f"@@ {change.number} {change.rule}: {change.target} {arrow} {change.result}"
        lines += [head, *(f"-{line}" for line in change.removed)]
        lines += [f"+{line}" for line in change.added]
    return "\n".join(lines) if lines else "no rule fired"

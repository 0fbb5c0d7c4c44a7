"""What was rewritten, in order: read by explain and by tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from kqo.ir.nodes import Node
from kqo.ir.plan import Plan
from kqo.ir.text import format_plan


@dataclass(frozen=True, slots=True)
class Application:
    """One application of a rule: ``after`` took the place of ``before``, or joined its group."""

    rule: str
    family: str
    before: Node
    after: Node

    @property
    def before_text(self) -> str:
        """The matched node and all below it, as a plan; printed when asked for."""
        return _text(self.rule, self.before)

    @property
    def after_text(self) -> str:
        """The replacement and all below it, as a plan; printed when asked for."""
        return _text(self.rule, self.after)


def _text(name: str, node: Node) -> str:
    return format_plan(Plan(name, (("output", node),)))


@dataclass(slots=True)
class Trace:
    """The applications of a rewrite, in order."""

    applications: list[Application] = field(default_factory=list)

    def __iter__(self) -> Iterator[Application]:
        return iter(self.applications)

    def __len__(self) -> int:
        return len(self.applications)

    def add(self, rule: str, family: str, before: Node, after: Node) -> None:
        """Note an application."""
        self.applications.append(Application(rule, family, before, after))

    def counts(self) -> dict[str, int]:
        """How often each rule fired, by name."""
        return dict(sorted(Counter(item.rule for item in self.applications).items()))

    def of_node(self, node: Node) -> tuple[Application, ...]:
        """The applications that matched the node or made it."""
        return tuple(a for a in self.applications if node in (a.before, a.after))

    def history(self, node: Node) -> tuple[Application, ...]:
        """The applications that led to the node, first one first: what it was rewritten from."""
        made = {a.after: a for a in self.applications}
        found: list[Application] = []
        seen: set[Node] = set()
        while node in made and node not in seen:
            seen.add(node)
            found.append(made[node])
            node = made[node].before
        return tuple(reversed(found))

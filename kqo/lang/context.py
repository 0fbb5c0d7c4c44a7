"""What a rule may ask about the plan around its match, besides the matched nodes themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kqo.errors import StalePlanError
from kqo.ir.folded import Constants, releasable
from kqo.ir.nodes import Const, Node, walk
from kqo.ir.plan import Array
from kqo.ir.schema import without_query
from kqo.ir.text import Labels, format_node_fields


@dataclass(slots=True)
class Context:
    """The rewrite at hand.

    Attributes:
        readers: number of readers of a node, counted from the plan's roots. It may say too many,
            never too few: a rule that needs a single reader then waits for the next pass.
        live: the same without readers that fell out of use; the same number where None.
        alternatives: the nodes known to be equal to a node, itself first.
        known: values of the plan's constants, by name.
        folded: constants that rules introduced, by name: the constant nodes that they stand for.
            Values are computed once, at the end, for those that are still read.
        layer: name of the layer that a node came from; empty where that is not known.
        consulted: whether a builtin asked for readers since this was last set to False; a node that
            no rule matched need not be tried again unless it did.
    """

    readers: Callable[[Node], int]
    alternatives: Callable[[Node], tuple[Node, ...]] = lambda node: (node,)
    known: Mapping[str, Array] = field(default_factory=dict)
    folded: dict[str, Node] = field(default_factory=dict)
    layer: Callable[[Node], str] = lambda node: ""
    consulted: bool = False
    live: Callable[[Node], int] | None = None
    _folds: dict[Node, Const] = field(default_factory=dict)
    _lines: dict[Node, str] = field(default_factory=dict)
    _small: dict[str, Array] = field(default_factory=dict)

    def single_use(self, node: Node) -> bool:
        """Whether exactly one field of one node, or one root, reads the node."""
        self.consulted = True
        return self.readers(node) == 1

    def read_once(self, node: Node) -> bool:
        """:meth:`single_use`, readers that fell out of use in this pass left out."""
        self.consulted = True
        return (self.live or self.readers)(node) == 1

    def fold(self, node: Node) -> Const:
        """A Const that stands for a node whose leaves are all Const or Domain.

        It is named after the first constant below and a digest of the computation, so that equal
        computations share one constant, and names do not depend on the order of rewriting.
        """
        if node in self._folds:  # rules that refuse a match in the end ask again
            return self._folds[node]
        nodes = list(walk(node))
        first = next((n.name for n in nodes if isinstance(n, Const)), "ones")
        labels = Labels({n: f"%{i}" for i, n in enumerate(nodes)}, {})
        text = "\n".join(self._line(n, labels) for n in nodes)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{first.split('#')[0]}#{digest}"
        self.folded.setdefault(name, node)
        self._folds[node] = made = Const(name, without_query(node.schema))
        return made

    def _line(self, node: Node, labels: Labels) -> str:
        if node.inputs:
            return f"{node.op} {format_node_fields(node, labels)}"
        if node not in self._lines:  # the same whatever it is called
            self._lines[node] = f"{node.op} {format_node_fields(node, labels)}"
        return self._lines[node]

    def value(self, node: Node) -> Array | None:
        """The values of a constant node, in float64 where they are computed; None where some that
        it is computed from lack values."""
        from kqo.lang.constants import evaluate

        try:
            return evaluate(node, self.known, self.folded, self._small)
        except KeyError:
            return None

    def values(self, names: set[str], known: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        """Values of the folded constants among ``names``: float64 arithmetic, in ``dtype``.

        One that is computed from constants without values is left out: the plan had none before.
        """
        from kqo.lang.constants import evaluate_as

        found: dict[str, Array] = {}
        for name in sorted(names & set(self.folded)):
            try:
                node = self.folded[name]
                found[name] = evaluate_as(dtype, node, known, self.folded, self._small)
            except KeyError:
                continue
        return found

    def releasable(self, names: set[str], known: Mapping[str, Array], dtype: str) -> Constants:
        """:meth:`values`, of which large ones are computed again once they were released."""
        from kqo.lang.constants import evaluate_as

        folded = self.folded  # the rewrite at hand, which need not be kept, has much beside it

        def again(name: str) -> Callable[[], Array]:
            return lambda: evaluate_as(dtype, folded[name], known, folded, {})

        found = self.values(names, known, dtype).items()
        return Constants({n: releasable(n, value, again(n), _trained_on) for n, value in found})


def _trained_on(name: str) -> StalePlanError:
    return StalePlanError(
        f"what the plan's {name} was folded from was changed in place after the model was compiled",
        hint="compile it again",
    )

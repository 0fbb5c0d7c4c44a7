"""A plan: named roots over shared nodes, with the constants they read and where nodes came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.folded import Constants
from kqo.ir.nodes import Const, Node, Scan, walk

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node came from: the layer's name, its kind, and the place in the source."""

    layer: str
    kind: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """An immutable plan.

    Attributes:
        name: what the plan computes, for people.
        roots: output name and node, in the model's order.
        constants: values of the Const nodes by name, shaped as their axes.
        origins: provenance by node; a side table, so that equal subplans stay equal.
        dtype: the type that values are computed in, float32 or float64.
        inputs: names of the base relations that may change, in the order of the model's
            arguments, also of those that no output depends on; may be empty.
    """

    name: str
    roots: tuple[tuple[str, Node], ...]
    constants: Mapping[str, Array] = field(default_factory=dict)
    origins: Mapping[Node, Origin] = field(default_factory=dict)
    dtype: str = "float32"
    inputs: tuple[str, ...] = ()
    _scans: list[tuple[Scan, ...]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", Constants(self.constants))
        object.__setattr__(self, "origins", MappingProxyType(dict(self.origins)))

    def __reduce__(self) -> tuple[Any, ...]:
        # As text: pickling node inside node would exceed the recursion limit on deep plans.
        from kqo.ir.text import format_plan

        origins = [self.origins.get(node) for node in self.nodes()]
        return _restored, (format_plan(self), dict(self.constants), origins, self.inputs)

    def nodes(self) -> Iterator[Node]:
        """Every node once, inputs before readers."""
        return walk(*(node for _, node in self.roots))

    @property
    def scans(self) -> tuple[Scan, ...]:
        """The base relations that may change: the inputs in their order, then by first use."""
        if not self._scans:  # a plan asks for them on each run
            order = {name: number for number, name in enumerate(self.inputs)}
            found = [n for n in self.nodes() if isinstance(n, Scan)]
            self._scans.append(tuple(sorted(found, key=lambda n: order.get(n.name, len(order)))))
        return self._scans[0]

    def readers(self) -> dict[Node, int]:
        """For every node the number of readers: fields of other nodes that name it, and roots."""
        count: dict[Node, int] = {}
        for node in self.nodes():
            for source in node.inputs:
                count[source] = count.get(source, 0) + 1
        for _, root in self.roots:
            count[root] = count.get(root, 0) + 1
        return count

    def with_roots(
        self,
        roots: tuple[tuple[str, Node], ...],
        constants: Mapping[str, Array] | None = None,
        origins: Mapping[Node, Origin] | None = None,
    ) -> Plan:
        """The same plan over other roots; constants that are no longer read are dropped."""
        used = {n.name for n in walk(*(r for _, r in roots)) if isinstance(n, Const)}
        kept = Constants(self.constants, constants or {}, names=used)
        known_origins = {**self.origins, **(origins or {})}
        return Plan(self.name, roots, kept, known_origins, self.dtype, self.inputs)


def _restored(
    text: str, constants: dict[str, Array], origins: list[Origin | None], inputs: tuple[str, ...]
) -> Plan:
    """A plan from its text; origins are those of its nodes, inputs before readers."""
    from kqo.ir.text import parse_plan

    plan = parse_plan(text, constants)
    found = zip(plan.nodes(), origins, strict=True)
    known = {node: origin for node, origin in found if origin is not None}
    return Plan(plan.name, plan.roots, plan.constants, known, plan.dtype, inputs)

"""Symbolic regions: which keys of a relation may differ from the materialized view, per query.

A region is a set of boxes per query over the key axes of a relation. In a plan it is an expression
over the region relation of a base relation (:class:`Changed`); coordinates exist only once a plan
is bound to positions (:mod:`kqo.ir.boxes`). A region may always be replaced by a superset: cells in
it are recomputed, cells outside are taken from the view.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kqo.ir.equations import Condition
from kqo.ir.intern import Interned
from kqo.ir.lazy import lazily
from kqo.ir.schema import Axes


class _Region(metaclass=Interned):
    """Base of all region expressions: frozen and interned, as plan nodes are."""

    @lazily
    def parts(self) -> tuple[Region, ...]:
        """The regions that the expression is made of, one level down."""
        of: Region | tuple[Region, ...] = getattr(self, "of", ())
        return of if isinstance(of, tuple) else (of,)

    def with_parts(self, parts: tuple[Region, ...]) -> Region:
        """The same expression over other regions, in the order of :attr:`parts`."""
        given = getattr(self, "of", ())
        new: dict[str, Any] = {"of": parts if isinstance(given, tuple) else parts[0]}
        values = [new.get(name, getattr(self, name)) for name in type(self).field_names]
        return type(self)(*values)  # type: ignore[return-value]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in type(self).field_names)

    def __repr__(self) -> str:
        of = ", ".join(type(part).__name__ for part in self.parts)
        rest = [f"{n}={getattr(self, n)!r}" for n in type(self).field_names if n != "of"]
        return f"{type(self).__name__}({', '.join([f'of={of}'] * bool(of) + rest)})"


class Changed(_Region):
    """R(query, boxes) of a base relation: where its overlay replaces it."""

    relation: str


class Everything(_Region):
    """All keys of a relation, for every query."""

    into: Axes


class Image(_Region):
    """The keys ``into`` of a join's output that read a key of ``of`` on its left side.

    ``on`` are the join's conditions, ``taps`` the axes of the join that are aggregated away. An
    output axis that is neither a free axis of ``of`` nor named in a condition is covered whole.
    """

    of: Region
    on: tuple[Condition, ...]
    taps: Axes
    into: Axes


class Either(_Region):
    """Union of regions over the same key axes."""

    of: tuple[Region, ...]


class Shift(_Region):
    """A region moved by ``offset`` along one axis, as concatenation moves its inputs."""

    of: Region
    axis: str
    offset: int
    into: Axes


class Regroup(_Region):
    """The image of a region under a Rekey: exact on axes that are kept, whole on others."""

    of: Region
    source: Axes
    order: tuple[str, ...]
    into: Axes


class Clip(_Region):
    """A region cut to at most ``tau`` of the extent of each position axis, around its centre.

    The projective-field threshold of Krypton (SIGMOD 2019, section 4.1); tau = 1 changes nothing.
    """

    of: Region
    tau: float
    into: Axes


class Shrink(_Region):
    """A region cut to where a relation changed by more than a threshold, query by query.

    Of each query it holds the smallest box of positions around those keys of ``of`` where the root
    mean square of the change over all features is more than ``threshold`` standard deviations of
    the materialized view. Only an Overlay can say where that is, from its base and its patch; the
    first one whose region this is does. Without values it stands for ``of``, which holds it.

    ``layer`` tells apart relations of one shape.
    """

    of: Region
    threshold: float
    layer: str
    into: Axes


Region = Changed | Everything | Image | Either | Shift | Regroup | Clip | Shrink


def walk_regions(*regions: Region) -> Iterator[Region]:
    """Every region expression below the given ones once, parts before what is made of them."""
    seen: set[Region] = set()
    stack: list[tuple[Region, bool]] = [(region, False) for region in reversed(regions)]
    while stack:
        region, done = stack.pop()
        if region in seen:
            continue
        if done:
            seen.add(region)
            yield region
            continue
        stack.append((region, True))
        stack.extend((part, False) for part in reversed(region.parts) if part not in seen)


def is_clipped(*regions: Region) -> bool:
    """Whether a part of a region was clipped below tau = 1, so that results are approximate."""
    return any(isinstance(part, Clip) and part.tau < 1 for part in walk_regions(*regions))


def shrinks(*regions: Region) -> tuple[Shrink, ...]:
    """The parts of regions that only values can tell, each once."""
    return tuple(part for part in walk_regions(*regions) if isinstance(part, Shrink))

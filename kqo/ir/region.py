"""Symbolic regions: which keys of a relation may differ from the materialized view, per query.

A region is a set of boxes per query over the key axes of a relation. In a plan it is an expression over
the region relation of a base relation (:class:`Changed`); coordinates exist only once a plan is bound to
positions (:mod:`kqo.ir.boxes`). A region may always be replaced by a superset: cells in it are
recomputed, cells outside are taken from the view.
"""

from __future__ import annotations

from dataclasses import dataclass

from kqo.ir.equations import Condition
from kqo.ir.schema import Axes


@dataclass(frozen=True, slots=True)
class Changed:
    """R(query, boxes) of a base relation: where its overlay replaces it."""

    relation: str


@dataclass(frozen=True, slots=True)
class Everything:
    """All keys of a relation, for every query."""

    into: Axes


@dataclass(frozen=True, slots=True)
class Image:
    """The keys ``into`` of a join's output that read a key of ``of`` on its left side.

    ``on`` are the join's conditions, ``taps`` the axes of the join that are aggregated away. An output
    axis that is neither a free axis of ``of`` nor named in a condition is covered whole.
    """

    of: Region
    on: tuple[Condition, ...]
    taps: Axes
    into: Axes


@dataclass(frozen=True, slots=True)
class Either:
    """Union of regions over the same key axes."""

    of: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """A region moved by ``offset`` along one axis, as concatenation moves its inputs."""

    of: Region
    axis: str
    offset: int
    into: Axes


@dataclass(frozen=True, slots=True)
class Regroup:
    """The image of a region under Rekey(order, into): exact on axes that are kept, whole on others."""

    of: Region
    source: Axes
    order: tuple[str, ...]
    into: Axes


@dataclass(frozen=True, slots=True)
class Clip:
    """A region cut to at most ``tau`` of the extent of each position axis, around its centre.

    The projective-field threshold of Krypton (SIGMOD 2019, section 4.1); tau = 1 changes nothing.
    """

    of: Region
    tau: float
    into: Axes


Region = Changed | Everything | Image | Either | Shift | Regroup | Clip


def parts(region: Region) -> tuple[Region, ...]:
    """The regions that an expression is made of, one level down."""
    if isinstance(region, Either):
        return region.of
    if isinstance(region, (Changed, Everything)):
        return ()
    return (region.of,)


def is_clipped(region: Region) -> bool:
    """Whether a part of the region was clipped below tau = 1, so that results are approximate."""
    if isinstance(region, Clip) and region.tau < 1:
        return True
    return any(is_clipped(part) for part in parts(region))

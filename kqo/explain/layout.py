"""A layered drawing of a directed acyclic graph: ranks from top to bottom, few crossings.

After [Sugiyama1981]: nodes are ranked by their longest path from a source, edges over several ranks
get a way-point on each, ranks are ordered by the barycentres of their neighbours, and columns are
moved towards their neighbours as far as order and width allow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

Point = tuple[float, float]
Key = tuple[Hashable, ...]
_SWEEPS = 8
_WAYPOINT = 16.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where nodes and edges lie; y grows downwards.

    Attributes:
        centres: centre of each node.
        routes: corner points of each edge, from its source's lower edge to its target's upper edge.
        width: of the drawing.
        height: of the drawing.
    """

    centres: Mapping[Hashable, Point]
    routes: Mapping[tuple[Hashable, Hashable], Sequence[Point]]
    width: float
    height: float


def layered(graph: nx.DiGraph, size: Point, gap: Point) -> Layout:
    """Lay out a graph whose nodes are boxes of one size.

    Args:
        graph: acyclic; the order of its nodes breaks ties, so that the result is stable.
        size: width and height of a box.
        gap: least distance of boxes beside and below each other.
    """
    if not graph:
        return Layout({}, {}, 0.0, 0.0)
    rank = _ranks(graph)
    layers: list[list[Key]] = [[] for _ in range(max(rank.values()) + 1)]
    for node in graph:
        layers[rank[node]].append((node,))
    above: dict[Key, list[Key]] = {}
    below: dict[Key, list[Key]] = {}
    chains: dict[tuple[Hashable, Hashable], list[Key]] = {}
    for source, target in graph.edges:
        chain: list[Key] = [(source,)]
        for level in range(rank[source] + 1, rank[target]):
            chain.append((source, target, level))
            layers[level].append(chain[-1])
        chain.append((target,))
        chains[source, target] = chain
        for one, other in pairwise(chain):
            below.setdefault(one, []).append(other)
            above.setdefault(other, []).append(one)
    _order(layers, above, below)
    across = _columns(layers, above, below, size[0], gap[0])
    return _placed(layers, chains, across, size, gap)


def _ranks(graph: nx.DiGraph) -> dict[Hashable, int]:
    rank: dict[Hashable, int] = {}
    for node in nx.topological_sort(graph):
        rank[node] = max((rank[source] + 1 for source in graph.predecessors(node)), default=0)
    return rank


def _order(
    layers: list[list[Key]], above: Mapping[Key, list[Key]], below: Mapping[Key, list[Key]]
) -> None:
    """Sort each rank by the mean place of its neighbours, down and up in turn."""
    place = {key: i for layer in layers for i, key in enumerate(layer)}

    def sort(layer: list[Key], beside: Mapping[Key, list[Key]]) -> None:
        def mean(key: Key) -> float:
            found = [place[other] for other in beside.get(key, ())]
            return sum(found) / len(found) if found else place[key]

        layer.sort(key=mean)
        place.update((key, i) for i, key in enumerate(layer))

    for _ in range(_SWEEPS):
        for layer in layers[1:]:
            sort(layer, above)
        for layer in reversed(layers[:-1]):
            sort(layer, below)


def _columns(
    layers: list[list[Key]],
    above: Mapping[Key, list[Key]],
    below: Mapping[Key, list[Key]],
    width: float,
    gap: float,
) -> dict[Key, float]:
    """Centres along a rank: towards the neighbours' mean, in order, without overlap."""

    def extent(key: Key) -> float:
        return (width if len(key) == 1 else _WAYPOINT) + gap

    across: dict[Key, float] = {}
    for layer in layers:
        at = -sum(map(extent, layer)) / 2
        for key in layer:
            across[key] = at + extent(key) / 2
            at += extent(key)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            _settle(layer, above if down else below, across, extent)
    return across


def _settle(
    layer: list[Key],
    beside: Mapping[Key, list[Key]],
    across: dict[Key, float],
    extent: Callable[[Key], float],
) -> None:
    """Move a rank's nodes to where they want to be; those that would overlap move as one block."""
    blocks: list[tuple[list[Key], float, float]] = []  # keys, wanted left end, extent
    for key in layer:
        near = [across[other] for other in beside.get(key, ())]
        wish = sum(near) / len(near) if near else across[key]
        block = ([key], wish - extent(key) / 2, extent(key))
        while blocks and blocks[-1][1] + blocks[-1][2] > block[1]:
            keys, left, length = blocks.pop()
            count = len(keys) + len(block[0])
            wish = (left * len(keys) + (block[1] - length) * len(block[0])) / count
            block = (keys + block[0], wish, length + block[2])
        blocks.append(block)
    for keys, left, _ in blocks:
        at = left
        for key in keys:
            across[key] = at + extent(key) / 2
            at += extent(key)


def _placed(
    layers: list[list[Key]],
    chains: Mapping[tuple[Hashable, Hashable], list[Key]],
    across: Mapping[Key, float],
    size: Point,
    gap: Point,
) -> Layout:
    boxes = [key for layer in layers for key in layer]
    left = min(across[key] - (size[0] if len(key) == 1 else 0) / 2 for key in boxes) - gap[0]
    right = max(across[key] + (size[0] if len(key) == 1 else 0) / 2 for key in boxes) + gap[0]
    step = size[1] + gap[1]
    down = {key: gap[1] + size[1] / 2 + i * step for i, layer in enumerate(layers) for key in layer}
    centres = {key[0]: (across[key] - left, down[key]) for key in boxes if len(key) == 1}
    routes = {}
    for edge, chain in chains.items():
        points = [(across[key] - left, down[key]) for key in chain]
        first, last = points[0], points[-1]
        points[0] = (first[0], first[1] + size[1] / 2)
        points[-1] = (last[0], last[1] - size[1] / 2)
        routes[edge] = tuple(points)
    return Layout(centres, routes, right - left, gap[1] + len(layers) * step)

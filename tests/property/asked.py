"""Random questions to a network: workloads, options, and brute force to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import kqo
from kqo.lang.ruleset import rules_for
from kqo.planner import share
from kqo.planner.choose import Chooser
from kqo.workloads.changed import fill_values
from tests.property.layers import Draw, Shape, one_of
from tests.property.networks import Network

FAMILIES = ("delta", "batch", "physical", "normalize")
RULES = tuple(rule.name for rule in rules_for(kqo.Options()))
MOST_QUERIES = 60


@dataclass(frozen=True)
class Question:
    """One workload with the options it is answered under.

    Attributes:
        workload: what is asked.
        options: keyword arguments of kqo.Options.
        seed: of the image.
        costs: seed of random costs in place of the planner's; None leaves them.
        least: whether it is given no more memory than one query at a time takes.
    """

    workload: kqo.Occlusion | kqo.Regions
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    costs: int | None = None
    least: bool = False


def _fill(draw: Draw, shape: Shape) -> Any:
    kind = one_of(draw, "number", "number", "mean", "blur", "channels", "array", "space")
    if kind in ("mean", "blur"):
        return kind
    if kind == "number":
        return one_of(draw, 0.0, 0.0, 0.75, -2.0)
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    extents = {"channels": shape[:1], "array": shape, "space": (1, *shape[1:])}[kind]
    return generator.normal(size=extents).astype(np.float32)


def _occlusion(draw: Draw, shape: Shape, which: int) -> kqo.Occlusion:
    fill = _fill(draw, shape)
    reach = one_of(draw, len(shape) - 1, len(shape) - 1, len(shape))
    moved = shape[len(shape) - reach :]
    if draw(st.booleans()) and reach < len(shape):
        window: Any = draw(st.integers(1, min(moved)))
        stride: Any = draw(st.integers(1, 4))
    else:
        window = tuple(draw(st.integers(1, n)) for n in moved)
        stride = tuple(draw(st.integers(1, 4)) for _ in moved)
    chosen: dict[str, Any] = {}
    kind = one_of(draw, "grid", "grid", "positions", "roi")
    if kind == "positions":
        count = draw(st.integers(1, 9))
        chosen["positions"] = [[draw(st.integers(0, n - 1)) for n in moved] for _ in range(count)]
    elif kind == "roi":
        steps = stride if isinstance(stride, tuple) else (stride,) * reach
        chosen["roi"] = tuple((0, s + 1) for s in steps)
    return kqo.Occlusion(window, stride, fill=fill, input=which, **chosen)


def _regions(draw: Draw, shape: Shape, which: int) -> kqo.Regions:
    def box() -> list[tuple[int, int]]:
        reach = one_of(draw, len(shape) - 1, len(shape))
        found = []
        for extent in shape[len(shape) - reach :]:
            lo = draw(st.integers(0, extent - 1))
            found.append((lo, draw(st.integers(lo + 1, extent))))
        return found

    queries = [
        [box() for _ in range(draw(st.integers(1, 4)))] for _ in range(draw(st.integers(1, 6)))
    ]
    return kqo.Regions(queries, fill=_fill(draw, shape), input=which)


@st.composite
def questions(draw: Draw, network: Network) -> Question:
    """A random question that the network's inputs admit."""
    which = draw(st.integers(0, len(network.shapes) - 1))
    shape = network.shapes[which]
    workload: Any = (_occlusion if draw(st.integers(0, 3)) else _regions)(draw, shape, which)
    placed = workload.resolve(shape)
    if len(placed) > MOST_QUERIES:
        every = len(placed) // MOST_QUERIES + 1
        workload = kqo.Occlusion(
            workload.window,
            workload.stride,
            fill=workload.fill,
            input=which,
            positions=placed.starts[::every],
        )
    options: dict[str, Any] = {"threads": draw(st.integers(1, 3))}
    if draw(st.booleans()):
        options["batch"] = draw(st.integers(1, 9))
    if draw(st.integers(0, 2)) == 0:
        dropped = draw(st.sets(st.sampled_from((*FAMILIES, *RULES)), max_size=8))
        options["without"] = tuple(sorted(dropped))
    elif draw(st.integers(0, 2)) == 0:
        options["threshold"] = 1e-13  # rows that did not change are dropped, and no others
    costs = draw(st.integers(0, 2**16)) if draw(st.booleans()) else None
    # Random costs choose other forms, which take other memory, each time they are asked.
    least = costs is None and "batch" not in options and draw(st.integers(0, 3)) == 0
    return Question(workload, draw(st.integers(0, 2**16)), options, costs, least)


@contextmanager
def random_costs(seed: int | None) -> Iterator[None]:
    """Random costs of forms, so that the planner chooses any of them, and computes equal rows once
    or not; None leaves the costs."""
    if seed is None:
        yield
        return
    generator = np.random.default_rng(seed)
    kept, pays, never = Chooser._own_cost, share.pays, share.never_pays
    Chooser._own_cost = lambda *_: float(generator.random())  # type: ignore[method-assign]
    share.pays = lambda *_: bool(generator.random() < 0.7)
    share.never_pays = lambda *_: False
    try:
        yield
    finally:
        Chooser._own_cost = kept  # type: ignore[method-assign]
        share.pays, share.never_pays = pays, never


def occluded(
    network: Network,
    question: Question,
    images: tuple[torch.Tensor, ...] | None = None,
    fill: float | None = None,
) -> list[torch.Tensor]:
    """Each input of every query, and of no change at last, written out; by default of the
    question's own images and fill."""
    images = network.images(question.seed) if images is None else images
    which = question.workload.input
    assert isinstance(which, int)
    image = images[which].numpy()
    placed = question.workload.resolve(image.shape)
    values = np.broadcast_to(
        fill_values(question.workload.fill, image) if fill is None else fill, image.shape
    )
    changed = np.repeat(image[None], len(placed) + 1, axis=0)
    for query in range(len(placed)):
        mask = placed.mask(query)
        changed[query][mask] = values[mask]
    found = [x[None].expand(len(placed) + 1, *x.shape) for x in images]
    found[which] = torch.from_numpy(changed)
    return found


def asked_again(model: torch.nn.Module, inputs: list[torch.Tensor]) -> list[np.ndarray]:
    """Full re-inference: each output of the model, (queries + 1, ...), in float64."""
    with torch.no_grad():
        found = model(*inputs)
    outputs = found if isinstance(found, tuple) else (found,)
    return [value.double().numpy() for value in outputs]

"""Results: the model's outputs for every query, and the heatmaps and attributions read off them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError
from kqo.runtime.cuda.results import OnDevice
from kqo.workloads import Placed

Array = NDArray[np.float32]
Target = int | str | Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Result:
    """The model's outputs for every query of a workload, and for the untouched input.

    ``N`` below is the number of images, an axis that is there where ``many`` holds; ``positions``
    is the number of queries, in the workload's order.

    Attributes:
        outputs: by output name, float32 of shape (positions, outputs...) or (N, positions,
            outputs...); as the model gives them.
        originals: by output name, the outputs for the untouched image: (outputs...) or (N,
            outputs...).
        workload: where the queries changed the input.
        many: whether arrays are led by an axis of images.
        probabilities: whether the model's scores are probabilities already.
        class_names: names of the classes, which a target may be given by; may be empty.
        facts: whatever else is to be known of the run, such as its seconds; plain values.
        computed: by query, (positions) or (N, positions), whether it was answered; the outputs of
            others are interpolated. None: all were.
    """

    outputs: Mapping[str, Array]
    originals: Mapping[str, Array]
    workload: Placed
    many: bool = False
    probabilities: bool = False
    class_names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    computed: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        for name in ("outputs", "originals", "facts"):
            given = getattr(self, name)
            if not isinstance(given, OnDevice):
                object.__setattr__(self, name, MappingProxyType(dict(given)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            dict(self.outputs),
            dict(self.originals),
            self.workload,
            self.many,
            self.probabilities,
            self.class_names,
            dict(self.facts),
            self.computed,
        )

    @property
    def expected_quality(self) -> float | None:
        """The structural similarity to the exact heatmap that the plan's profile lets expect on
        95 % of images; 1 for an exact plan, None where nothing is known."""
        found = self.facts.get("expected_quality")
        return None if found is None else float(found)

    @property
    def measured(self) -> Mapping[str, Any] | None:
        """What ``run(verify=...)`` measured of an approximate plan's error; else None.

        ``samples``: positions that were computed exactly, of each image. ``mean_error`` and
        ``max_error``: of the predicted class's score there. ``range``: of its exact score there.
        ``rank_correlation``: Spearman's, there. ``ssim``: mean structural similarity over sampled
        windows of 11x11 cells, an unbiased estimate; None for fewer than 121 samples.
        """
        return self.facts.get("measured")

    @property
    def device_outputs(self) -> Mapping[str, Any]:
        """The outputs where they were computed: CuPy arrays after a run on a GPU, which torch reads
        by ``torch.from_dlpack``; else the NumPy arrays of ``outputs``, which copies them."""
        return self.outputs.arrays if isinstance(self.outputs, OnDevice) else self.outputs

    @property
    def scores(self) -> Array:
        """The first output's values, (positions, outputs...) or (N, positions, outputs...)."""
        return self.outputs[next(iter(self.outputs))]

    @property
    def original(self) -> Array:
        """The first output's values for the untouched image, (outputs...) or (N, outputs...)."""
        return self.originals[next(iter(self.originals))]

    def heatmap(
        self, target: Target = None, probability: bool = False, output: str | None = None
    ) -> Array:
        """The target's score at each cell of the grid; low where the hidden part mattered.

        Args:
            target: number or name of a class, or one number per axis of the output. None: the class
                with the highest score for the untouched image, for each image its own.
            probability: the softmax over the output's last axis instead of the score itself.
            output: name of the output. None: the first.

        Returns:
            float32 of the grid's shape, or (N, grid...); NaN in cells without a query.

        Raises:
            ArgumentError: for an unknown output or target, and where the positions lie on no grid.
        """
        placed = self.workload
        if placed.grid is None or placed.cells is None:
            accepted = "positions on a grid; scores and attribution() work without one"
            raise ArgumentError("workload", "positions that lie on no grid", accepted)
        values, _ = self._target_scores(target, probability, output)
        found = np.full((len(values), int(np.prod(placed.grid))), np.nan, dtype=np.float32)
        found[:, placed.cells] = values
        found = found.reshape(-1, *placed.grid)
        return found if self.many else found[0]

    def attribution(
        self, target: Target = None, probability: bool = False, output: str | None = None
    ) -> Array:
        """How much each element of the input mattered to the target's score, as Captum averages it.

        The mean over the windows that hide an element of the untouched score minus the score under
        that window.

        Args:
            target: as for :meth:`heatmap`.
            probability: as for :meth:`heatmap`.
            output: as for :meth:`heatmap`.

        Returns:
            float32 of the input's shape without the batch axis, or (N, shape...); NaN where no
            window hides the element.

        Raises:
            ArgumentError: for an unknown output or target.
        """
        drops = np.atleast_2d(self.drops(target, probability, output))
        weights = painted(self.workload, np.ones(len(self.workload)))
        found = np.full((len(drops), *self.workload.shape), np.nan, dtype=np.float32)
        for image, drop in enumerate(drops):
            total = painted(self.workload, drop)
            np.divide(total, weights, out=found[image], where=weights > 0, casting="same_kind")
        return found if self.many else found[0]

    def drops(
        self, target: Target = None, probability: bool = False, output: str | None = None
    ) -> NDArray[np.float64]:
        """By how much each query lowers the target's score, (positions) or (N, positions).

        Takes what :meth:`heatmap` takes, and raises what it raises of targets and outputs.
        """
        values, original = self._target_scores(target, probability, output)
        found = original[:, None] - values
        return found if self.many else found[0]

    def predicted(self, output: str | None = None) -> NDArray[np.int64]:
        """Class with the highest score for the untouched image, shape () or (N,)."""
        _, original = self._output(output)
        best = np.asarray(original.reshape(len(original), -1).argmax(axis=1), dtype=np.int64)
        return best if self.many else best.reshape(())

    def class_name(self, number: int) -> str:
        """The name of a class, or its number as text where it has none."""
        return self.class_names[number] if number < len(self.class_names) else str(number)

    def summary(self) -> dict[str, Any]:
        """What a person asks first, as plain values for JSON; one entry per image in ``images``."""
        grid = self.workload.grid
        images = []
        _, original = self._output(None)
        scores, _ = self._target_scores(None, False, None)
        for number, best in enumerate(np.atleast_1d(self.predicted())):
            lowest = int(np.nanargmin(scores[number])) if np.isfinite(scores[number]).any() else 0
            images.append(
                {
                    "class": int(best),
                    "class_name": self.class_name(int(best)),
                    "score": float(original[number].reshape(-1)[best]),
                    "lowest_score": float(scores[number, lowest]),
                    "lowest_at": self.workload.starts[lowest].tolist(),
                }
            )
        return {
            "positions": len(self.workload),
            "grid": None if grid is None else list(grid),
            "input": list(self.workload.shape),
            "outputs": {
                name: list(values.shape[1 + self.many :]) for name, values in self.outputs.items()
            },
            "images": images,
            **self.facts,
        }

    def to_npz(self, path: str | PathLike[str]) -> None:
        """Write scores, originals and window starts to a NumPy archive.

        Arrays: ``scores`` and ``original`` of the first output, ``scores.NAME`` and
            ``original.NAME``
        of further ones, ``starts`` (positions, axes), ``grid``, and ``cells`` where there is a
        grid, and ``computed`` where some were not.
        """
        arrays: dict[str, Any] = {"starts": self.workload.starts}
        for number, name in enumerate(self.outputs):
            suffix = f".{name}" if number else ""
            arrays[f"scores{suffix}"] = self.outputs[name]
            arrays[f"original{suffix}"] = self.originals[name]
        if self.workload.grid is not None and self.workload.cells is not None:
            arrays["grid"] = np.array(self.workload.grid)
            arrays["cells"] = self.workload.cells
        if self.computed is not None:
            arrays["computed"] = self.computed
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    def _output(self, name: str | None) -> tuple[Array, Array]:
        """Scores and originals of one output, led by the axis of images."""
        name = next(iter(self.outputs)) if name is None else name
        if name not in self.outputs:
            raise ArgumentError("output", repr(name), ", ".join(map(repr, self.outputs)))
        scores, original = self.outputs[name], self.originals[name]
        return (scores, original) if self.many else (scores[None], original[None])

    def _target_scores(
        self, target: Target, probability: bool, output: str | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The target's scores (N, positions) and its score for the untouched image (N,)."""
        scores, original = self._output(output)
        if probability and not self.probabilities:
            if original.ndim == 1:
                raise ArgumentError("probability", "a model with one number as output", "classes")
            scores, original = _softmax(scores), _softmax(original)
        scores = scores.reshape(*scores.shape[:2], -1)
        original = original.reshape(len(original), -1)
        chosen = self._chosen(target, output)
        images = np.arange(len(original))
        return (
            scores[images, :, chosen].astype(np.float64),
            original[images, chosen].astype(np.float64),
        )

    def _chosen(self, target: Target, output: str | None) -> NDArray[np.int64]:
        """For each image the target's number among the output's values, row-major."""
        if target is None:
            return np.atleast_1d(self.predicted(output))
        _, original = self._output(output)
        return np.full(len(original), self._column(target, original.shape[1:]), dtype=np.int64)

    def target_class(self, target: Target = None, output: str | None = None) -> int:
        """The number of the class that a target means for the first image."""
        return int(self._chosen(target, output)[0])

    def _column(self, target: int | str | Sequence[int], extents: tuple[int, ...]) -> int:
        """Number of the target among an output's values, row-major."""
        if isinstance(target, str):
            if target not in self.class_names:
                known = ", ".join(self.class_names[:20]) or "a number, since classes have no names"
                raise ArgumentError("target", repr(target), known)
            target = self.class_names.index(target)
        index = (target,) if isinstance(target, (int, np.integer)) else tuple(target)
        if len(index) != len(extents) or not all(
            -n <= i < n for i, n in zip(index, extents, strict=True)
        ):
            accepted = f"{len(extents)} number(s) within an output of shape {extents}"
            raise ArgumentError("target", repr(target), accepted)
        wrapped = [int(i) % n for i, n in zip(index, extents, strict=True)]
        return int(np.ravel_multi_index(wrapped, extents)) if extents else 0


def _softmax(values: Array) -> Array:
    wide = values.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def painted(placed: Placed, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each element of the input the sum of the values of the queries that replace it.

    Queries of one box are added as differences at the box's corners and summed up along every axis,
    so that the work is that of the input's size and not of the windows' areas. Queries of several
    boxes, which may overlap, are painted one by one; so are values that are not finite, which sums
    of differences would spread.
    """
    count = np.bincount(placed.query, minlength=len(placed))
    painted = (count > 1) | ~np.isfinite(values)
    boxes = ~painted[placed.query]
    rank = len(placed.shape)
    corners = np.zeros([n + 1 for n in placed.shape])
    lo, hi, value = placed.lo[boxes], placed.hi[boxes], values[placed.query[boxes]]
    for ends in itertools.product((0, 1), repeat=rank):
        at = np.where(np.array(ends, dtype=bool), hi, lo)
        np.add.at(corners, tuple(at.T), value * (-1.0) ** sum(ends))
    for axis in range(rank):
        np.cumsum(corners, axis=axis, out=corners)
    total = corners[tuple(slice(n) for n in placed.shape)].copy()
    for query in np.flatnonzero(painted):
        total[placed.mask(int(query))] += values[query]
    return total

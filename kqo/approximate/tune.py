"""``CompiledPlan.tune``: what settings reach on sample images, measured side by side.

The exact plan, and the plan cut in each way (clipped to a tau, or to what changed by more than a
threshold, or both), answer every query of every image. What a drill-down of such a plan would give
follows from that without running it, since it asks a part of the same queries: all steps, shares
and estimates are looked at for the price of one run. Its time is fitted: a line through the times
of two drill-downs by their number of queries.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from kqo.approximate.asking import Asking, Planned, check_grid
from kqo.approximate.grid import CoarseGrid
from kqo.approximate.guess import SHARES, Guess, tranches
from kqo.approximate.interpolate import Values
from kqo.approximate.quality import has_ssim, ssim
from kqo.approximate.refine import rounds
from kqo.approximate.settle import fingerprint
from kqo.errors import ArgumentError
from kqo.planner.shrink import measured
from kqo.profile import Drill, Point, Profile, Setting, reached
from kqo.runtime.engine import Engine, Progress
from kqo.runtime.progress import ProgressBar
from kqo.runtime.result import Result

TAUS = (0.5, 0.7, 0.9)
THRESHOLDS = (0.1, 0.02, 0.3, 0.05)
"""Ways to cut regions, what is most likely to pay first: a short budget leaves out the last."""
PAIRS = 2
"""Thresholds that are tried with the best tau."""
HARMLESS = 0.9
"""Similarity of each image from which on a tau and a threshold are worth trying together."""
STEPS = {"score": (2, 3, 4), "error": (2, 3, 4, 5)}
"""Steps that are looked at, by the order of the other cells."""
PARTS = (0, 1, 2, 4, 6, 9, 13)
"""Shares that are looked at, by their number in ``SHARES``."""
UNTILS = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Estimated similarities that are looked at, with the order by error."""
TIMED = ((4, 0.0), (2, 0.3))
"""Steps and shares of the drill-downs whose time is taken."""
TIMED_IMAGES = 3


class Tunable(Planned, Protocol):
    """A compiled plan that can be planned again with other approximations."""

    def approximated(self, *, tau: float = 1.0, threshold: float = 0.0) -> Tunable:
        """The same without other approximations."""

    def run(self, image: Any, *others: Any, progress: Progress | None = None) -> Result:
        """All queries of an image."""


@dataclass
class _Seen:
    """What a setting did on each image."""

    similarities: list[float] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Truth:
    """One image's exact heatmap of drops (grid), and the class whose it is."""

    heatmap: Values
    target: int


def drops(result: Result, target: int) -> Values:
    """By how much a class's score falls at each cell of the grid.

    Similarity is that of drops, whose zero means something, and not of scores, which would have it
    near 1 wherever a score is far from 0.
    """
    original = float(result.original.reshape(-1)[target])
    return original - result.heatmap(target).astype(np.float64)


def tune_plan(
    plan: Tunable,
    images: Sequence[Any],
    *,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure what approximations reach on sample images of the kind that the plan is for.

    Nothing of the plan's own approximations has a part in it. What is promised for other images
    is said by :func:`kqo.profile.reached`; take 20 images or more.

    Args:
        images: each (C, H, W), or a tuple of the model's inputs.
        seconds: that it may take; images and ways to cut are left out where they would not fit,
            but the first image. None: as long as it takes.
        progress: called with queries answered and their total, in place of a bar.

    Raises:
        ArgumentError: no images; a workload whose heatmaps are no grid of 11x11 cells or more;
            values that are not finite.
    """
    began = time.perf_counter()
    grid = check_grid(plan.placed)
    if not has_ssim(grid):
        accepted = "positions on a grid of two axes of at least 11, whose similarity is known"
        raise ArgumentError("workload", f"a grid of shape {grid}", accepted)
    if not len(images):
        raise ArgumentError("images", "none", "at least one")
    if seconds is not None and not seconds > 0:
        raise ArgumentError("seconds", seconds, "a positive number, or None")
    given = [image if isinstance(image, tuple) else (image,) for image in images]
    tuner = _Tuner(plan, given, began, seconds)
    thresholds = THRESHOLDS if tuner.measures() else ()
    passes = 1 + len(TAUS) + len(thresholds) + (PAIRS if thresholds else 0)
    total = passes * len(given) * len(plan.placed)
    with ProgressBar(plan.options.progress, total, progress) as bar:
        tuner.look(Setting(), bar)
        for tau, threshold in itertools.zip_longest(TAUS, thresholds):
            if threshold is not None and tuner.has_time():
                tuner.look(Setting(threshold=threshold), bar)
            if tau is not None and tuner.has_time():
                tuner.look(Setting(tau), bar)
        for cut in tuner.pairs():
            if tuner.has_time():
                tuner.look(cut, bar)
    return tuner.profile()


class _Tuner:
    def __init__(
        self, plan: Tunable, images: list[tuple[Any, ...]], began: float, seconds: float | None
    ) -> None:
        self.plan = plan
        self.images = images
        self.ends = math.inf if seconds is None else began + seconds
        self.began = began
        grid = check_grid(plan.placed)
        self.coarse = {s: CoarseGrid(grid, s) for steps in STEPS.values() for s in steps}
        self.truths: list[_Truth] = []
        self.exact_seconds = 0.0
        self.pass_seconds = 0.0
        self.passes = 0
        self.points: list[Point] = []

    def has_time(self) -> bool:
        """Whether another way to cut is expected to fit."""
        return time.perf_counter() + self.pass_seconds <= self.ends

    def measures(self) -> bool:
        """Whether a threshold makes a difference: on a processor, and with stages to cut behind."""
        if not isinstance(self.plan.engine, Engine):
            return False
        made = self.plan.approximated(threshold=THRESHOLDS[0])
        return isinstance(made.engine, Engine) and bool(measured(made.engine.plan))

    def pairs(self) -> list[Setting]:
        """The fastest tau that does little harm, with the fastest thresholds that do little."""
        good = [
            point
            for point in sorted(self.points, key=lambda p: -p.speedup)
            if not point.setting.drills and min(point.similarities) >= HARMLESS
        ]
        taus = [p.setting.tau for p in good if p.setting.tau < 1]
        thresholds = [p.setting.threshold for p in good if p.setting.threshold]
        return [Setting(tau, threshold=t) for tau in taus[:1] for t in thresholds[:PAIRS]]

    def look(self, cut: Setting, bar: ProgressBar) -> None:
        """Run all images with regions cut one way, and note all settings with it."""
        started = time.perf_counter()
        made = self.plan.approximated(tau=cut.tau, threshold=cut.threshold)
        exact = cut == Setting()
        seen: dict[Setting, _Seen] = {}
        times = []
        for number, image in enumerate(self.images):
            bar.start((self.passes * len(self.images) + number) * len(self.plan.placed))
            result = made.run(*image, progress=bar.update)
            if number == 0:  # its row numbers are there now
                result = made.run(*image)
            times.append(float(result.facts["seconds"]))
            if exact:
                self._note_truth(result)
            self._note(seen, cut, self.truths[number], result)
            # A quarter of the time for the exact heatmaps, without which there is nothing else.
            late = time.perf_counter() - self.began > 0.25 * (self.ends - self.began)
            if exact and late:
                self.images = self.images[: number + 1]
                break
        self.passes += 1
        each = statistics.median(times)
        if exact:
            self.exact_seconds = each
        self._price(seen, made, each)
        self.pass_seconds = time.perf_counter() - started

    def _note_truth(self, result: Result) -> None:
        target = int(result.predicted())
        heatmap = drops(result, target)
        if not np.isfinite(heatmap).all():
            raise ArgumentError("images", "values that are not finite", "finite values")
        self.truths.append(_Truth(heatmap, target))

    def _note(
        self, seen: dict[Setting, _Seen], cut: Setting, truth: _Truth, result: Result
    ) -> None:
        """Similarity and queries of all settings that cut this way, for one image."""
        whole = drops(result, truth.target)

        def note(setting: Setting, similarity: float, queries: int) -> None:
            found = seen.setdefault(setting, _Seen())
            found.similarities.append(similarity)
            found.queries.append(queries)

        similar = 1.0 if cut == Setting() else ssim(whole, truth.heatmap)
        note(cut, similar, whole.size)
        if not isinstance(self.plan.engine, Engine):
            return
        for order, steps in STEPS.items():
            for step in steps:
                base = replace(cut, step=step, order=order)
                drilled = _Drilled(self.coarse[step], order, whole, truth.heatmap)
                for part in PARTS:
                    setting = replace(base, share=float(SHARES[part]))
                    note(setting, *drilled.after(part))
                for until in UNTILS if order == "error" else ():
                    part = next(n for n in range(len(SHARES)) if drilled.estimate(n) >= until)
                    note(replace(base, until=until), *drilled.after(part))

    def _price(self, seen: dict[Setting, _Seen], made: Tunable, whole: float) -> None:
        """The points of the settings that cut one way, with their speed."""
        base, each = (0.0, 0.0)
        if any(setting.drills for setting in seen):
            base, each = self._line(made)
        for setting, found in seen.items():
            queries = statistics.fmean(found.queries)
            taken = base + each * queries if setting.drills else whole
            speedup = self.exact_seconds / max(taken, 1e-9)
            self.points.append(Point(setting, tuple(found.similarities), speedup, queries))

    def _line(self, made: Tunable) -> tuple[float, float]:
        """Seconds of a drill-down: of none of its queries, and of each."""
        pairs = []
        for step, share in TIMED:
            for number, image in enumerate(self.images[:TIMED_IMAGES]):
                inputs, _ = made._inputs(image)
                for _ in range(2 if number == 0 else 1):
                    began = time.perf_counter()
                    asking = Asking(made, inputs[0], self.truths[number].target)
                    drill = Drill(step, share, order="error")
                    for _ in rounds(asking, drill, size=None, deadline=None):
                        pass
                    count = int(asking.known.sum())
                    asking.outputs()
                    taken = time.perf_counter() - began
                pairs.append((count, taken))
        queries, taken_by = np.array(pairs, dtype=np.float64).T
        centred = queries - queries.mean()
        slope = float(centred @ taken_by / (centred @ centred)) if centred.any() else 0.0
        slope = max(slope, 0.0)
        return max(0.0, float(taken_by.mean()) - slope * float(queries.mean())), slope

    def profile(self) -> Profile:
        """What was measured, the front of it."""
        plan = self.plan
        return Profile(
            plan.name,
            fingerprint(plan.logical),
            plan.workload.to_dict(),
            check_grid(plan.placed),
            len(self.truths),
            self.exact_seconds,
            front(self.points),
            {"threads": str(getattr(plan.engine, "workers", 1)), "target": plan.options.target},
        )


class _Drilled:
    """What a drill-down would give of an image whose answers are all known.

    Args:
        coarse: its coarse grid.
        order: of the other cells.
        whole: drops that the plan computes (grid).
        truth: exact drops (grid).
    """

    def __init__(self, coarse: CoarseGrid, order: str, whole: Values, truth: Values) -> None:
        self._truth = truth
        self._drops = whole.ravel()
        self._known = np.zeros(whole.size, dtype=np.bool_)
        self._known[coarse.cells] = True
        self._parts = tranches(
            self._guess,
            coarse.distances,
            first=len(coarse.cells),
            order=order,
            share=1.0,
            until=None,
        )
        self._found = [self._guess()]
        self._estimates: dict[int, float] = {}
        self._after: dict[int, tuple[float, int]] = {}

    def _guess(self) -> Guess:
        # Of scores, up to their sign and what the untouched image has: the lowest come first.
        return Guess(-self._drops, self._known.copy(), self._truth.shape)

    def _at(self, part: int) -> Guess:
        while len(self._found) <= part:
            self._known[next(self._parts, np.zeros(0, dtype=np.int64))] = True
            self._found.append(self._guess())
        return self._found[part]

    def estimate(self, part: int) -> float:
        """The similarity that is estimated when so many of ``SHARES`` were asked."""
        if part not in self._estimates:
            self._estimates[part] = self._at(part).similarity()
        return self._estimates[part]

    def after(self, part: int) -> tuple[float, int]:
        """The similarity that there is then, and the number of queries."""
        if part not in self._after:
            found = self._at(part)
            map_ = -found.values.reshape(self._truth.shape)
            self._after[part] = ssim(map_, self._truth), int(found.known.sum())
        return self._after[part]


def front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other one beats in quality and speed: the Pareto front.

    The exact plan is the first of them; then the best quality comes first.
    """
    quality = {point: reached(point.similarities) for point in points}
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.setting != Setting(), -quality[p], -p.speedup)):
        if not kept or point.speedup > kept[-1].speedup:
            kept.append(point)
    return tuple(kept)

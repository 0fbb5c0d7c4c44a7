"""Profiles: what settings of approximate plans reach on sample images, and choosing among them.

A profile is measured by ``kqo tune`` for one model and one workload. It holds the settings that no
other one beats in both quality and speed (the Pareto front), with what each reached on each image.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kqo.errors import ArgumentError, ProfileError

FORMAT = "kqo-profile"
VERSION = 3
CONFIDENCE = 0.95
"""Share of other images on which a setting is expected to reach its stated quality."""
MOST_BYTES = 16 << 20
ORDERS = ("score", "error")
"""By what the cells outside of a coarse grid are ranked."""
COARSE, GRADIENT = "coarse", "gradient"
"""First stages of a drill-down."""
Threshold = float | Mapping[str, float]
"""Of what changed, in standard deviations: for all layers, or by the name of the layer."""


@dataclass(frozen=True)
class Drill:
    """How a drill-down chooses the cells that are asked.

    Attributes:
        step: of the coarse grid, in cells of the wanted one.
        share: of the cells outside of the coarse grid that are asked, at most.
        until: the estimated similarity that is enough; None: all of the share.
        order: ``"score"``, the lowest interpolated scores first; ``"error"``, where the
            interpolated heatmap is most in doubt.
        first: ``"coarse"``, a coarse grid is asked first; ``"gradient"``, none is, and the
            gradient of the score times the change says what is worth asking.

    Raises:
        ArgumentError: for a value that is not accepted.
    """

    step: int = 1
    share: float = 1.0
    until: float | None = None
    order: str = ORDERS[0]
    first: str = COARSE

    def __post_init__(self) -> None:
        if not (_whole(self.step) and self.step >= 1):
            raise ArgumentError("step", repr(self.step), "a number of cells from 1 on")
        if not (_number(self.share) and 0 <= self.share <= 1):
            raise ArgumentError("share", repr(self.share), "a number from 0 to 1")
        if self.until is not None and not (_number(self.until) and 0 < self.until <= 1):
            accepted = "a similarity above 0 and at most 1, or None"
            raise ArgumentError("until", repr(self.until), accepted)
        if self.order not in ORDERS:
            raise ArgumentError("order", repr(self.order), ", ".join(map(repr, ORDERS)))
        if self.first not in (COARSE, GRADIENT):
            raise ArgumentError("first", repr(self.first), f"{COARSE!r}, {GRADIENT!r}")
        coarse = self.step > 1 or self.until is not None or self.order != ORDERS[0]
        if self.first == GRADIENT and coarse:
            given = "'gradient' with a step, until or order"
            raise ArgumentError("first", given, "'coarse', since these need a coarse grid")

    @property
    def leaves_out(self) -> bool:
        """Whether some cells are not asked."""
        if self.first == GRADIENT:
            return self.share < 1
        return self.step > 1 and (self.share < 1 or (self.until is not None and self.until < 1))

    def __str__(self) -> str:
        parts = [f"step = {self.step}"] if self.first == COARSE else [f"first = {self.first}"]
        parts += [f"share = {self.share:g}"] if self.share < 1 else []
        parts += [f"until = {self.until:g}"] if self.until is not None else []
        parts += [f"order = {self.order}"] if self.order != ORDERS[0] else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Setting:
    """Parameters of an approximate plan; by default all neutral, which is exact.

    Attributes:
        tau: share of each extent that projective fields are clipped to.
        step: as of :class:`Drill`, and so are share, until and order.
        share: of the cells outside of the coarse grid that are asked, at most.
        until: the estimated similarity that is enough; None: all of the share.
        threshold: of the change behind pooling and residual blocks, in standard deviations.
        order: by what cells are ranked.

    Raises:
        ArgumentError: for a value that is not accepted.
    """

    tau: float = 1.0
    step: int = 1
    share: float = 1.0
    until: float | None = None
    threshold: float = 0.0
    order: str = ORDERS[0]

    def __post_init__(self) -> None:
        _ = self.drill
        check_threshold(self.threshold)
        if not (_number(self.tau) and 0 < self.tau <= 1):
            raise ArgumentError("tau", repr(self.tau), "a number above 0 and at most 1 (exact)")

    @property
    def drill(self) -> Drill:
        """How its drill-down chooses cells."""
        return Drill(self.step, self.share, self.until, self.order)

    @property
    def drills(self) -> bool:
        """Whether some cells are not asked."""
        return self.drill.leaves_out

    def __str__(self) -> str:
        parts = [] if self.tau == 1 else [f"tau = {self.tau:g}"]
        parts += [f"threshold = {self.threshold:g}"] if self.threshold else []
        parts += [str(self.drill)] if self.drills else []
        return ", ".join(parts) or "exact"


def check_threshold(given: object) -> None:
    """ArgumentError for a threshold, or one by layer, that is not accepted."""
    values = given.values() if isinstance(given, Mapping) else (given,)
    named = not isinstance(given, Mapping) or all(isinstance(name, str) for name in given)
    if not named or not all(_number(v) and v >= 0 for v in values):  # type: ignore[operator]
        accepted = "a number from 0 (exact), or such numbers by the name of a layer"
        raise ArgumentError("threshold", repr(given), accepted)


@dataclass(frozen=True)
class Point:
    """A setting and what it reached.

    Attributes:
        setting: the setting.
        similarities: structural similarity to the exact heatmap on each sample image.
        speedup: over the exact plan, measured in the same run.
        queries: mean number of queries asked of an image.
    """

    setting: Setting
    similarities: tuple[float, ...]
    speedup: float
    queries: float

    @property
    def quality(self) -> float:
        """The similarity that other images reach in :data:`CONFIDENCE` of the cases."""
        return reached(self.similarities)

    @property
    def mean(self) -> float:
        """The mean similarity."""
        return math.fsum(self.similarities) / len(self.similarities)


def reached(similarities: Sequence[float]) -> float:
    """What another image reaches with probability :data:`CONFIDENCE`, going by a sample.

    The lower of two: Student's prediction limit on -log(1 - similarity), and, whatever the
    distribution, an order statistic: of n exchangeable images and one more, the one more is below
    the k-th lowest of the n with probability k / (n + 1) (Wilks 1941), from 19 images on. For fewer
    the lowest. One of them alone promises too much for a setting that is the fastest of many: of
    settings that were so chosen on 20 images one in seven kept it on less than 90 % of others.

    Args:
        similarities: at most 1; at least one.
    """
    count, lowest = len(similarities), min(similarities)
    k = max(1, math.floor((1 - CONFIDENCE) * (count + 1)))
    ranked = sorted(similarities)[k - 1]
    if lowest == max(similarities):
        return lowest
    from scipy.stats import t

    logs = [-math.log(max(1 - value, 1e-6)) for value in similarities]
    mean = math.fsum(logs) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in logs) / (count - 1))
    limit = mean - float(t.ppf(CONFIDENCE, count - 1)) * deviation * math.sqrt(1 + 1 / count)
    return max(-1.0, min(ranked, 1 - math.exp(-limit)))  # no similarity is lower


@dataclass(frozen=True)
class Expected:
    """What a profile lets expect of a plan's results.

    Attributes:
        quality: the similarity that is expected to be reached in :data:`CONFIDENCE` of the cases.
        mean: the mean similarity of the sample images.
        speedup: over the exact plan.
        images: number of sample images.
    """

    quality: float
    mean: float
    speedup: float
    images: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Expected | None:
        """From plain values; ValueError or KeyError for others. None stays None."""
        if values is None:
            return None
        return cls(
            _real(values["quality"], -1, 1),
            _real(values["mean"], -1, 1),
            _real(values["speedup"], 1e-6, 1e9),
            int(_real(values["images"], 1, 1e9)),
        )

    def __str__(self) -> str:
        return (
            f"SSIM {self.quality:.3f} or more on {CONFIDENCE:.0%} of images like the {self.images} "
            f"of the profile (mean {self.mean:.3f}), {self.speedup:.1f}x over exact"
        )


@dataclass(frozen=True)
class Profile:
    """What settings reached on sample images of one model and workload.

    Attributes:
        model: name of the model.
        digest: of the model's plan and weights.
        workload: as ``to_dict`` of the workload gives it.
        grid: shape of heatmaps.
        images: number of sample images.
        seconds: of the exact plan for an image, median.
        points: the Pareto front, the most similar first; the exact plan is the first of them.
        machine: what it was measured on, for the reader.

    Raises:
        ArgumentError: no points, or points of other numbers of images.
    """

    model: str
    digest: str
    workload: Mapping[str, Any]
    grid: tuple[int, ...]
    images: int
    seconds: float
    points: tuple[Point, ...]
    machine: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.points or self.images < 1:
            raise ArgumentError("points", "none", "at least one point, of at least one image")
        for point in self.points:
            if len(point.similarities) != self.images:
                given = f"{len(point.similarities)} similarities"
                raise ArgumentError("points", given, f"{self.images}, one for each image")

    def expected(self, point: Point) -> Expected:
        """What one of the points lets expect."""
        return Expected(point.quality, point.mean, point.speedup, self.images)

    def for_quality(self, quality: float) -> Point:
        """The fastest point that is expected to reach a similarity.

        Raises:
            ArgumentError: none does.
        """
        good = [p for p in self.points if p.quality >= quality]
        if not good:
            best = max(self.points, key=lambda p: p.quality)
            accepted = f"at most {best.quality:.3f}, which {best.setting} reaches"
            raise ArgumentError("quality", quality, accepted)
        return max(good, key=lambda p: p.speedup)

    def for_speedup(self, speedup: float) -> Point:
        """The point of the best quality that is fast enough.

        Raises:
            ArgumentError: none is.
        """
        good = [p for p in self.points if p.speedup >= speedup]
        if not good:
            best = max(self.points, key=lambda p: p.speedup)
            accepted = f"at most {best.speedup:.1f}, with {best.setting}, SSIM {best.quality:.3f}"
            raise ArgumentError("speedup", speedup, accepted)
        return max(good, key=lambda p: p.quality)

    def check(self, digest: str, workload: Mapping[str, Any]) -> None:
        """ProfileError for another model or workload than the one that was measured."""
        hint = "kqo tune measures a profile for this one"
        if digest != self.digest:
            raise ProfileError(
                f"profile: made for another model, {self.model}, or under other normalize rules",
                hint=hint,
            )
        asked = json.loads(json.dumps(workload))
        if asked != json.loads(json.dumps(self.workload)):
            other = [name for name in asked if asked[name] != self.workload.get(name)]
            what = ", ".join(other) or "kind"
            raise ProfileError(f"profile: made for another workload ({what} differs)", hint=hint)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as :meth:`from_dict` takes them."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: object) -> Profile:
        """A profile from plain values.

        Raises:
            ProfileError: values of another form or version.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ProfileError("profile: not a profile of kqo")
        if values.get("version") != VERSION:
            given = values.get("version")
            raise ProfileError(f"profile: version {given!r}; this kqo reads version {VERSION}")
        try:
            return _profile(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = " ".join(str(error).split())[:200]
            raise ProfileError(f"profile: damaged ({type(error).__name__}: {said})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile as JSON."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile.

        Raises:
            ProfileError: no such file, or no profile.
        """
        name = os.fspath(path)
        try:
            if Path(name).stat().st_size > MOST_BYTES:
                raise ProfileError(f"{name}: too long for a profile")
            values = json.loads(Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            hint = "kqo tune MODEL IMAGES... --out FILE makes one"
            raise ProfileError(f"{name}: {error.strerror}", hint=hint) from None
        except (ValueError, RecursionError):
            raise ProfileError(f"{name}: not a profile of kqo") from None
        try:
            return cls.from_dict(values)
        except ProfileError as error:
            raise ProfileError(f"{name}: {error.message}") from None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value)  # type: ignore[arg-type]


def _real(value: object, low: float, high: float) -> float:
    if not _number(value) or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{value!r} is no number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!r} is no printable text")
    return value


def _point(values: Mapping[str, Any]) -> Point:
    known = {f.name for f in fields(Setting)}
    if set(values["setting"]) != known:
        raise ValueError(f"a setting has {', '.join(sorted(known))}")
    return Point(
        Setting(**values["setting"]),
        tuple(_real(value, -1, 1) for value in values["similarities"]),
        _real(values["speedup"], 1e-6, 1e9),
        _real(values["queries"], 0, 1e12),
    )


def _profile(values: Mapping[str, Any]) -> Profile:
    if not isinstance(values["workload"], Mapping):
        raise ValueError("the workload is no mapping")
    return Profile(
        _text(values["model"]),
        _text(values["digest"]),
        dict(values["workload"]),
        tuple(int(_real(n, 1, 1e9)) for n in values["grid"]),
        int(_real(values["images"], 1, 1e9)),
        _real(values["seconds"], 0, 1e9),
        tuple(_point(point) for point in values["points"]),
        {_text(name): _text(value) for name, value in values["machine"].items()},
    )

"""What an evaluation found: one record per heatmap, and summaries over them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kqo.profile import Profile


@dataclass(frozen=True)
class Setting:
    """One way of computing heatmaps.

    Attributes:
        name: what to call it, unique in an evaluation.
        family: which ablation it belongs to: ``exact``, ``tau``, ...
        options: keyword arguments of :class:`kqo.Options`; empty for exact.
        value: its place on the ablation's axis; None where it has none.
    """

    name: str
    family: str
    options: Mapping[str, Any]
    value: float | None = None


@dataclass(frozen=True)
class Record:
    """One heatmap, by one setting.

    Attributes:
        setting: name of the setting.
        seed: of the held-out image.
        correct: whether the network classifies the image correctly.
        ssim: structural similarity to the exact heatmap.
        rank: rank correlation with the exact heatmap over its top 10 % of positions.
        pointing: whether the largest drop lies on the object; None where there is none.
        seconds: of the plan's run.
        queries: that it answered.
    """

    setting: str
    seed: int
    correct: bool
    ssim: float
    rank: float
    pointing: bool | None
    seconds: float
    queries: int


@dataclass(frozen=True)
class Summary:
    """A setting over the held-out images.

    Attributes:
        setting: the setting.
        ssim: mean structural similarity.
        worst_ssim: the lowest.
        object_ssim: mean over the images that have an object.
        worst_object_ssim: the lowest of these.
        met: share of images whose similarity is at least the evaluation's quality.
        rank: mean rank correlation.
        pointing: share of images with an object whose largest drop lies on it.
        queries: mean number of queries answered.
        ms: median milliseconds per position of the whole grid.
        speedup: over batched PyTorch on every position, measured in the same run.
    """

    setting: Setting
    ssim: float
    worst_ssim: float
    object_ssim: float
    worst_object_ssim: float
    met: float
    rank: float
    pointing: float
    queries: float
    ms: float
    speedup: float


@dataclass(frozen=True)
class Evaluation:
    """Everything found for one network on one task.

    Attributes:
        task: its name.
        network: its name.
        accuracy: of the network on the held-out images used.
        quality: the similarity that counts as met.
        positions: queries per heatmap.
        dense_ms: PyTorch's median milliseconds per position, at its best batch size.
        dense_batch: that batch size.
        error: largest difference of the first setting's scores from PyTorch's on sampled positions
            of one image, over the largest score.
        settings: what was compared, exact first.
        records: one per setting and image.
    """

    task: str
    network: str
    accuracy: float
    quality: float
    positions: int
    dense_ms: float
    dense_batch: int
    error: float
    settings: tuple[Setting, ...]
    records: tuple[Record, ...]

    def summaries(self) -> list[Summary]:
        """One summary per setting, in their order."""
        return [self._summary(setting) for setting in self.settings]

    def met(self, name: str, quality: float) -> float:
        """Share of the images on which a setting reaches a similarity."""
        return statistics.fmean(r.ssim >= quality for r in self.records if r.setting == name)

    def family(self, name: str) -> list[Summary]:
        """Summaries of one ablation."""
        return [s for s in self.summaries() if s.setting.family == name]

    def _summary(self, setting: Setting) -> Summary:
        found = [r for r in self.records if r.setting == setting.name]
        ms = 1e3 * statistics.median(r.seconds for r in found) / self.positions
        pointed = [r.ssim for r in found if r.pointing is not None] or [math.nan]
        hits = [r.pointing for r in found if r.pointing is not None]
        return Summary(
            setting,
            statistics.fmean(r.ssim for r in found),
            min(r.ssim for r in found),
            statistics.fmean(pointed),
            min(pointed),
            self.met(setting.name, self.quality),
            statistics.fmean(r.rank for r in found),
            statistics.fmean(hits) if hits else math.nan,
            statistics.fmean(r.queries for r in found),
            ms,
            self.dense_ms / ms,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Tuned:
    """A setting that a profile chose, and how it does on held-out images.

    Attributes:
        quality: the similarity asked for.
        expected: what the profile expects 95 % of images to reach.
        met: share of the held-out images on which it is reached.
        summary: of the setting on the held-out images.
    """

    quality: float
    expected: float
    met: float
    summary: Summary


def tuned_settings(profile: Profile, qualities: Sequence[float]) -> list[Setting]:
    """The settings that a profile chooses for some qualities, named by them."""
    found = []
    for quality in qualities:
        setting = profile.for_quality(quality).setting
        options: dict[str, Any] = {"step": setting.step, "share": setting.share}
        options |= {"until": setting.until, "threshold": setting.threshold}
        options |= {"approximations": {"tau": setting.tau}}
        found.append(Setting(f"for SSIM {quality:g}: {setting}", "tuned", options, quality))
    return found


def tuned(profile: Profile, held_out: Evaluation) -> list[Tuned]:
    """How the settings of :func:`tuned_settings` do on held-out images."""
    found = []
    for summary in held_out.family("tuned"):
        quality = summary.setting.value or 0.0
        expected = profile.for_quality(quality).quality
        met = held_out.met(summary.setting.name, quality)
        found.append(Tuned(quality, expected, met, summary))
    return found


def tuned_table(found: Sequence[Tuned]) -> str:
    """Markdown: one line per quality asked for."""
    head = (
        "| SSIM asked for | tuned setting | met on held-out images | SSIM, mean | worst | queries"
        " | over PyTorch |\n|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {t.quality:g} | {t.summary.setting.name.partition(': ')[2]} | {t.met:.0%}"
        f" | {t.summary.ssim:.3f} | {t.summary.worst_ssim:.3f} | {t.summary.queries:.0f}"
        f" | {t.summary.speedup:.1f}x |\n"
        for t in found
    )


def table(summaries: Sequence[Summary]) -> str:
    """Markdown: one line per setting."""
    head = (
        "| setting | SSIM, mean | worst | with an object | worst | met | rank, top 10 % | pointing"
        " | queries | ms/position | over PyTorch |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {s.setting.name} | {s.ssim:.3f} | {s.worst_ssim:.3f} | {_known(s.object_ssim, '.3f')}"
        f" | {_known(s.worst_object_ssim, '.3f')} | {s.met:.0%} | {s.rank:.3f}"
        f" | {_known(s.pointing, '.0%')} | {s.queries:.0f} | {s.ms:.3f} | {s.speedup:.1f}x |\n"
        for s in summaries
    )


def _known(value: float, form: str) -> str:
    """A figure as text; a dash where no image has an object."""
    return "–" if math.isnan(value) else format(value, form)

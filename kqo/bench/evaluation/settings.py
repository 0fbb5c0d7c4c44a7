"""What an evaluation compares: the exact plan, and ablations of each approximation."""

from __future__ import annotations

from typing import Any

from kqo.bench.evaluation.records import Setting

EXACT = Setting("exact", "exact", {})

TAUS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares that projective fields are clipped to, as in Krypton's ablation."""

THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Of the change, in standard deviations of a layer's values."""


def clipped() -> list[Setting]:
    """Projective fields clipped to tau."""
    return [Setting(f"tau {tau:g}", "tau", {"approximations": {"tau": tau}}, tau) for tau in TAUS]


def measured() -> list[Setting]:
    """What changed by less than a threshold dropped, behind pooling and residual blocks."""
    return [Setting(f"threshold {t:g}", "threshold", {"threshold": t}, t) for t in THRESHOLDS]


def refined() -> list[Setting]:
    """Drill-down from every third position, by the share of the others that is asked."""
    shares = (0.0, 0.1, 0.25, 0.4, 0.6)
    return [Setting(f"r {r:g} (step 3)", "r", {"step": 3, "share": r}, r) for r in shares]


def coarse() -> list[Setting]:
    """Drill-down that asks a quarter, Krypton's default, by the first step."""
    return [
        Setting(f"step {s} (r 0.25)", "step", {"step": s, "share": 0.25}, s)
        for s in (2, 3, 4, 5, 6)
    ]


def enough() -> list[Setting]:
    """Drill-down from every third position, by the estimated similarity at which it ends."""
    values = (0.5, 0.6, 0.7, 0.8, 0.9)
    return [Setting(f"until {u:g} (step 3)", "until", {"step": 3, "until": u}, u) for u in values]


def combined() -> list[Setting]:
    """Krypton's settings for its images of retinas (r = 0.1) and its default, and an estimated
    similarity, with regions cut by tau, by what changed, and by both."""
    cuts: dict[str, dict[str, Any]] = {
        "tau 0.5": {"approximations": {"tau": 0.5}},
        "threshold 0.2": {"threshold": 0.2},
        "tau 0.5, threshold 0.2": {"approximations": {"tau": 0.5}, "threshold": 0.2},
    }
    drills: dict[str, dict[str, Any]] = {
        "r 0.1": {"share": 0.1},
        "r 0.25": {"share": 0.25},
        "until 0.75": {"until": 0.75},
    }
    return [
        Setting(f"step 3, {asked}, {cut}", "combined", {"step": 3, **drill, **options})
        for asked, drill in drills.items()
        for cut, options in cuts.items()
    ]


FAMILIES = {
    "tau": clipped,
    "threshold": measured,
    "r": refined,
    "step": coarse,
    "until": enough,
    "combined": combined,
}
"""Groups of settings by name."""

AXES = {
    "tau": "tau: share that projective fields are clipped to",
    "threshold": "threshold: of the change, in standard deviations of the layer",
    "r": "r: share of the positions outside of the coarse grid (step 3)",
    "step": "step of the coarse grid, in positions (r = 0.25)",
    "until": "until: estimated SSIM at which refinement ends (step 3)",
}
"""The groups that are ablations of one parameter, and what the axis of their plot says."""


def settings(families: tuple[str, ...]) -> list[Setting]:
    """The exact plan, then the settings of the families."""
    return [EXACT, *(setting for family in families for setting in FAMILIES[family]())]

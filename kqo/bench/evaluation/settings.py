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


def doubted() -> list[Setting]:
    """Drill-down from every fourth position to where the heatmap is most in doubt, by the share of
    the others that is asked."""
    return [
        Setting(f"r {r:g} by error (step 4)", "error", {"step": 4, "share": r, "order": "error"}, r)
        for r in (0.0, 0.1, 0.25, 0.4, 0.6)
    ]


def enough() -> list[Setting]:
    """The same, by the estimated similarity at which it ends."""
    return [
        Setting(
            f"until {u:g} by error (step 4)", "until", {"step": 4, "until": u, "order": "error"}, u
        )
        for u in (0.6, 0.7, 0.8, 0.88, 0.95)
    ]


def first_order() -> list[Setting]:
    """The gradient times the change in place of a coarse grid, by the share that is asked."""
    return [
        Setting(f"gradient, r {r:g}", "gradient", {"first": "gradient", "share": r}, r)
        for r in (0.0, 0.1, 0.25, 0.4, 0.6)
    ]


def combined() -> list[Setting]:
    """Krypton's settings for its images of retinas (r = 0.1) and its default, and an estimated
    similarity, with regions cut by tau, by what changed, and by both."""
    cuts: dict[str, dict[str, Any]] = {
        "tau 0.5": {"approximations": {"tau": 0.5}},
        "threshold 0.2": {"threshold": 0.2},
        "tau 0.5, threshold 0.2": {"approximations": {"tau": 0.5}, "threshold": 0.2},
    }
    drills: dict[str, dict[str, Any]] = {
        "step 3, r 0.1": {"step": 3, "share": 0.1},
        "step 3, r 0.25": {"step": 3, "share": 0.25},
        "step 4, until 0.88 by error": {"step": 4, "until": 0.88, "order": "error"},
    }
    return [
        Setting(f"{asked}, {cut}", "combined", {**drill, **options})
        for asked, drill in drills.items()
        for cut, options in cuts.items()
    ]


FAMILIES = {
    "tau": clipped,
    "threshold": measured,
    "r": refined,
    "step": coarse,
    "error": doubted,
    "until": enough,
    "gradient": first_order,
    "combined": combined,
}
"""Groups of settings by name."""

AXES = {
    "tau": "tau: share that projective fields are clipped to",
    "threshold": "threshold: of the change, in standard deviations of the layer",
    "r": "r: share of the positions outside of the coarse grid (step 3)",
    "step": "step of the coarse grid, in positions (r = 0.25)",
    "error": "r: share of the positions outside of the coarse grid, by error (step 4)",
    "until": "until: estimated SSIM at which refinement ends, by error (step 4)",
    "gradient": "r: share of the positions, by gradient times change",
}
"""The groups that are ablations of one parameter, and what the axis of their plot says."""


def settings(families: tuple[str, ...]) -> list[Setting]:
    """The exact plan, then the settings of the families."""
    return [EXACT, *(setting for family in families for setting in FAMILIES[family]())]

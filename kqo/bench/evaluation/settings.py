"""What an evaluation compares: the exact plan, and ablations of each approximation."""

from __future__ import annotations

from kqo.bench.evaluation.records import Setting

EXACT = Setting("exact", "exact", {})

TAUS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares that projective fields are clipped to, as in Krypton's ablation."""


def clipped() -> list[Setting]:
    """Projective fields clipped to tau."""
    return [Setting(f"tau {tau:g}", "tau", {"approximations": {"tau": tau}}, tau) for tau in TAUS]


def refined() -> list[Setting]:
    """Drill-down from every third position, by the share of coarse positions that is refined."""
    shares = (0.0, 0.1, 0.25, 0.4, 0.6)
    return [Setting(f"r {r:g} (S1 12)", "r", {}, r, (12, r)) for r in shares]


def coarse() -> list[Setting]:
    """Drill-down that refines a quarter, Krypton's default, by the first stride."""
    return [Setting(f"S1 {s} (r 0.25)", "S1", {}, s, (s, 0.25)) for s in (8, 12, 16, 20, 24)]


def combined() -> list[Setting]:
    """Krypton's settings for its images of retinas (r = 0.1), and its default, with tau."""
    return [
        Setting(
            f"S1 {s}, r {r:g}, tau {tau:g}",
            "combined",
            {"approximations": {"tau": tau}},
            None,
            (s, r),
        )
        for s, r in ((12, 0.1), (16, 0.1), (12, 0.25), (16, 0.25))
        for tau in (0.7, 0.5)
    ]


FAMILIES = {"tau": clipped, "r": refined, "S1": coarse, "combined": combined}
"""Groups of settings by name."""

AXES = {
    "tau": "tau: share that projective fields are clipped to",
    "r": "r: share of the coarse positions that is refined (S1 = 12)",
    "S1": "S1: first stride in pixels (r = 0.25)",
}
"""The groups that are ablations of one parameter, and what the axis of their plot says."""


def settings(families: tuple[str, ...]) -> list[Setting]:
    """The exact plan, then the settings of the families."""
    return [EXACT, *(setting for family in families for setting in FAMILIES[family]())]

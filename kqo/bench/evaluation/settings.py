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
    """Krypton's settings for its images of retinas (r = 0.1), and its default, with tau."""
    drills = ({"step": 3, "share": 0.1}, {"step": 4, "share": 0.1}, {"step": 3, "share": 0.25})
    found = []
    for drill in (*drills, {"step": 3, "until": 0.7}):
        name = ", ".join(f"{'r' if k == 'share' else k} {v:g}" for k, v in drill.items())
        for tau in (0.7, 0.5):
            options = {"approximations": {"tau": tau}, **drill}
            found.append(Setting(f"{name}, tau {tau:g}", "combined", options))
    return found


FAMILIES = {"tau": clipped, "r": refined, "step": coarse, "until": enough, "combined": combined}
"""Groups of settings by name."""

AXES = {
    "tau": "tau: share that projective fields are clipped to",
    "r": "r: share of the positions outside of the coarse grid (step 3)",
    "step": "step of the coarse grid, in positions (r = 0.25)",
    "until": "until: estimated SSIM at which refinement ends (step 3)",
}
"""The groups that are ablations of one parameter, and what the axis of their plot says."""


def settings(families: tuple[str, ...]) -> list[Setting]:
    """The exact plan, then the settings of the families."""
    return [EXACT, *(setting for family in families for setting in FAMILIES[family]())]

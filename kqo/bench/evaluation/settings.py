"""What an evaluation compares: the exact plan, and ablations of each approximation."""

from __future__ import annotations

from kqo.bench.evaluation.records import Setting

EXACT = Setting("exact", "exact", {})

TAUS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares that projective fields are clipped to, as in Krypton's ablation."""


def clipped() -> list[Setting]:
    """Projective fields clipped to tau."""
    return [Setting(f"tau {tau:g}", "tau", {"approximations": {"tau": tau}}, tau) for tau in TAUS]


FAMILIES = {"tau": clipped}
"""Ablations by name."""

AXES = {"tau": "tau: share that projective fields are clipped to"}
"""What the axis of an ablation's plot says."""


def settings(families: tuple[str, ...]) -> list[Setting]:
    """The exact plan, then the settings of the families."""
    return [EXACT, *(setting for family in families for setting in FAMILIES[family]())]

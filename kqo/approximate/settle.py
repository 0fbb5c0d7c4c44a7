"""From what is asked of an approximation, a quality or a speedup, to its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from kqo.approximate.asking import check_grid
from kqo.approximate.grid import CoarseGrid, check_estimated
from kqo.errors import ArgumentError
from kqo.explain.subject import DrillDown
from kqo.ir.plan import Plan
from kqo.ir.text import format_plan
from kqo.lang.region_builtins import ends_stage
from kqo.options import Options
from kqo.profile import COARSE, GRADIENT, Expected, Profile, Setting
from kqo.runtime.planfile import checksum
from kqo.workloads import Occlusion, Placed, Regions


def fingerprint(plan: Plan) -> str:
    """A digest of a normalized plan and its weights, by which profiles know their model."""
    return checksum(format_plan(plan), "", plan.constants)


def settle(
    options: Options, plan: Plan, workload: Occlusion | Regions, placed: Placed
) -> tuple[Options, Expected | None]:
    """Options with the parameters that reach what was asked, and what they are expected to reach.

    Args:
        options: as the user gave them.
        plan: the model's, normalized.
        workload: what is asked of it.
        placed: its positions.

    Returns:
        options that name parameters only; what the profile lets expect, where there is one.

    Raises:
        ArgumentError: a quality or a speedup that cannot be reached, or that contradicts other
            options; drill-down of positions that do not fill a grid.
        ProfileError: a profile of another model or workload.
    """

    def overlaid() -> Plan:
        return workload.apply(plan)

    if options.profile is None and options.quality is None and options.speedup is None:
        return _checked(options, overlaid, placed), None
    if options.quality is not None and options.speedup is not None:
        raise ArgumentError("quality", "both quality and speedup", "one of them")
    if options.profile is None:
        return _checked(_by_queries(options, placed), overlaid, placed), None
    if options.quality is None and options.speedup is None:
        raise ArgumentError("profile", "neither quality nor speedup with it", "one of them")
    if options.approximates:
        accepted = "no tau, threshold, step, share and until, which the profile chooses"
        given = "a profile and another approximation"
        raise ArgumentError("profile", given, accepted)
    profile = options.profile
    assert isinstance(profile, Profile)
    profile.check(fingerprint(plan), workload.to_dict())
    if options.quality is not None:
        point = profile.for_quality(options.quality)
    else:
        assert options.speedup is not None
        point = profile.for_speedup(options.speedup)
    settled = _checked(with_setting(options, point.setting), overlaid, placed)
    return settled, profile.expected(point)


def stages(options: Options, placed: Placed) -> DrillDown | None:
    """The stages of a plan that leaves cells out, as ``explain`` shows them; None for others."""
    if not options.drills:
        return None
    grid = check_grid(placed)
    coarse = len(CoarseGrid(grid, options.step).cells) if options.first == COARSE else 0
    return DrillDown(options.drill, grid, coarse)


def with_setting(options: Options, setting: Setting) -> Options:
    """The options with the parameters of a setting in place of what was asked."""
    approximations = {k: v for k, v in options.approximations.items() if k != "tau"}
    if setting.tau != 1:
        approximations["tau"] = setting.tau
    return replace(
        options,
        approximations=approximations,
        step=setting.step,
        share=setting.share,
        until=setting.until,
        order=setting.order,
        first=COARSE,
        threshold=setting.threshold,
        profile=None,
        quality=None,
        speedup=None,
    )


def _checked(options: Options, overlaid: Callable[[], Plan], placed: Placed) -> Options:
    if options.measures:
        options = _measured(options, overlaid)
    if not options.drills:
        return options
    grid = check_grid(placed)
    if options.until is not None:
        check_estimated(grid)
    if options.target == "cuda":
        raise ArgumentError("target", "'cuda' with a coarse grid", "'numpy' with step above 1")
    return replace(options, target="numpy")


def _measured(options: Options, overlaid: Callable[[], Plan]) -> Options:
    """Options for a plan that drops what hardly changed, which runs on the processor."""
    if isinstance(options.threshold, Mapping):
        origins = overlaid().origins.items()
        stages = dict.fromkeys(origin.layer for node, origin in origins if ends_stage(node))
        unknown = [name for name in options.threshold if name not in stages]
        if unknown:
            accepted = f"poolings and residual sums: {', '.join(stages) or 'there are none'}"
            raise ArgumentError("threshold", f"layer {unknown[0]!r}", accepted)
    if options.target == "cuda":
        raise ArgumentError("target", "'cuda' with a threshold", "'numpy' with a threshold")
    return replace(options, target="numpy")


def _by_queries(options: Options, placed: Placed) -> Options:
    """The smallest step that asks so few queries, from the share: Krypton's section 4.2.

    Asking 1/S^2 of the queries and the share r of the others is a speedup of
    S^2 / (1 + r * (S^2 - 1)), if a query costs the same everywhere and the views nothing.
    """
    if options.quality is not None:
        raise ArgumentError(
            "quality",
            f"{options.quality:g} without a profile",
            "a quality with the profile that says which parameters reach it",
            hint="kqo tune MODEL IMAGES... --out FILE makes one; until= needs none",
        )
    assert options.speedup is not None
    if options.first == GRADIENT:
        accepted = "'coarse', whose step follows from the speedup"
        raise ArgumentError("first", "'gradient' with a speedup", accepted)
    if options.step > 1 or options.until is not None:
        accepted = "no step and until, which follow from the speedup"
        raise ArgumentError("speedup", "a speedup with step or until", accepted)
    if options.speedup <= 1:
        return replace(options, speedup=None, share=1.0)
    if options.share == 1:
        raise ArgumentError(
            "speedup",
            f"{options.speedup:g} without a profile and a share",
            "a share below 1, such as 0.1, from which the step follows, or a profile",
        )
    grid = check_grid(placed)
    count = math.prod(grid)
    best = 0.0
    for step in range(2, max(grid)):
        coarse = len(CoarseGrid(grid, step).cells)
        asked = coarse + math.ceil(options.share * (count - coarse))
        best = max(best, count / asked)
        if count / asked >= options.speedup:
            return replace(options, step=step, speedup=None)
    raise ArgumentError(
        "speedup",
        f"{options.speedup:g} with share {options.share:g}",
        f"at most {best:.1f}, or a smaller share",
    )

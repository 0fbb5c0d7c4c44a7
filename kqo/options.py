"""Options: how a plan may be computed, as one value that is stored with the plan."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike, fspath
from types import MappingProxyType
from typing import Any

from kqo.errors import ArgumentError
from kqo.profile import COARSE, ORDERS, Drill, Profile, Threshold, check_threshold

TARGETS = ("numpy", "cuda", "auto")
PRECISIONS: Mapping[str, float] = MappingProxyType({"float32": 0.0, "tf32": 5e-2, "float16": 5e-2})
"""Precisions of matrix products on a GPU, with the least tolerance that each can promise."""
APPROXIMATIONS = ("tau",)
REINFERENCE = ("auto", "never")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*\Z")
_MEMORY_ACCEPTED = "a positive number of bytes, or text such as '500MB' or '2GiB'"


def parse_memory(given: object) -> int:
    """Bytes of a memory size: a number, or text such as ``"500MB"`` (10^6) or ``"2GiB"`` (2^30).

    Raises:
        ArgumentError: for anything else, and for less than one byte.
    """
    count = 0.0
    if isinstance(given, str):
        found = _MEMORY.match(given)
        if found and not (found[3] and not found[2]):
            unit = _UNITS[found[2].upper()]
            if found[3]:
                unit = 2 ** (10 * list(_UNITS).index(found[2].upper()))
            count = float(found[1]) * unit
    elif _is_int(given):
        count = float(given)  # type: ignore[arg-type]
    if count < 1:
        raise ArgumentError("memory", repr(given), _MEMORY_ACCEPTED)
    return int(count)


def available_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def physical_memory() -> int:
    """Bytes of memory that this machine has; 64 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 64 << 30


def _is_int(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _is_number(given: object) -> bool:
    real = isinstance(given, (int, float)) and not isinstance(given, bool)
    return real and math.isfinite(given)  # type: ignore[arg-type]


def _check_count(name: str, given: object) -> None:
    if given is not None and not (_is_int(given) and given >= 1):  # type: ignore[operator]
        raise ArgumentError(name, repr(given), "a whole number from 1, or None to let kqo choose")


def _texts(name: str, given: object, accepted: str) -> tuple[str, ...]:
    if isinstance(given, (str, PathLike)) or not isinstance(given, (list, tuple)):
        raise ArgumentError(name, repr(given), accepted)
    for value in given:
        if not isinstance(value, (str, PathLike)) or not fspath(value):
            raise ArgumentError(name, repr(given), accepted)
    return tuple(fspath(value) for value in given)


@dataclass(frozen=True)
class Options:
    """How a plan may be computed.

    Attributes:
        tolerance: largest accepted difference from full re-inference, relative to the largest
            output. Forms are chosen by what they are expected to lose to rounding.
        memory: bytes that a run may use for views, row numbers and buffers; a number, or text such
            as ``"500MB"``. Batches, and then threads, are cut down to keep it; where one query at
            a time (or the batch that is asked for) takes more, planning raises an ArgumentError
            that says how much. What checks results (``verify``), or computes inputs with NaN or
            infinity again, takes memory of its own. None: chosen by the size of the layers. Held
            as a number.
        threads: worker threads. None: one per core that the process may use.
        target: ``"numpy"``, ``"cuda"``, or ``"auto"`` for the fastest that this machine has.
        approximations: parameters of approximate rules by name, such as ``{"tau": 0.8}``; a
            neutral value (tau = 1) is exact. Empty: exact rules only.
        strict: an error where a part of the model would have to run as an opaque torch call,
            instead of running it so.
        without: names of rules, or of rule families, that are not used.
        rules: directories of the user's own rule files, read after the built-in ones.
        progress: show a progress bar on stderr. None: where stderr is a terminal.
        batch: queries per batch. None: chosen by cost within the memory.
        threshold: of the change behind pooling and residual blocks, in standard deviations of the
            layer's values: what changed by less is dropped for each query as the plan runs. A
            number, or numbers by the layer's name, 0 for other layers. 0 is exact.
        step: of a coarse grid that is asked first, in cells of the wanted one; 1 for none.
        share: of the cells outside of the coarse grid that are asked then; the others are
            interpolated. 1, all, is exact.
        until: the structural similarity, estimated from the cells that were asked, with which
            fewer than the share are enough. None: the whole share.
        order: which cells those are: ``"score"``, of the lowest interpolated score; or
            ``"error"``, where the interpolated heatmap is most in doubt.
        first: ``"coarse"``, the coarse grid; or ``"gradient"``, which asks none: the gradient of
            the score times the change, from one backward pass of the torch model, ranks all cells,
            and stands where they are not asked. It needs the model, which a plan file has not.
        profile: of ``kqo tune``, or its file; it chooses tau, threshold, step, share, until and
            order. Held as a :class:`kqo.Profile`.
        quality: structural similarity to the exact heatmap that the profile's choice is to reach
            on 95 % of images.
        speedup: over the exact plan that the profile's choice is to reach. Without a profile, by
            the number of queries, from which the step follows; ``share`` says how to spend them.
        reinference: ``"auto"`` lets torch run the whole model for each query where the incremental
            plan is not predicted to be clearly faster, and the model is at hand; ``"never"`` does
            not.
        precision: on a GPU: ``"float32"``; ``"tf32"``, which rounds the inputs of matrix products
            to 10 bits of mantissa; or ``"float16"``, which stores rows and kernels in float16, with
            its range, too. Sums, and what is not a product, are in float32. NumPy computes in the
            model's own type whatever the precision.

    Raises:
        ArgumentError: for a value that is not accepted.
    """

    tolerance: float = 1e-5
    memory: int | str | None = None
    threads: int | None = None
    target: str = "numpy"
    approximations: Mapping[str, float] = field(default_factory=dict)
    strict: bool = False
    without: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    progress: bool | None = None
    batch: int | None = None
    precision: str = "float32"
    step: int = 1
    share: float = 1.0
    until: float | None = None
    profile: Profile | str | PathLike[str] | None = None
    quality: float | None = None
    speedup: float | None = None
    reinference: str = "auto"
    threshold: Threshold = 0.0
    order: str = ORDERS[0]
    first: str = COARSE

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_approximate()
        if self.memory is not None:
            object.__setattr__(self, "memory", parse_memory(self.memory))
        if self.target not in TARGETS:
            raise ArgumentError("target", repr(self.target), ", ".join(map(repr, TARGETS)))
        if self.precision not in PRECISIONS:
            raise ArgumentError("precision", repr(self.precision), ", ".join(map(repr, PRECISIONS)))
        if self.reinference not in REINFERENCE:
            accepted = ", ".join(map(repr, REINFERENCE))
            raise ArgumentError("reinference", repr(self.reinference), accepted)
        if not isinstance(self.strict, bool):
            raise ArgumentError("strict", repr(self.strict), "True or False")
        if self.progress is not None and not isinstance(self.progress, bool):
            raise ArgumentError("progress", repr(self.progress), "True, False or None")
        without = _texts("without", self.without, "a tuple of names of rules or rule families")
        object.__setattr__(self, "without", without)
        object.__setattr__(self, "rules", _texts("rules", self.rules, "a tuple of directories"))
        object.__setattr__(self, "approximations", _approximations(self.approximations))

    def _check_numbers(self) -> None:
        tolerance = self.tolerance
        number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
        if not number or not (0 < tolerance < math.inf):
            raise ArgumentError("tolerance", repr(tolerance), "a positive number, such as 1e-5")
        _check_count("threads", self.threads)
        _check_count("batch", self.batch)

    def _check_approximate(self) -> None:
        _ = self.drill  # checks them
        check_threshold(self.threshold)
        if isinstance(self.threshold, Mapping):
            frozen = MappingProxyType(dict(self.threshold))
            object.__setattr__(self, "threshold", frozen)
        if isinstance(self.profile, Mapping):
            object.__setattr__(self, "profile", Profile.from_dict(self.profile))
        elif isinstance(self.profile, (str, PathLike)):
            object.__setattr__(self, "profile", Profile.load(self.profile))
        elif self.profile is not None and not isinstance(self.profile, Profile):
            accepted = "a kqo.Profile, or the path of its file"
            raise ArgumentError("profile", repr(self.profile), accepted)
        if self.quality is not None and not (_is_number(self.quality) and 0 < self.quality <= 1):
            accepted = "a structural similarity above 0 and at most 1"
            raise ArgumentError("quality", repr(self.quality), accepted)
        if self.speedup is not None and not (_is_number(self.speedup) and self.speedup > 0):
            raise ArgumentError("speedup", repr(self.speedup), "a positive number, such as 5")

    @property
    def drill(self) -> Drill:
        """How a drill-down chooses the cells that are asked."""
        return Drill(self.step, self.share, self.until, self.order, self.first)

    @property
    def drills(self) -> bool:
        """Whether some cells of a heatmap are not asked."""
        return self.drill.leaves_out

    @property
    def approximates(self) -> bool:
        """Whether a parameter of an approximation is not neutral."""
        return self.drills or self.tau != 1 or self.measures

    @property
    def measures(self) -> bool:
        """Whether what hardly changed is dropped for some layer."""
        given = self.threshold
        return any(given.values()) if isinstance(given, Mapping) else given != 0

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of approximate rules by name."""
        measured = {"threshold": self.threshold} if self.measures else {}
        return {**self.approximations, **measured}

    @property
    def stated_tolerance(self) -> float:
        """What a plan promises: the tolerance asked for, or the least that the precision can."""
        return max(self.tolerance, PRECISIONS[self.precision])

    @property
    def memory_bytes(self) -> int | None:
        """The memory budget in bytes, None where kqo is to choose."""
        return None if self.memory is None else parse_memory(self.memory)

    @property
    def tau(self) -> float:
        """Threshold of the projective field, 1 (exact) where none was asked for."""
        return self.approximations.get("tau", 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as :meth:`from_dict` takes them."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **found,
            "approximations": dict(self.approximations),
            "without": list(self.without),
            "rules": list(self.rules),
            "threshold": dict(self.threshold)
            if isinstance(self.threshold, Mapping)
            else self.threshold,
            "profile": self.profile.to_dict() if isinstance(self.profile, Profile) else None,
        }

    def on_this_machine(self) -> Options:
        """The same with no more threads and memory than this machine has."""
        threads, memory = self.threads, self.memory_bytes
        return replace(
            self,
            threads=None if threads is None else min(threads, available_cores()),
            memory=None if memory is None else min(memory, physical_memory()),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Options:
        """Options from plain values; ArgumentError for names or values that are not accepted."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ArgumentError("options", repr(name), ", ".join(known))
        return cls(**values)

    def __hash__(self) -> int:
        return hash(
            (self.tolerance, self.memory, self.target, *sorted(self.approximations.items()))
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.to_dict(),)


def _restore(values: dict[str, Any]) -> Options:
    return Options.from_dict(values)


def _approximations(given: object) -> Mapping[str, float]:
    accepted = "a mapping from " + ", ".join(map(repr, APPROXIMATIONS)) + " to numbers"
    if not isinstance(given, Mapping):
        raise ArgumentError("approximations", repr(given), accepted)
    for name, value in given.items():
        if name not in APPROXIMATIONS:
            raise ArgumentError("approximations", repr(name), accepted)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name == "tau" and not (number and 0 < value <= 1):
            raise ArgumentError("tau", repr(value), "a number above 0 and at most 1 (exact)")
    return MappingProxyType({name: float(value) for name, value in given.items()})

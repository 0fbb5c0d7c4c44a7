"""Errors of kqo. Each names what was given, what is accepted and, where it can, a way out.

Every error that kqo raises on purpose derives from :class:`KqoError`, so that a caller can catch
one class, and the command line can print one line instead of a traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a text: file name, line and column, both counted from 1."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class KqoError(Exception):
    """Base of all errors that kqo raises on purpose.

    Args:
        message: what is wrong, in one line.
        place: where in a text it is wrong, if it is about a text.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, place: Place | None = None, hint: str = "") -> None:
        self.message = message
        self.place = place
        self.hint = hint
        head = f"{place}: {message}" if place else message
        super().__init__(f"{head} ({hint})" if hint else head)


class ArgumentError(KqoError, ValueError):
    """An argument that is not accepted: names the argument, what was given and what is accepted."""

    def __init__(self, argument: str, given: object, accepted: str, *, hint: str = "") -> None:
        self.argument = argument
        self.given = given
        super().__init__(f"{argument}: got {given}; accepted: {accepted}", hint=hint)


class UnsupportedOperator(KqoError):
    """An operator of the model that the frontend does not know."""


class ExportError(KqoError):
    """A model that torch.export cannot export, with the exporter's reason in plain words."""


class RuleError(KqoError):
    """A rule file that does not parse or does not check."""


class PlanError(KqoError):
    """A plan that is malformed: it fails the verifier, its text does not parse, or it has more rows
    than there is memory for."""


class StalePlanError(KqoError):
    """A plan whose model's weights were changed in place after it was compiled."""


class PlanFileError(KqoError):
    """A plan file that is damaged, of another version, or not a plan file at all."""


class ProfileError(KqoError):
    """A profile that is damaged, of another version, or of another model or workload."""


class DeviceError(KqoError):
    """A target that this machine does not have, that cannot run a plan, or that failed."""


class VerificationError(KqoError):
    """A result that differs from full re-inference by more than the stated tolerance."""

"""Workloads: what is asked of a model, as changes to its base relations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kqo.errors import ArgumentError
from kqo.workloads.base import Workload, unpack
from kqo.workloads.changed import changed_inputs
from kqo.workloads.occlusion import Occlusion
from kqo.workloads.placed import Placed
from kqo.workloads.regions import Regions

__all__ = ["Occlusion", "Placed", "Regions", "Workload", "changed_inputs", "from_dict"]

KINDS: dict[str, type[Occlusion] | type[Regions]] = {"occlusion": Occlusion, "regions": Regions}


def from_dict(values: Mapping[str, Any]) -> Occlusion | Regions:
    """The workload that ``to_dict`` described.

    Raises:
        ArgumentError: for an unknown kind, and for values that the kind does not accept.
    """
    given = {name: unpack(value) for name, value in values.items()}
    kind = given.pop("kind", None)
    if kind not in KINDS:
        raise ArgumentError("workload", repr(kind), ", ".join(map(repr, KINDS)))
    try:
        return KINDS[kind](**given)
    except TypeError as error:
        raise ArgumentError("workload", str(error), f"the fields of {kind}") from None

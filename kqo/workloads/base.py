"""What every workload has in common: the input it changes, its fill, and how it enters a plan."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from kqo.errors import ArgumentError
from kqo.ir.nodes import Node, Overlay, Saved, Scan
from kqo.ir.plan import Plan
from kqo.ir.region import Changed
from kqo.ir.schema import shape
from kqo.workloads.fill import Fill, check_fill_shape, fill_node
from kqo.workloads.placed import Placed


class Workload(Protocol):
    """What is asked of a model: which base relation changes, where, query by query, and to what."""

    @property
    def input(self) -> int | str:
        """The input that changes: its number, or its name."""

    @property
    def fill(self) -> Fill:
        """What stands in the changed places."""

    def resolve(self, input_shape: tuple[int, ...]) -> Placed:
        """The boxes that change in an input of this shape (channels first, no batch axis)."""

    def apply(self, plan: Plan) -> Plan:
        """The plan with the changed input in place of the input, for all its readers."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as :func:`kqo.workloads.from_dict` takes them."""


def changed_scan(plan: Plan, which: int | str) -> Scan:
    """The base relation of a plan that a workload means by ``which``; ArgumentError if none."""
    scans = {scan.name: scan for scan in plan.scans}
    inputs = plan.inputs or tuple(scans)
    if not isinstance(which, str) and 0 <= which < len(inputs):
        which = inputs[which]
    if which in scans:
        return scans[str(which)]
    if which in inputs:
        raise ArgumentError("input", repr(which), "an input that an output depends on")
    known = ", ".join(f"{number} ({name})" for number, name in enumerate(inputs))
    raise ArgumentError("input", repr(which), f"an input of the model: {known or 'it has none'}")


def overlay(plan: Plan, which: int | str, fill: Fill) -> Plan:
    """The plan in which every reader of a base relation reads its overlay with the fill instead.

    Materialized views are left as they are, since they hold what the untouched input gives.

    Raises:
        ArgumentError: where the plan has no such input, or the fill does not fit its shape.
    """
    scan = changed_scan(plan, which)
    check_fill_shape(fill, shape(scan.axes))
    taken = {*plan.constants, *plan.inputs, *(s.name for s in plan.scans)}
    patch, constants = fill_node(fill, scan, taken, plan.dtype)
    new: dict[Node, Node] = {}
    for node in plan.nodes():
        if node is scan:
            new[node] = Overlay(scan, patch, Changed(scan.name))
        elif isinstance(node, Saved) or all(new[i] is i for i in node.inputs):
            new[node] = node
        else:
            new[node] = node.with_inputs(tuple(new[i] for i in node.inputs))
    roots = tuple((name, new[root]) for name, root in plan.roots)
    origins = {new[node]: origin for node, origin in plan.origins.items() if node in new}
    return plan.with_roots(roots, constants, origins)


def check_input(given: object) -> int | str:
    """The number or name of an input; ArgumentError for anything else."""
    if isinstance(given, str) and given:
        return given
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool) and given >= 0:
        return int(given)
    raise ArgumentError("input", repr(given), "the number (from 0) or the name of an input")


def pack(value: object) -> Any:
    """A fill or an array as plain values: arrays as base64 of little-endian bytes."""
    if not isinstance(value, np.ndarray):
        return value
    kind = "<i8" if value.dtype.kind == "i" else f"<f{value.dtype.itemsize}"
    data = base64.b64encode(value.astype(kind).tobytes()).decode("ascii")
    return {"dtype": kind, "shape": list(value.shape), "data": data}


def unpack(value: Any) -> Any:
    """The inverse of :func:`pack`; ArgumentError for a packed array that is damaged."""
    if not isinstance(value, Mapping):
        return value
    try:
        if value["dtype"] not in ("<i8", "<f4", "<f8"):
            raise ValueError(value["dtype"])
        data = base64.b64decode(value["data"], validate=True)
        return np.frombuffer(data, dtype=value["dtype"]).reshape(value["shape"])
    except (KeyError, TypeError, ValueError):
        raise ArgumentError("array", "damaged data", "dtype, shape and base64 data") from None

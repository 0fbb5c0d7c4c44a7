"""What an edge of the exported graph carries while it is lowered: a relation or a constant tensor.

A relation has no order of axes that matters and no batch axis; a tensor has both. A :class:`Value`
keeps, for each dimension of the tensor, which axis of the relation it is, so that a permute is only
a reordering of names, and a dimension of extent 1 that keepdim or unsqueeze made needs no axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from kqo.ir.nodes import Node, Rekey
from kqo.ir.schema import Axis, extent_of, is_position, names

BATCH = "*"
"""Stands for the batch dimension among the dimensions of a value. No axis can have this name."""

Dim = str | None
"""A dimension: :data:`BATCH`, the name of an axis, or None for extent 1 without an axis."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that depends on the model's inputs: its relation, and the axis of each dimension."""

    node: Node
    dims: tuple[Dim, ...]

    def extent(self, dim: int) -> int:
        """Extent of a dimension other than the batch."""
        name = self.dims[dim]
        return 1 if name is None else extent_of(self.node.schema, name)


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that does not depend on the inputs: a parameter, a buffer, or made of such."""

    name: str
    tensor: Tensor


Operand = Value | Constant
Number = int | float


def position_names(rank: int) -> tuple[str, ...]:
    """Names of the positions of a tensor with ``rank`` dimensions after the channels."""
    if rank <= 3:
        return ("z", "y", "x")[3 - rank :]
    return (*(f"z{k}" for k in range(rank - 3, 0, -1)), "z", "y", "x")


def usual_names(rank: int) -> tuple[Dim, ...]:
    """Batch, channel and position names of a tensor with ``rank`` dimensions, batch included."""
    return (
        ((), (BATCH,), (BATCH, "c"))[rank] if rank < 2 else (BATCH, "c", *position_names(rank - 2))
    )


def fresh(base: str, used: Iterable[Dim]) -> str:
    """``base``, or ``base`` with the first number that is not in use."""
    taken = set(used)
    number, name = 0, base
    while name in taken:
        number += 1
        name = f"{base}{number}"
    return name


def feature(wanted: Dim, used: Iterable[Dim]) -> str:
    """A feature name that is not in use: ``wanted`` itself where it is one."""
    usable = wanted is not None and wanted != BATCH and not is_position(wanted)
    return fresh(wanted if usable and wanted else "c", used)


def rename(value: Value, new: Mapping[str, str]) -> Value:
    """The value with axes renamed, all at once; the node itself where nothing changes."""
    if all(old == name for old, name in new.items()):
        return value
    schema = value.node.schema
    axes = tuple(Axis(new.get(a.name, a.name), a.extent) for a in schema)
    dims = tuple(d if d is None else new.get(d, d) for d in value.dims)
    return Value(Rekey(value.node, names(schema), axes), dims)


def drop(value: Value, dims: Iterable[int]) -> Value:
    """The value without the axes of the given dimensions, whose extent is 1."""
    gone = {value.dims[d] for d in dims} - {None, BATCH}
    if not gone:
        return value
    schema = value.node.schema
    axes = tuple(a for a in schema if a.name not in gone)
    node = Rekey(value.node, names(schema), axes)
    return Value(node, tuple(None if d in gone else d for d in value.dims))


def give_axes(value: Value, wanted: Mapping[int, str]) -> Value:
    """The value with an axis of extent 1 for each of the given dimensions that has none."""
    new = {dim: name for dim, name in wanted.items() if value.dims[dim] is None}
    if not new:
        return value
    dims = tuple(new.get(d, name) for d, name in enumerate(value.dims))
    added = tuple(Axis(name, 1) for name in new.values())
    schema = value.node.schema
    return Value(Rekey(value.node, names(schema), (*schema, *added)), dims)


def in_order(value: Value) -> Node:
    """The relation with its axes in the order of the tensor's dimensions."""
    order = tuple(d for d in value.dims if d is not None and d != BATCH)
    schema = value.node.schema
    if names(schema) == order:
        return value.node
    return Rekey(value.node, order, tuple(Axis(n, extent_of(schema, n)) for n in order))


def as_tensor_shaped(value: Value) -> Node:
    """The relation with one axis for each dimension but the batch, in the tensor's order."""
    used = set(value.dims)
    usual = usual_names(len(value.dims))
    wanted: dict[int, str] = {}
    for d, name in enumerate(value.dims):
        if name is None:
            base = usual[d]
            wanted[d] = fresh(base if base and base != BATCH else "c", used)
            used.add(wanted[d])
    if not wanted:
        return in_order(value)
    schema = value.node.schema
    order = tuple(d for d in value.dims if d is not None and d != BATCH)
    dims = [wanted.get(d, name) for d, name in enumerate(value.dims)]
    known = {**{a.name: a.extent for a in schema}, **dict.fromkeys(wanted.values(), 1)}
    axes = tuple(Axis(n, known[n]) for n in dims if n is not None and n != BATCH)
    return Rekey(value.node, order, axes)

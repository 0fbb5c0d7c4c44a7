"""The state of one lowering, which every operator's function gets as its first argument."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx

from kqo.errors import UnsupportedOperator
from kqo.frontend.values import BATCH, Constant, Dim, Operand, Value, usual_names
from kqo.ir.nodes import Const, Node
from kqo.ir.plan import Array, Origin
from kqo.ir.schema import Axis

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH = str(PurePath(torch.__file__).parent)


class Context:
    """Constants and provenance of a plan in the making, and the graph node at hand.

    Attributes:
        batch: extent of the batch dimension in the exported graph.
        dtype: NumPy type that values are computed in.
        constants: values of the Const nodes made so far, by name.
        origins: provenance by plan node.
    """

    def __init__(self, batch: int, dtype: str) -> None:
        self.batch = batch
        self.dtype = dtype
        self.constants: dict[str, Array] = {}
        self.origins: dict[Node, Origin] = {}
        self._sources: dict[str, tuple[tuple[Any, ...], Tensor]] = {}
        self._at: fx.Node | None = None

    def enter(self, node: fx.Node) -> None:
        """Make ``node`` the graph node at hand."""
        self._at = node

    @property
    def operator(self) -> str:
        """Name of the operator at hand, such as ``aten.conv2d.default``."""
        return str(self._at.target) if self._at is not None else ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result of the operator at hand, batch included."""
        assert self._at is not None
        return tuple(int(n) for n in self._at.meta["val"].shape)

    @property
    def epsilon(self) -> float:
        """The spacing of floating-point numbers at 1."""
        return float(np.finfo(self.dtype).eps)

    def result_is(self, kind: str) -> bool:
        """Whether the operator at hand returns integers ("int") or conditions ("bool")."""
        assert self._at is not None
        dtype = self._at.meta["val"].dtype
        integer = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
        return integer if kind == "int" else dtype == torch.bool

    @property
    def name(self) -> str:
        """Name of the graph node at hand, unique in the graph."""
        assert self._at is not None
        return self._at.name

    def const(self, constant: Constant, axes: Sequence[tuple[str, int]]) -> Const:
        """A Const node over the given axes; values are shared with the tensor where types agree."""
        shape = tuple(extent for _, extent in axes)
        tensor = constant.tensor.detach()
        if tensor.is_complex():
            self.unsupported("complex numbers")
        identity = (tensor.data_ptr(), tensor.stride(), tuple(tensor.shape), shape)
        name, number = constant.name, 1
        # The tensor is kept with its address, which another one could take over if it were freed.
        while self._sources.setdefault(name, (identity, tensor))[0] != identity:
            number += 1
            name = f"{constant.name}.{number}"
        if name not in self.constants:
            self.constants[name] = to_numpy(tensor, self.dtype).reshape(shape)
        return Const(name, tuple(Axis(n, extent) for n, extent in axes))

    def constant_value(self, constant: Constant, dims: Sequence[Dim]) -> Value:
        """A constant as a value: ``dims`` names its dimensions; those of extent 1 get no axis.

        A dimension that is named as the batch must hold equal values; the first is taken.
        """
        tensor, axes, kept = constant.tensor, [], list(dims)
        for d, name in enumerate(dims):
            size = tensor.shape[d]
            if name == BATCH:
                first = tensor.narrow(d, 0, 1)
                if size != 1 and not torch.equal(first.expand_as(tensor), tensor):
                    self.unsupported("a constant that differs along the batch")
                tensor, kept[d] = first, None
            elif size == 1:
                kept[d] = None
            else:
                assert name is not None
                axes.append((name, size))
        shaped = Constant(constant.name, tensor.reshape([n for _, n in axes]))
        return Value(self.const(shaped, axes), tuple(kept))

    def as_value(self, operand: Operand) -> Value:
        """The operand as a value; a constant gets the usual names of its dimensions."""
        if isinstance(operand, Value):
            return operand
        rank = operand.tensor.dim()
        return self.constant_value(operand, usual_names(rank + 1)[1:])

    def value(self, operand: Operand, what: str = "the input") -> Value:
        """The operand, which must depend on the model's inputs."""
        if not isinstance(operand, Value):
            self.unsupported(f"{what} is a constant")
        return operand

    def constant(self, operand: Operand, what: str) -> Constant:
        """The operand, which must not depend on the model's inputs."""
        if not isinstance(operand, Constant):
            self.unsupported(f"{what} depends on the model's input")
        return operand

    def dim(self, value: Value, dim: int) -> int:
        """A dimension counted from 0, which must not be the batch."""
        found = dim % len(value.dims) if value.dims else 0
        if value.dims and value.dims[found] == BATCH:
            self.mixes_batch()
        return found

    def mixes_batch(self) -> NoReturn:
        """Fail because images of one batch would influence each other."""
        self.unsupported("it mixes the batch dimension with others")

    def unsupported(self, reason: str = "") -> NoReturn:
        """Fail with the operator at hand, its layer, and the line of the model's source."""
        why = f": {reason}" if reason else ""
        place = self.place(whole=True)
        raise UnsupportedOperator(f"operator {self.operator} in {place} is not supported{why}")

    def place(self, whole: bool = False) -> str:
        """Layer of the operator at hand and, where it is known, the line of the model's source."""
        source = self.source(whole)
        return (self.layer() or "the model itself") + (f" ({source})" if source else "")

    def layer(self) -> str:
        """Qualified name of the module that the operator belongs to; empty for the model."""
        stack = (self._at.meta.get("nn_module_stack") if self._at is not None else None) or {}
        qualified = [entry[0] for entry in stack.values() if isinstance(entry, tuple)]
        return str(qualified[-1]).removeprefix("L['self'].") if qualified else ""

    def source(self, whole: bool = False) -> str:
        """``file.py:line`` of the call that made the operator, in the model's own source."""
        trace = (self._at.meta.get("stack_trace") if self._at is not None else None) or ""
        frames = _FRAME.findall(trace)
        own = [f for f in frames if not f[0].startswith(_TORCH)] or frames
        if not own:
            return ""
        path, line = own[-1]
        return f"{path if whole else PurePath(path).name}:{line}"

    def record(self, kind: str, *made: Node) -> None:
        """Give the nodes below ``made`` that have no provenance that of the operator at hand."""
        origin = Origin(self.layer(), kind, self.source())
        todo = list(made)
        while todo:
            node = todo.pop()
            if node not in self.origins:
                self.origins[node] = origin
                todo.extend(node.inputs)


def to_numpy(tensor: Tensor, dtype: str) -> Array:
    """The tensor's values in a type, without a copy where it already has it."""
    wanted = {"float32": torch.float32, "float64": torch.float64}[dtype]
    # Of a view that is negated lazily, as z.conj().imag is, NumPy takes no memory.
    array: Array = np.asarray(tensor.detach().resolve_neg().cpu().to(wanted).numpy())
    return array

"""From a model to a logical plan: one pass over the exported graph, one function per operator."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from kqo.errors import ArgumentError, PlanError, UnsupportedOperator
from kqo.frontend import operators
from kqo.frontend.context import Context
from kqo.frontend.export import export
from kqo.frontend.opaque import HALF, Subgraph, TorchCall, grouped
from kqo.frontend.program import Program
from kqo.frontend.registry import TABLE
from kqo.frontend.values import BATCH, Constant, Dim, Value, as_tensor_shaped, usual_names
from kqo.ir.nodes import Node, Opaque, Scan
from kqo.ir.plan import Origin, Plan
from kqo.ir.schema import Axis

assert operators.LOADED, "the operators' modules register themselves when imported"

_IGNORED = (
    "aten._assert_tensor_metadata.default",
    "aten._assert_async.msg",
    "aten._assert_scalar.default",
    "aten.sym_constrain_range_for_size.default",
    "aten.sym_size.int",
)


@dataclass(frozen=True, slots=True)
class Lowered:
    """A lowered model.

    Attributes:
        plan: the logical plan; one root per tensor that the model returns.
        notes: what the reader of results should know, in sentences.
        output_names: names of the roots: "output" for a single tensor, the keys of a dict, and
            "output0", "output1", ... for the elements of a tuple.
        opaques: what torch runs, by the name of the Opaque nodes: functions of arrays (queries,
            ...) that give a tuple of such.
        weights: the model's tensors that the graph reads, by name; constants may share their
            memory.
    """

    plan: Plan
    notes: tuple[str, ...]
    output_names: tuple[str, ...]
    opaques: Mapping[str, TorchCall] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def lower(
    model: nn.Module | ExportedProgram | str | Path,
    example_inputs: tuple[Tensor, ...] | None = None,
    name: str = "",
    *,
    strict: bool = True,
) -> Lowered:
    """Lower a model to a plan that computes for one image what the model does for each of a batch.

    Nothing is folded or optimized; operators of constants only are evaluated: they relate nothing.

    Args:
        model: a module in eval mode, an ExportedProgram, or the path of a ``.pt2`` file.
        example_inputs: tensors with a leading batch dimension, which fix all other extents.
        name: of the plan; default is the class of the model, or the file's name.
        strict: an operator that has no relational form is an error. Else the largest subgraphs of
            such operators become Opaque nodes, which torch runs.

    Raises:
        ArgumentError: a model in training mode, or unusable inputs.
        ExportError: torch.export cannot export the model.
        UnsupportedOperator: an operator that the frontend does not know where ``strict``; one that
            is random, or that mixes the images of a batch.
    """
    program = export(model, example_inputs)
    name = name or _name_of(model)
    try:
        return _Lowering(program, name).run()
    except UnsupportedOperator:
        if strict:
            raise
    probe = _Lowering(program, name, refused={})
    probe.run()
    assert probe.refused is not None
    return _Lowering(program, name, schedule=grouped(program.graph, probe.refused)).run()


def _name_of(model: object) -> str:
    return Path(model).stem if isinstance(model, (str, Path)) else type(model).__name__


class _Lowering:
    """One pass over the graph of a program.

    Args:
        program: what to lower.
        name: of the plan.
        schedule: what to lower in which order; by default the nodes of the graph.
        refused: filled with operators that cannot be lowered and why, in place of failing there.
    """

    def __init__(
        self,
        program: Program,
        name: str,
        *,
        schedule: list[fx.Node | Subgraph] | None = None,
        refused: dict[fx.Node, str] | None = None,
    ) -> None:
        self.schedule = list(program.graph.nodes) if schedule is None else schedule
        self.refused = refused
        self.opaques: dict[str, TorchCall] = {}
        self.weights: dict[str, Tensor] = {}
        self.told: list[str] = []
        self.program = program
        self.name = name
        self.inputs = program.inputs
        self.at = Context(self._batch(), "float64" if self._is_double() else "float32")
        self.known: dict[fx.Node, Any] = {}
        self.half: set[torch.dtype] = set()

    def _batch(self) -> int:
        extents = set()
        for node in self.inputs:
            value = node.meta["val"]
            if not isinstance(value, Tensor) or value.dim() == 0:
                raise ArgumentError(
                    "model", f"an input {node.name} that is no batch", "batched inputs"
                )
            extents.add(int(value.shape[0]))
        if len(extents) != 1:
            raise ArgumentError(
                "model", f"inputs of batch sizes {sorted(extents)}", "inputs with one batch size"
            )
        return extents.pop()

    def _is_double(self) -> bool:
        nodes = (*self.inputs, *self.program.outputs)
        values = [n.meta["val"] for n in nodes if isinstance(n, fx.Node)]
        return any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in values)

    def run(self) -> Lowered:
        for node in self.schedule:
            if isinstance(node, Subgraph):
                self._opaque(node)
                continue
            self.at.enter(node)
            if node in self.program.weights:
                name, tensor = self.program.weights[node]
                self.weights[name] = tensor
                self.known[node] = self._constant(name, tensor)
            elif node.op == "placeholder":
                self.known[node] = self._input(node) if node in self.inputs else None
            elif node.op == "call_function":
                self.known[node] = self._try(node)
            elif node.op == "get_attr":
                self.known[node] = None
        roots = tuple(self._roots())
        inputs = tuple(self._label(node) for node in self.inputs)
        plan = Plan(self.name, roots, self.at.constants, self.at.origins, self.at.dtype, inputs)
        plan = plan.with_roots(roots)
        names = tuple(root for root, _ in roots)
        return Lowered(plan, self._notes(), names, self.opaques, self.weights)

    def _input(self, node: fx.Node) -> Value:
        dims = usual_names(node.meta["val"].dim())
        scan = Scan(self._label(node), _axes(dims, node.meta["val"]))
        self.at.origins[scan] = Origin("", "input")
        return Value(scan, dims)

    def _label(self, node: fx.Node) -> str:
        return "image" if len(self.inputs) == 1 else str(node.name)

    def _constant(self, name: str, tensor: Tensor) -> Constant:
        tensor = tensor.detach()
        if tensor.dtype in HALF:
            self.half.add(tensor.dtype)
            tensor = tensor.float()
        return Constant(name, tensor)

    def _try(self, node: fx.Node) -> Any:
        """The node's result; where it cannot be lowered and is only noted, one of its shape."""
        try:
            return self._call(node)
        except UnsupportedOperator as error:
            tags = getattr(node.target, "tags", ())
            if self.refused is None or torch.Tag.nondeterministic_seeded in tags:
                raise
            self.refused[node] = error.message
        found = node.meta.get("val")
        if isinstance(found, (tuple, list)):
            return tuple(self._stand_in(f"{node.name}.{k}", v) for k, v in enumerate(found))
        return self._stand_in(node.name, found)

    def _stand_in(self, name: str, tensor: Any) -> Value | None:
        dims = self._dims(tensor)
        return None if dims is None else Value(Scan(name, _axes(dims, tensor)), dims)

    def _dims(self, tensor: Any) -> tuple[Dim, ...] | None:
        """Axes of a tensor that torch computed; None where a relation cannot hold it."""
        if not isinstance(tensor, Tensor) or tensor.dtype.is_complex or not tensor.dim():
            return None
        fixed = all(isinstance(n, int) for n in tensor.shape)
        return usual_names(tensor.dim()) if fixed and tensor.shape[0] == self.at.batch else None

    def _opaque(self, subgraph: Subgraph) -> None:
        """Opaque nodes for what the rest of the graph reads of a subgraph."""
        first = next(iter(subgraph.reasons))
        self.at.enter(first)
        constants = {n: v for n in subgraph.inputs if isinstance(v := self.known[n], Constant)}
        values = [self._resolve(n) for n in subgraph.inputs if n not in constants]
        for value in values:
            if not isinstance(value, Value) or BATCH not in value.dims:
                self.at.unsupported("it reads what has no batch of images")
        at = [value.dims.index(BATCH) for value in values]
        call = TorchCall(subgraph, constants, at, self.at.batch, self.at.dtype)
        if reason := call.examine():
            self.at.unsupported(reason)
        name = f"torch_{first.name}"
        self.opaques[name] = call
        self.told.append(
            f"torch runs {', '.join(call.operators)} in {self.at.place()}, which has no relational "
            "form: every value is computed for every query there and from there on"
        )
        args = tuple(as_tensor_shaped(value) for value in values)
        for index, node in enumerate(subgraph.outputs):
            tensor = node.meta["val"]
            dims = self._dims(tensor)
            self.known[node] = None
            if dims is not None:
                made = Opaque(args, name, index, _axes(dims, tensor))
                self.at.record(", ".join(call.operators), made)
                self.known[node] = Value(made, dims)

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            return self.known[source][index]
        if str(node.target) in _IGNORED:
            return None
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self._resolve)
        given = pytree.tree_leaves(
            (args, kwargs), is_leaf=lambda v: isinstance(v, (Value, Constant))
        )
        if not any(isinstance(v, Value) for v in given):
            return self._evaluate(node, args, kwargs)
        tensors = [v for v in pytree.tree_leaves(node.meta["val"]) if isinstance(v, Tensor)]
        if not all(isinstance(n, int) for v in tensors for n in v.shape):
            self.at.unsupported("the extent of its result depends on values")
        entry = TABLE.get(self.at.operator)
        if entry is None:
            random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            self.at.unsupported("it is random" if random else "")
        result = entry.run(self.at, *args, **kwargs)
        self._check(node, result)
        made = result if isinstance(result, tuple) else (result,)
        self.at.record(entry.kind, *(v.node for v in made if isinstance(v, Value)))
        return result

    def _resolve(self, node: fx.Node) -> Any:
        found = self.known[node]
        if found is None:
            source, index = node.args if node.target is operator.getitem else (node, 0)
            if self.refused is not None and isinstance(source, fx.Node):
                self.refused.setdefault(source, "another operator reads a result of it")
            what = f"result {index} of {getattr(source, 'target', source)}"
            self.at.unsupported(f"it reads {what}, which has no relational form")
        return found

    def _evaluate(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """An operator of constants only, run by torch."""
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            self.at.unsupported()
        if torch.Tag.nondeterministic_seeded in target.tags:
            self.at.unsupported("it is random")

        def tensor(value: Any) -> Any:
            return value.tensor if isinstance(value, Constant) else value

        args, kwargs = pytree.tree_map(
            tensor, (args, kwargs), is_leaf=lambda v: isinstance(v, Constant)
        )
        if kwargs.get("dtype") in HALF:
            kwargs["dtype"] = torch.float32
        with torch.no_grad():
            result = target(*args, **kwargs)
        if isinstance(result, (tuple, list)):
            named = enumerate(result)
            return tuple(self._constant(f"{node.name}.{k}", t) for k, t in named)
        return self._constant(node.name, result) if isinstance(result, Tensor) else None

    def _check(self, node: fx.Node, result: Any) -> None:
        """That shapes are those of the exported graph; a difference is a bug of the lowering."""
        wanted = node.meta["val"]
        pairs = (
            zip(result, wanted, strict=False) if isinstance(result, tuple) else [(result, wanted)]
        )
        for value, tensor in pairs:
            if not isinstance(value, Value):
                continue
            ranks = len(value.dims) == tensor.dim()
            shape = tuple(
                self.at.batch if name == BATCH else value.extent(d)
                for d, name in enumerate(value.dims)
            )
            if not ranks or shape != tuple(tensor.shape):
                raise PlanError(
                    f"{node.target} ({node.name}): lowered to shape {shape}, "
                    f"the exported graph has {tuple(tensor.shape)}"
                )

    def _roots(self) -> Iterator[tuple[str, Node]]:
        names = _output_names(self.program)
        for name, node in zip(names, self.program.outputs, strict=True):
            if not isinstance(node, fx.Node):
                continue
            self.at.enter(node)
            value = self.known[node]
            if value is None or isinstance(value, Constant):
                self.at.unsupported(f"output {name} is a constant or has no relational form")
            if value.dims[:1] != (BATCH,):
                self.at.unsupported(f"output {name} has no leading batch dimension")
            root = as_tensor_shaped(value)
            self.at.record("output", root)
            yield name, root

    def _notes(self) -> tuple[str, ...]:
        kinds = sorted(str(t).removeprefix("torch.") for t in self.half)
        converted = (f"{kind} weights are computed in {self.at.dtype}" for kind in kinds)
        return (*converted, *self.told)


def _axes(dims: tuple[Dim, ...], tensor: Tensor) -> tuple[Axis, ...]:
    """Axes of a tensor's dimensions but the batch."""
    pairs = zip(dims[1:], tensor.shape[1:], strict=True)
    return tuple(Axis(str(name), int(extent)) for name, extent in pairs)


def _output_names(program: Program) -> list[str]:
    """A name for each tensor of the model's result, from the structure that holds it."""
    spec, count = program.structure, len(program.outputs)
    if count == 1 and (spec is None or spec.num_leaves != 1 or spec.type is None):
        return ["output"]
    if spec is None:
        return [f"output{k}" for k in range(count)]
    tree = pytree.tree_unflatten(list(range(count)), spec)
    paths, _ = pytree.tree_flatten_with_path(tree)
    return [_path_name(path) for path, _ in paths]


def _path_name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", "")))) for p in path]
    text = "_".join("".join(ch if ch.isalnum() else "_" for ch in part) for part in parts)
    if not text:
        return "output"
    return text if text[0].isalpha() else f"output{text}"

"""A model as the frontend reads it: a functional graph of ATen operators, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(frozen=True, slots=True)
class Program:
    """A graph of ATen operators without side effects.

    Attributes:
        graph: its nodes have their results, without values, in ``meta["val"]``, and where they
            come from in ``meta["nn_module_stack"]`` and ``meta["stack_trace"]``, as
            torch.export notes it.
        inputs: the placeholders of the model's own inputs, in order.
        weights: the model's tensors that the graph reads, with their names, by node.
        outputs: nodes whose results the model returns; what is no tensor is as it is.
        structure: of what the model returns; None where that is not known.
    """

    graph: fx.Graph
    inputs: tuple[fx.Node, ...]
    weights: Mapping[fx.Node, tuple[str, Tensor]]
    outputs: tuple[Any, ...]
    structure: pytree.TreeSpec | None

    @classmethod
    def of(cls, exported: ExportedProgram) -> Program:
        """The program that torch.export made."""
        graph, signature = exported.graph, exported.graph_signature
        tensors = {**exported.constants, **exported.state_dict}
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        specs = list(zip(placeholders, signature.input_specs, strict=True))
        weights = {
            node: (str(spec.target), tensors[str(spec.target)])
            for node, spec in specs
            if spec.kind in _WEIGHTS
        }
        for node in graph.nodes:
            if node.op == "get_attr":
                found = getattr(exported.graph_module, str(node.target))
                if isinstance(found, Tensor):
                    weights[node] = (node.name, found)
        results = next(node for node in graph.nodes if node.op == "output").args[0]
        kinds = [spec.kind for spec in signature.output_specs]
        return cls(
            graph,
            tuple(node for node, spec in specs if spec.kind == InputKind.USER_INPUT),
            weights,
            tuple(r for r, k in zip(results, kinds, strict=True) if k == OutputKind.USER_OUTPUT),
            exported.call_spec.out_spec,
        )

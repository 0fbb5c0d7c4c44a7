"""Subgraphs that the IR cannot express: which operators they take in, and how torch runs them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from kqo.frontend.values import Constant

Values = NDArray[Any]

HALF = (torch.float16, torch.bfloat16)
_TRIALS = 3
"""Batches of the exported extent that are run as one to see whether a subgraph takes any extent."""


@dataclass(eq=False)
class Subgraph:
    """Operators of the exported graph that torch runs as one.

    Attributes:
        nodes: in the graph's order.
        reasons: why each operator that cannot be lowered cannot be.
    """

    nodes: list[fx.Node]
    reasons: dict[fx.Node, str] = field(default_factory=dict)

    @property
    def inputs(self) -> list[fx.Node]:
        """What it reads, in order of first use."""
        own = set(self.nodes)
        read = (source for node in self.nodes for source in node.all_input_nodes)
        return list(dict.fromkeys(source for source in read if source not in own))

    @property
    def outputs(self) -> list[fx.Node]:
        """Its nodes that others read."""
        own = set(self.nodes)
        return [node for node in self.nodes if any(user not in own for user in node.users)]

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators that could not be lowered, such as ``sort``."""
        found = (str(getattr(n.target, "__name__", n.target)) for n in self.reasons)
        return tuple(dict.fromkeys(name.split(".")[0] for name in found))


def grouped(graph: fx.Graph, refused: Mapping[fx.Node, str]) -> list[fx.Node | Subgraph]:
    """The graph in an order in which it can run, with refused operators put into subgraphs.

    A refused operator joins the subgraphs of those that it reads wherever the result is convex: no
    path leaves it and comes back.

    Args:
        graph: the exported graph.
        refused: the operators that cannot be lowered, with the reasons.
    """
    taken = set(refused)
    for node in graph.nodes:
        if node.target is operator.getitem and node.args[0] in taken:
            taken.add(node)
    home: dict[fx.Node, Subgraph] = {}
    for node in graph.nodes:
        if node not in taken:
            continue
        own = home[node] = Subgraph([node])
        for source in node.all_input_nodes:
            other = home.get(source)
            if other is None or other is home[node]:
                continue
            own = home[node]
            joined = Subgraph([n for n in graph.nodes if home.get(n) in (own, other)])
            trial = {**home, **dict.fromkeys(joined.nodes, joined)}
            if _ordered(graph, trial) is not None:
                home = trial
    for node, reason in refused.items():
        home[node].reasons[node] = reason
    found = _ordered(graph, home)
    assert found is not None, "a subgraph is merged only where an order is left"
    return found


def _ordered(graph: fx.Graph, home: Mapping[fx.Node, Subgraph]) -> list[fx.Node | Subgraph] | None:
    """Nodes and subgraphs, each after what it reads; None where they read each other."""
    items = list(dict.fromkeys(home.get(node, node) for node in graph.nodes))
    reads = {item: {home.get(s, s) for s in _sources(item)} - {item} for item in items}
    readers: dict[fx.Node | Subgraph, list[fx.Node | Subgraph]] = {item: [] for item in items}
    for item, sources in reads.items():
        for source in sources:
            readers[source].append(item)
    waiting = {item: len(sources) for item, sources in reads.items()}
    place = {item: number for number, item in enumerate(items)}
    ready = [item for item in items if not waiting[item]]
    found: list[fx.Node | Subgraph] = []
    while ready:
        item = min(ready, key=place.__getitem__)
        ready.remove(item)
        found.append(item)
        for reader in readers[item]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return found if len(found) == len(items) else None


def _sources(item: fx.Node | Subgraph) -> list[fx.Node]:
    return item.inputs if isinstance(item, Subgraph) else item.all_input_nodes


class TorchCall:
    """A subgraph as a function of arrays, run by torch.

    Args:
        graph: what to run.
        constants: tensors among what it reads.
        batch_at: for each other input, in order, which of its dimensions is the batch.
        batch: extent of the batch in the exported graph.
        dtype: of the plan.

    Attributes:
        operators: names of the operators that could not be lowered.
    """

    def __init__(
        self,
        graph: Subgraph,
        constants: Mapping[fx.Node, Constant],
        batch_at: Sequence[int],
        batch: int,
        dtype: str,
    ) -> None:
        self.operators = graph.operators
        self.batch = batch
        self.dtype = np.dtype(dtype)
        self._at = tuple(batch_at)
        inputs = [node for node in graph.inputs if node not in constants]
        self._types = tuple(_computed(node.meta["val"].dtype) for node in inputs)
        self._shapes = tuple(tuple(node.meta["val"].shape) for node in inputs)
        self._module = _module(graph, constants)
        self._any_extent = False

    def __call__(self, *arrays: Values) -> tuple[Values, ...]:
        """The outputs for some queries.

        Args:
            arrays: one for each input, (queries, ...), the rest of the axes as in the graph.

        Returns:
            an array (queries, ...) of the plan's type for each output.
        """
        count = len(arrays[0])
        step = count if self._any_extent else self.batch
        parts = []
        with torch.inference_mode():
            for start in range(0, count, step):
                rows = np.minimum(np.arange(start, start + step), count - 1)
                tensors = [
                    torch.from_numpy(np.ascontiguousarray(a[rows])).to(t).movedim(0, at)
                    for a, t, at in zip(arrays, self._types, self._at, strict=True)
                ]
                parts.append(self._module(*tensors))
        return tuple(
            np.concatenate([_array(part[i], self.dtype) for part in parts])[:count]
            for i in range(len(parts[0]))
        )

    def examine(self) -> str:
        """Why the subgraph cannot stand for one image at a time; empty where it can.

        It is run on noise: rows of the result must depend on their own rows of the inputs only.
        """
        generator = torch.Generator().manual_seed(0)
        many = [self._noise(shape, k, generator) for k, shape in enumerate(self._shapes)]
        try:
            wanted = self(*many)
            if self.batch > 1:
                mixed = [np.concatenate([a[:1], a[-1:], a[1:-1]]) for a in many]
                if not all(map(_close, (w[:1] for w in wanted), (r[:1] for r in self(*mixed)))):
                    return "it mixes the images of a batch"
        except Exception as error:
            return f"torch cannot run it on its own: {' '.join(str(error).split())}"
        self._any_extent = True
        try:
            self._any_extent = all(map(_close, wanted, self(*many)))
        except Exception:  # its shapes hold the extent of the batch
            self._any_extent = False
        return ""

    def _noise(self, shape: tuple[int, ...], k: int, generator: torch.Generator) -> Values:
        at = self._at[k]
        full = (_TRIALS * self.batch, *shape[:at], *shape[at + 1 :])
        if self._types[k].is_floating_point:
            return np.asarray(torch.randn(full, generator=generator).to(self._types[k]).numpy())
        return np.asarray(torch.randint(0, 2, full, generator=generator).numpy())


def _close(one: Values, other: Values) -> bool:
    return one.shape == other.shape and bool(
        np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)
    )


def _array(tensor: Tensor, dtype: np.dtype[Any]) -> Values:
    return np.asarray(tensor.resolve_neg().numpy().astype(dtype, copy=False))


def _computed(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF else dtype


def _module(subgraph: Subgraph, constants: Mapping[fx.Node, Constant]) -> fx.GraphModule:
    """The subgraph as a module on the CPU that computes in float32 what was of half precision."""
    root, graph = nn.Module(), fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for number, node in enumerate(subgraph.inputs):
        if node in constants:
            # Constants that were lowered are of float64, whatever they are in the model.
            kind = _computed(node.meta["val"].dtype)
            root.register_buffer(f"constant{number}", constants[node].tensor.to("cpu", kind))
            made[node] = graph.get_attr(f"constant{number}")
        else:
            made[node] = graph.placeholder(f"input{number}")
    for node in subgraph.nodes:
        made[node] = graph.node_copy(node, lambda n: made[n])
        if node.target is torch.ops.aten.view.default:
            # A view of what lies in memory as it did in the model; here it may lie elsewise.
            made[node].target = torch.ops.aten.reshape.default
        if node.op == "get_attr":
            owner = node.graph.owning_module
            setattr(root, str(node.target), getattr(owner, str(node.target)))
        made[node].args = fx.node.map_aggregate(made[node].args, _local)
        made[node].kwargs = fx.node.map_aggregate(made[node].kwargs, _local)
        made[node].meta = {}
    graph.output(tuple(made[node] for node in subgraph.outputs))
    return fx.GraphModule(root, graph)


def _local(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _computed(value)
    return torch.device("cpu") if isinstance(value, torch.device) else value

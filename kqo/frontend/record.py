"""A module's graph of ATen operators, recorded in one run without values.

``torch.export`` makes the same graph, with guards and decompositions that are not needed where all
extents are fixed; it takes ten times as long. What is recorded here are modules whose operators the
table has and write nowhere that is read elsewhere; all others are left to ``torch.export``, which
also has the words for what cannot be exported.
"""

from __future__ import annotations

import builtins
import inspect
import operator
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher, no_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kqo.frontend.functional import drop_unused, made_functional
from kqo.frontend.program import Program
from kqo.frontend.unfilled import result_of, unfilled

_TORCH = str(PurePath(torch.__file__).parent)
_COMPILED = ("torch.jit", "torch._dynamo")
"""Where classes of modules come from that bring their code with them."""
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_CONTAINERS = (dict, OrderedDict, list, set)
_CALL = nn.Module._wrapped_call_impl.__code__
"""What Python runs where a module is called, hooks included."""


class _Refused(Exception):
    """What torch.export must look at."""


class _Recorder(SchemaCheckMode):  # type: ignore[no-untyped-call]
    """Writes operators into a graph as they are called, before any is decomposed.

    The mode for PreDispatch must be of one of three classes; nothing of this one's is used.

    Attributes:
        graph: what is written.
        refused: whether something was called that torch.export must look at.
    """

    def __init__(self, graph: fx.Graph, place: Callable[[], dict[str, Any]]) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)  # type: ignore[no-untyped-call]
        self.graph = graph
        self.refused = False
        self._place = place
        self._known: dict[int, fx.Node] = {}

    def define(self, node: fx.Node, tensor: Tensor) -> None:
        """Let a node stand for a tensor, which it keeps, so that no other has its identity."""
        node.meta["val"] = tensor
        self._known[tensor._cdata] = node

    def node(self, value: Any) -> Any:
        """The node of a tensor; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        if value._cdata not in self._known:
            raise _Refused("a tensor of unknown origin")
        return self._known[value._cdata]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        try:
            return self._call(func, args, kwargs or {})
        except Exception:
            self.refused = True  # also where the model catches it
            raise

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch._C._is_any_autocast_enabled():
            raise _Refused("automatic casts, which come after what is recorded")
        read, named = map_aggregate((args, kwargs), self.node)
        shapes = [v.shape for v in args if isinstance(v, Tensor)]
        with no_python_dispatcher():
            result = result_of(func, args, kwargs)
            if result is None:
                result = func(*args, **kwargs)
        if shapes != [v.shape for v in args if isinstance(v, Tensor)]:
            raise _Refused("an operator that changes the shape of its argument")
        name = func.overloadpacket.__name__
        node = self.graph.create_node("call_function", func, read, named, name=name)
        node.meta.update(self._place())
        if isinstance(result, Tensor):
            self.define(node, result)
        elif isinstance(result, (tuple, list)) and all(isinstance(r, Tensor) for r in result):
            node.meta["val"] = tuple(result)
            for index, part in enumerate(result):
                item = self.graph.call_function(operator.getitem, (node, index))
                item.meta.update(node.meta)
                self.define(item, part)
        else:
            raise _Refused(f"{func} returns {type(result).__name__}")
        return result


class _Place:
    """Where an operator is called from: the module, and the line of the model's source."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}

    def __call__(self) -> dict[str, Any]:
        """What torch.export notes of an operator, of the innermost module and line only."""
        stack: dict[str, tuple[str, str]] = {}
        line, forward = "", ""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code is not record.__code__:
            path = frame.f_code.co_filename
            here = f'File "{path}", line {frame.f_lineno}'
            if not path.startswith((_TORCH, __file__, "<")):
                line = line or here
            elif frame.f_code.co_name == "forward":
                forward = forward or here
            elif frame.f_code is _CALL and not stack:
                module = frame.f_locals["self"]
                if id(module) in self._names:
                    stack = {"": (self._names[id(module)], type(module).__name__)}
            if stack and line:
                break
            frame = frame.f_back
        return {"nn_module_stack": stack, "stack_trace": line or forward}


@contextmanager
def _holding(model: nn.Module, fakes: dict[int, Any]) -> Iterator[None]:
    """While a model has other tensors, by the identity of its own; all it keeps is put back then.

    ``torch.func.functional_call`` does not: a module with two names would lose its weights.
    """
    modules = list(model.modules())
    if any(type(d) not in _CONTAINERS for m in modules for d in (m._parameters, m._buffers)):
        raise _Refused("weights that are kept elsewhere")
    kept = _contents([module.__dict__ for module in modules])
    try:
        for module in modules:
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = fakes[id(tensor)]
        yield
    finally:
        for container, content in kept:
            if isinstance(container, list):
                container[:] = content
                continue
            if [*map(id, container)] != [*map(id, content)]:
                container.clear()
            container.update(content)


def _contents(containers: list[Any]) -> list[tuple[Any, Any]]:
    """Copies of containers and of those in them, each with what it is a copy of."""
    seen = {id(container) for container in containers}
    for container in containers:
        for value in container.values() if isinstance(container, dict) else container:
            if type(value) in _CONTAINERS and id(value) not in seen:
                seen.add(id(value))
                containers.append(value)
    return [(container, container.copy()) for container in containers]


def record(model: nn.Module, inputs: tuple[Tensor, ...]) -> Program | None:
    """The program of a module; None where torch.export must make it.

    Args:
        model: in eval mode; it is run once, on tensors without values.
        inputs: tensors with a leading batch dimension; all extents become fixed.
    """
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    compiled = any(type(m).__module__.startswith(_COMPILED) for m in model.modules())
    if compiled or any(type(t) not in _PLAIN for t in (*weights.values(), *inputs)):
        return None
    try:
        return _recorded(model, inputs, weights)
    except Exception:  # whatever it is, torch.export meets it again and says what it means
        return None


def _recorded(
    model: nn.Module, inputs: tuple[Tensor, ...], weights: dict[str, Tensor]
) -> Program | None:
    graph, fake = fx.Graph(), FakeTensorMode()
    recorder = _Recorder(graph, _Place(model))
    given = [fake.from_tensor(tensor, static_shapes=True) for tensor in inputs]
    state = {name: unfilled(fake, tensor) for name, tensor in weights.items()}
    placeholders = [graph.placeholder(name) for name in _names(model, inputs)]
    of = {graph.placeholder(k.replace(".", "_")): k for k in weights}
    for node in placeholders:
        if hasattr(builtins, str(node.target)):  # as "input", which fx would not call a node
            node.name = str(node.target)
    for node, tensor in zip((*placeholders, *of), (*given, *state.values()), strict=True):
        recorder.define(node, tensor)
    fakes = {id(weights[name]): tensor for name, tensor in state.items()}
    with torch.no_grad(), _holding(model, fakes), fake, enable_python_dispatcher(), recorder:
        result = model(*given)
    leaves, structure = pytree.tree_flatten(result)
    if recorder.refused or not all(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    graph.output(tuple(recorder.node(leaf) for leaf in leaves))
    drop_unused(graph)
    if not made_functional(graph, of):
        return None
    for node in [node for node in of if not node.users]:
        graph.erase_node(node)
        del of[node]
    outputs = next(node for node in graph.nodes if node.op == "output").args[0]
    return Program(
        graph,
        tuple(placeholders),
        {node: (name, weights[name]) for node, name in of.items()},
        outputs,
        structure,
    )


def _names(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the inputs: those of forward's parameters."""
    signature = inspect.signature(model.forward)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    if variadic and len(inputs) > 1:
        raise _Refused("inputs without names of their own")
    return list(signature.bind(*inputs).arguments)

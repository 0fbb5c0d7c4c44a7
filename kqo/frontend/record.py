"""A module's graph of ATen operators, recorded in one run without values.

``torch.export`` makes the same graph, with guards and decompositions that are not needed where all
extents are fixed; it takes ten times as long. What is recorded here are modules whose operators the
table has and write nowhere that is read elsewhere; all others are left to ``torch.export``, which
also has the words for what cannot be exported.
"""

from __future__ import annotations

import inspect
import operator
import sys
import threading
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
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kqo.frontend.functional import made_functional
from kqo.frontend.program import Program

_TORCH = str(PurePath(torch.__file__).parent)
_COMPILED = ("torch.jit", "torch._dynamo")
"""Where classes of modules come from that bring their code with them."""
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


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
        self._known[id(tensor)] = node

    def node(self, value: Any) -> Any:
        """The node of a tensor; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._known:
            raise _Refused("a tensor of unknown origin")
        return self._known[id(value)]

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
        read, named = pytree.tree_map(self.node, (args, kwargs))
        shapes = [v.shape for v in args if isinstance(v, Tensor)]
        with no_python_dispatcher():
            result = _like_normalized(func, args)
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


def _like_normalized(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """The result of a batch norm, which torch would find by decomposing it, in half of all time."""
    if func is not torch.ops.aten.batch_norm.default:
        return None
    of, *parameters = args[:5]
    fits = all(p is None or p.shape == of.shape[1:2] for p in parameters)
    return torch.empty_like(of) if fits and of.dim() > 1 else None


class _Place:
    """Where an operator is called from: the module, and the line of the model's source."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack: list[nn.Module] = []
        self._thread = threading.get_ident()

    def __call__(self) -> dict[str, Any]:
        """What torch.export notes of an operator, of the innermost module and line only."""
        known = (m for m in reversed(self._stack) if id(m) in self._names)
        inner = next(known, None)
        stack = {} if inner is None else {"": (self._names[id(inner)], type(inner).__name__)}
        return {"nn_module_stack": stack, "stack_trace": self._line()}

    def _line(self) -> str:
        frame: FrameType | None = sys._getframe().f_back
        forward = ""
        while frame is not None and frame.f_code is not record.__code__:
            path = frame.f_code.co_filename
            line = f'File "{path}", line {frame.f_lineno}'
            if not path.startswith((_TORCH, __file__, "<")):
                return line
            if not forward and frame.f_code.co_name == "forward":
                forward = line
            frame = frame.f_back
        return forward

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While modules of this thread are noted as they are called."""

        def enter(module: nn.Module, _: Any) -> None:
            if threading.get_ident() == self._thread:
                self._stack.append(module)

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            if threading.get_ident() == self._thread and module in self._stack:
                while self._stack.pop() is not module:
                    pass

        before = hooks.register_module_forward_pre_hook(enter)
        after = hooks.register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()


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
    before = {module: dict(module.__dict__) for module in model.modules()}
    try:
        return _recorded(model, inputs, weights)
    except Exception:  # whatever it is, torch.export meets it again and says what it means
        return None
    finally:
        for module, attributes in before.items():
            for name in module.__dict__.keys() - attributes.keys():
                del module.__dict__[name]
            module.__dict__.update(attributes)


def _recorded(
    model: nn.Module, inputs: tuple[Tensor, ...], weights: dict[str, Tensor]
) -> Program | None:
    graph, place, fake = fx.Graph(), _Place(model), FakeTensorMode()
    recorder = _Recorder(graph, place)
    given = [fake.from_tensor(tensor, static_shapes=True) for tensor in inputs]
    state: dict[str, Tensor] = {
        k: fake.from_tensor(t, static_shapes=True) for k, t in weights.items()
    }
    placeholders = [graph.placeholder(name) for name in _names(model, inputs)]
    of = {graph.placeholder(k.replace(".", "_")): k for k in weights}
    for node, tensor in zip((*placeholders, *of), (*given, *state.values()), strict=True):
        recorder.define(node, tensor)
    with torch.no_grad(), fake, place.followed(), enable_python_dispatcher(), recorder:
        result = torch.func.functional_call(model, state, tuple(given))
    leaves, structure = pytree.tree_flatten(result)
    if recorder.refused or not all(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    graph.output(tuple(recorder.node(leaf) for leaf in leaves))
    graph.eliminate_dead_code()
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

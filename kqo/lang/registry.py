"""The builtin functions that rules may call: a registry with types, filled by a decorator.

A builtin is a pure function with annotated parameters and result. Its module is any file of
``kqo/lang`` whose name ends in ``builtins``; all of them are loaded before a rule is checked. A
first parameter called ``context`` gets the :class:`kqo.lang.context.Context` of the rewrite at
hand, and rules do not write it. A result of None refuses the match.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from kqo.ir.equations import Condition
from kqo.ir.nodes import Node

Nodes = tuple[Node, ...]
Names = tuple[str, ...]
Conditions = tuple[Condition, ...]

TYPES: Mapping[str, str] = MappingProxyType(
    {
        "Node": "node",
        "Nodes": "nodes",
        "Axes": "axes",
        "Names": "names",
        "Conditions": "conditions",
        "Expr": "expr",
        "Region": "region",
        "Regions": "regions",
        "str": "name",
        "int": "number",
        "float": "number",
        "bool": "truth",
        "object": "any",
    }
)
FIELD_TYPES = ("node", "nodes", "axes", "names", "conditions", "expr", "region", "name", "number")


@dataclass(frozen=True, slots=True)
class Builtin:
    """One function: parameter names and types, result type, and whether it reads the context.

    ``variadic`` is the type of further arguments, empty where there are none.
    """

    name: str
    call: Callable[..., Any]
    parameters: tuple[tuple[str, str], ...]
    variadic: str
    result: str
    contextual: bool
    doc: str

    @property
    def signature(self) -> str:
        """``compose(outer: expr, inner: expr) -> expr``."""
        shown = [f"{name}: {kind}" for name, kind in self.parameters]
        if self.variadic:
            shown.append(f"*{self.variadic}")
        return f"{self.name}({', '.join(shown)}) -> {self.result}"


_BUILTINS: dict[str, Builtin] = {}
_F = TypeVar("_F", bound=Callable[..., Any])


def builtin(function: _F) -> _F:
    """Register a function under its own name. Annotations must be among :data:`TYPES`.

    Raises:
        TypeError: an annotation or the docstring is missing, or the name is taken; this is an error
            in the code of the builtin, found when its module is imported.
    """
    name = function.__name__
    if name in _BUILTINS:
        raise TypeError(f"builtin {name} is defined twice")
    if not function.__doc__:
        raise TypeError(f"builtin {name} has no docstring")
    signature = inspect.signature(function)
    parameters: list[tuple[str, str]] = []
    contextual, variadic = False, ""
    for position, parameter in enumerate(signature.parameters.values()):
        if position == 0 and parameter.name == "context":
            contextual = True
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            variadic = _type(name, parameter.annotation)
        else:
            parameters.append((parameter.name, _type(name, parameter.annotation)))
    _BUILTINS[name] = Builtin(
        name,
        function,
        tuple(parameters),
        variadic,
        _type(name, signature.return_annotation),
        contextual,
        inspect.getdoc(function) or "",
    )
    return function


def _type(name: str, annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    kind = TYPES.get(text.removesuffix(" | None"))
    if kind is None:
        raise TypeError(f"builtin {name}: no type {annotation!r}; known: {', '.join(TYPES)}")
    return kind


@cache
def builtins() -> Mapping[str, Builtin]:
    """All builtins by name, after loading every module that defines some."""
    package = importlib.import_module("kqo.lang")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("builtins"):
            importlib.import_module(f"kqo.lang.{module.name}")
    return MappingProxyType(dict(sorted(_BUILTINS.items())))

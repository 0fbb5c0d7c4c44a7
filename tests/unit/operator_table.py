"""docs/operators.md, made from the registry of lowerings and from what they refuse."""

from __future__ import annotations

import ast
import inspect
import textwrap
from importlib import import_module
from types import ModuleType

from kqo.frontend import context
from kqo.frontend.operators import LOADED
from kqo.frontend.registry import TABLE, Lowering

HEAD = """\
# Operators

What the frontend lowers to the relational plan, by operator of ATen: the overloads that
`torch.export` leaves in a graph. Where none is named it is `.default`. The plan's nodes are
described in [architecture.md](architecture.md). Expressions are over `v`, the value of an element.

Anything else is run by torch, as one `Opaque` node per connected part of the graph; `kqo explain`
names the operator and the line of the model, and `Options(strict=True)` makes it an error, as does
a refusal that is listed here. What depends on constants alone is computed by torch when the plan
is made, whatever it is.

NaN and infinity go where PyTorch has them, except where PyTorch's own answer depends on how it
computes: a key beyond the edge meets no weight, so that weights which are not finite do not make
NaN of padding; linear resizing reads the elements at the border once, so that infinity stays
infinity there; and GELU of infinity is infinity, in float32 too.

This page is made from the code, and a test compares: `pytest --update-golden
tests/unit/test_operators.py` writes it.
"""
EVERYWHERE = (import_module("kqo.frontend.lower"), context)


def _shown(operator: str) -> str:
    name = operator.removeprefix("aten.").removesuffix(".default")
    return f"`{name}`"


def _sentence(does: str) -> str:
    return does.replace("``", "`").replace("|", "\\|")


def _text(node: ast.expr) -> str:
    """A literal, with dots for what is filled in when it is said."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(v) if isinstance(v, ast.Constant) else "..." for v in node.values)
    if isinstance(node, ast.IfExp):
        return _text(node.body)
    return ""


def refusals(module: ModuleType) -> list[str]:
    """What a module's functions refuse, in the order of its source."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(module)))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr == "unsupported" and node.args:
            found[_text(node.args[0])] = None
        elif node.func.attr == "constant" and len(node.args) == 2:
            found[f"{_text(node.args[1])} depends on the model's input"] = None
        elif node.func.attr == "mixes_batch":
            found["it mixes the batch dimension with others"] = None
    return [text for text in found if text]


def _rows(module: ModuleType) -> list[str]:
    """One row of the table per lowering; those that are told alike share one."""
    told: dict[str, list[str]] = {}
    for operator, lowering in TABLE.items():
        if _home(lowering) is module:
            told.setdefault(lowering.does, []).append(operator)
    return [f"| {', '.join(map(_shown, ops))} | {_sentence(does)} |" for does, ops in told.items()]


def _home(lowering: Lowering) -> ModuleType | None:
    return inspect.getmodule(lowering.run)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for module in LOADED:
        name = module.__name__.rpartition(".")[2]
        about = " ".join((module.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
        table = "\n".join(["| operators | lowered to |", "|---|---|", *_rows(module)])
        refused = refusals(module)
        said = f"\nRefused: {'; '.join(refused)}.\n" if refused else ""
        parts.append(f"## {name.capitalize()}\n\n{about}\n\n{table}\n{said}")
    everywhere = dict.fromkeys(text for m in EVERYWHERE for text in refusals(m))
    said = "\n".join(f"- {text}" for text in everywhere if text[:3] != "...")
    parts.append(f"## Refused wherever it occurs\n\n{said}\n")
    return "\n".join(parts)

"""Models by name: of the zoo, from a package, or exported to a file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kqo.errors import ArgumentError, KqoError
from kqo.interop.text import one_line

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

DEFAULT_SHAPE = (3, 224, 224)


@dataclass(frozen=True, eq=False)
class Resolved:
    """A model with what is known of its input.

    Attributes:
        name: what to call it.
        model: a module in eval mode, or an exported program.
        shape: of one input without the batch axis.
        module: the module to run for comparison: the model itself, or the program's.
    """

    name: str
    model: nn.Module | ExportedProgram
    shape: tuple[int, ...]
    module: nn.Module


def resolve_model(
    text: str, weights: str | Path | None = None, shape: tuple[int, ...] | None = None
) -> Resolved:
    """The model that a command line names.

    Args:
        text: a name of the zoo, ``package.module:factory``, ``path/to/file.py:factory``, or a
            ``.pt2`` file. A factory is a class or function that needs no arguments and gives an
            ``nn.Module``.
        weights: state dict to load into it, safetensors or of torch.save; not for ``.pt2`` files,
            which hold their own.
        shape: of one input without the batch axis. None: what the zoo or the file says, otherwise
            (3, 224, 224).

    Raises:
        ArgumentError: for an unknown model, one that cannot be made, and weights that do not fit.
    """
    if text.endswith(".pt2"):
        return _exported(text, weights, shape)
    if ":" in text:
        return _made(text, weights, shape)
    from kqo import zoo

    if text not in zoo.NAMES:
        known = ", ".join(zoo.NAMES)
        raise ArgumentError(
            "model", repr(text), f"{known}, package.module:factory, FILE.py:factory, or a .pt2 file"
        )
    module = zoo.build(text, weights=weights)
    return Resolved(text, module, shape or zoo.input_shape(text), module)


def _made(text: str, weights: str | Path | None, shape: tuple[int, ...] | None) -> Resolved:
    from torch import nn

    from kqo.zoo import load_weights

    package, _, attribute = text.rpartition(":")  # a path may have a drive with a colon
    accepted = "package.module:factory or FILE.py:factory, where the factory gives an nn.Module"
    try:
        found: Any = _file(package) if package.endswith(".py") else _package(package)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError, TypeError, OSError, SyntaxError) as error:
        raise ArgumentError("model", f"{text!r} ({one_line(error)})", accepted) from None
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise ArgumentError("model", f"{text!r}, which is no function or class", accepted)
        found = _call(text, found, accepted)
    if not isinstance(found, nn.Module):
        given = f"{text!r}, which gives {type(found).__name__}"
        raise ArgumentError("model", given, accepted)
    # A module in training mode is an error elsewhere, since it would mean the user forgot; a
    # factory gives a fresh one, which always is.
    module = found.eval()
    if weights is not None:
        load_weights(module, weights)
    return Resolved(attribute, module, shape or DEFAULT_SHAPE, module)


def _package(name: str) -> ModuleType:
    with _importable(os.getcwd()):
        return importlib.import_module(name)


def _file(path: str) -> ModuleType:
    """The module of a file, which may import its neighbours."""
    where = Path(path).resolve()
    name = f"kqo_model_{where.stem}"
    spec = importlib.util.spec_from_file_location(name, where)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python file at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and torch.export look their own module up
    with _importable(str(where.parent)):
        spec.loader.exec_module(module)
    return module


def _call(text: str, factory: Any, accepted: str) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ArgumentError(
            "model", f"{text!r}, a factory with a {one_line(error)}", accepted
        ) from None
    except ValueError:
        pass  # builtins have no signature; calling them tells
    try:
        return factory()
    except KqoError:
        raise
    except Exception as error:
        given = f"{text!r}, which fails with {type(error).__name__}: {one_line(error)}"
        raise ArgumentError("model", given, accepted) from error


def _exported(text: str, weights: str | Path | None, shape: tuple[int, ...] | None) -> Resolved:
    import torch

    if weights is not None:
        raise ArgumentError("weights", str(weights), "none for a .pt2 file, which holds its own")
    if not Path(text).is_file():
        raise ArgumentError(
            "model", f"{text!r}, which is no file", "a .pt2 file of torch.export.save"
        )
    try:
        program = torch.export.load(text)
    except Exception as error:
        given = f"{text!r}, which cannot be read ({one_line(error)})"
        raise ArgumentError("model", given, "a .pt2 file of torch.export.save") from error
    return Resolved(Path(text).stem, program, shape or _program_shape(program), program.module())


def _program_shape(program: ExportedProgram) -> tuple[int, ...]:
    """Extents of an exported program's first input without the batch axis."""
    first = program.graph_signature.user_inputs[0]
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == first:
            return tuple(int(n) for n in node.meta["val"].shape[1:])
    raise ArgumentError("model", "a program without inputs", "one with an image as input")


@contextlib.contextmanager
def _importable(folder: str) -> Any:
    """A folder on sys.path, as Python has that of a script, to find the user's own files."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)

"""Plan files: a compiled plan as data, never code.

A ``.kqo`` file is a safetensors file. Its tensors are the plan's constants; its metadata holds the
normalized logical plan as text, and as JSON the workload, options, preprocessing, names of inputs
and origins of nodes, with the format's version and a checksum over all of it. Loading parses,
checks and plans again for this machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kqo.errors import PlanError, PlanFileError
from kqo.ir.folded import Constants
from kqo.ir.nodes import Node, Opaque
from kqo.ir.plan import Array, Origin, Plan
from kqo.ir.text import format_plan, parse_plan
from kqo.ir.verify import verify
from kqo.runtime.planfile_checks import check_plan, check_text, printable
from kqo.runtime.tensors import POSSIBLE, Tensors

FORMAT = "kqo-plan"
VERSION = 1


@dataclass(frozen=True)
class Stored:
    """What a plan file holds.

    Attributes:
        plan: the normalized logical plan with its constants and origins.
        about: workload, options, preprocessing and other plain values, by name.
    """

    plan: Plan
    about: Mapping[str, Any]


def checksum(plan: str, about: str, constants: Mapping[str, Array]) -> str:
    """A digest of everything that a plan file says: SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    for part in (plan, about):
        digest.update(hashlib.sha256(part.encode()).digest())
    for name in sorted(constants):
        value = np.asarray(constants[name], order="C")
        head = f"{name} {value.dtype.str} {value.shape}"
        digest.update(hashlib.sha256(head.encode()).digest())
        digest.update(hashlib.sha256(value.data).digest())
    return digest.hexdigest()


def save(path: str | os.PathLike[str], stored: Stored) -> None:
    """Write a plan file; an existing one is replaced only once the new one is complete.

    Raises:
        PlanFileError: the plan has a part that torch runs, which is no data, or names that a file
            cannot hold.
    """
    from safetensors.numpy import save_file

    plan = stored.plan
    _check_saved(plan, os.fspath(path))
    constants = {n: np.asarray(v, order="C") for n, v in plan.constants.items()}
    values = {
        **stored.about,
        "inputs": list(plan.inputs),
        "origins": [_packed(plan.origins.get(node)) for node in plan.nodes()],
    }
    text, about = format_plan(plan), json.dumps(values, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "plan": text,
        "about": about,
        "checksum": checksum(text, about, constants),
    }
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.absolute().parent, suffix=".part")
    os.close(handle)
    try:
        save_file(constants, temporary, metadata=metadata)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check_saved(plan: Plan, name: str) -> None:
    opaque = [node for node in plan.nodes() if isinstance(node, Opaque)]
    if opaque:
        parts = ", ".join(sorted({_place(node, plan.origins.get(node)) for node in opaque}))
        raise PlanFileError(
            f"{name}: a plan file is data, and torch runs a part of this plan: {parts}",
            hint="Options(strict=True) says why when the model is compiled",
        )
    try:
        check_plan(plan)
    except PlanError as error:
        raise PlanFileError(f"{name}: {error}") from None


def _place(node: Opaque, origin: Origin | None) -> str:
    where = " ".join(part for part in (origin.layer, origin.source) if part) if origin else ""
    return f"{node.name} ({where})" if where else node.name


def _packed(origin: Origin | None) -> list[str] | None:
    if origin is None:
        return None
    return [printable(part) for part in (origin.layer, origin.kind, origin.source)]


def load(path: str | os.PathLike[str]) -> Stored:
    """Read a plan file.

    Raises:
        PlanFileError: not a plan file, one of another version, or a damaged one.
    """
    name = os.fspath(path)
    if not Path(name).is_file():
        raise PlanFileError(f"{name}: no such file", hint="kqo compile MODEL -o F.kqo makes one")
    metadata, constants = _read(name)
    try:
        text, about = metadata["plan"], metadata["about"]
        if checksum(text, about, constants) != metadata["checksum"]:
            raise PlanFileError(f"{name}: damaged: the checksum does not match")
        values = json.loads(about)
        return Stored(_plan(text, constants, values, name), values)
    except PlanFileError:
        raise
    except Exception as error:
        # Whatever a hostile file makes the readers of its parts trip over, it is the file's fault.
        raise blamed(name, "damaged", error) from None


def blamed(name: str, what: str, error: Exception) -> PlanFileError:
    """What is wrong with a file that a reader tripped over, or with the system."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "a loaded plan keeps its file open until it is dropped"
        return PlanFileError(f"{name}: cannot be read: {reason(error)}", hint=hint)
    return PlanFileError(f"{name}: {what} ({reason(error)})")


def reason(error: BaseException) -> str:
    """What an error says, in one short line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 300 else f"{said[:300]}..."


def _read(name: str) -> tuple[Mapping[str, str], Constants]:
    from safetensors import safe_open

    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise PlanFileError(f"{name}: not a plan file of kqo")
            if metadata.get("version") != str(VERSION):
                given = metadata.get("version")
                raise PlanFileError(
                    f"{name}: version {given} of the format; this kqo reads version {VERSION}",
                    hint="compile the model again",
                )
            keys = list(file.keys())
            if not POSSIBLE:
                return metadata, Constants({key: file.get_tensor(key) for key in keys})
        return metadata, Tensors(name).constants(keys)
    except PlanFileError:
        raise
    except Exception as error:
        raise blamed(name, "damaged, or not a plan file", error) from None


def _plan(text: str, constants: Constants, values: dict[str, Any], name: str) -> Plan:
    check_text(text)
    plan = parse_plan(text, constants, file=name)
    verify(plan)
    plan = replace(plan, inputs=tuple(values.pop("inputs")))
    check_plan(plan)
    nodes, origins = list(plan.nodes()), values.pop("origins")
    found: dict[Node, Origin] = {}
    for node, given in zip(nodes, origins, strict=True):
        if given is not None:
            layer, kind, source = given
            found[node] = Origin(printable(layer), printable(kind), printable(source))
    return replace(plan, origins=found)

"""Plan files: a compiled plan as data, never code.

A ``.kqo`` file is a safetensors file. Its tensors are the plan's constants; its metadata holds the
normalized logical plan as text, and workload, options, preprocessing and output names as JSON, with the
format's version and a checksum over all of it. Loading parses, checks and plans again for this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kqo.errors import KqoError, PlanFileError
from kqo.ir.plan import Array, Plan
from kqo.ir.text import format_plan, parse_plan
from kqo.ir.verify import verify

FORMAT = "kqo-plan"
VERSION = 1


@dataclass(frozen=True)
class Stored:
    """What a plan file holds.

    Attributes:
        plan: the normalized logical plan with its constants.
        about: workload, options, preprocessing and other plain values, by name.
    """

    plan: Plan
    about: Mapping[str, Any]


def _checksum(plan: str, about: str, constants: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for part in (plan, about):
        digest.update(hashlib.sha256(part.encode()).digest())
    for name in sorted(constants):
        value = np.ascontiguousarray(constants[name])
        head = f"{name} {value.dtype.str} {value.shape}"
        digest.update(hashlib.sha256(head.encode()).digest())
        digest.update(hashlib.sha256(value.data).digest())
    return digest.hexdigest()


def save(path: str | os.PathLike[str], stored: Stored) -> None:
    """Write a plan file; an existing one is replaced only once the new one is complete."""
    from safetensors.numpy import save_file

    constants = {n: np.ascontiguousarray(v) for n, v in stored.plan.constants.items()}
    values = {**stored.about, "inputs": list(stored.plan.inputs)}
    text, about = format_plan(stored.plan), json.dumps(values, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "plan": text,
        "about": about,
        "checksum": _checksum(text, about, constants),
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


def load(path: str | os.PathLike[str]) -> Stored:
    """Read a plan file.

    Raises:
        PlanFileError: not a plan file, one of another version, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not Path(name).is_file():
        raise PlanFileError(f"{name}: no such file", hint="kqo compile MODEL -o F.kqo makes one")
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
            constants = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, UnicodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PlanFileError(f"{name}: damaged, or not a plan file ({reason})") from None
    try:
        text, about = metadata["plan"], metadata["about"]
        if _checksum(text, about, constants) != metadata["checksum"]:
            raise PlanFileError(f"{name}: damaged: the checksum does not match")
        plan = parse_plan(text, constants, file=name)
        verify(plan)
        values = json.loads(about)
        plan = replace(plan, inputs=tuple(map(str, values.pop("inputs"))))
    except PlanFileError:
        raise
    except (KqoError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PlanFileError(f"{name}: damaged ({reason})") from None
    return Stored(plan, values)

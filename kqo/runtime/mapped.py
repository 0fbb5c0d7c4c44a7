"""Arrays that lie in a safetensors file, whose memory can be given back.

An engine keeps kernels in the layouts that its steps read. The constants that they were made from
are needed for little else: in the file they take no memory but what the system has to spare.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_TYPES = {"F32": "<f4", "F64": "<f8"}
_LENGTH = 8
"""Bytes of the number that a safetensors file begins with, the length of its header."""
CAN_MAP = hasattr(mmap.mmap, "madvise")
"""Whether memory can be given back; where it cannot, a mapped file could not be replaced either."""


def mapped(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors of a safetensors file, read from it when they are looked at.

    Args:
        path: a file that the safetensors library has opened without complaint.

    Returns:
        read-only arrays by name. The file may be replaced by another one, but must not be written
        over while they are in use.

    Raises:
        ValueError: a tensor of another type than float32 and float64, or damage.
    """
    with open(path, "rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(whole[:_LENGTH], "little")
    header = json.loads(whole[_LENGTH : _LENGTH + length])
    header.pop("__metadata__", None)
    found = {}
    for name, about in header.items():
        if about["dtype"] not in _TYPES:
            raise ValueError(f"{name} of type {about['dtype']}; accepted: {', '.join(_TYPES)}")
        shape, begin = about["shape"], _LENGTH + length + about["data_offsets"][0]
        kind = np.dtype(_TYPES[about["dtype"]])
        flat: Array = np.frombuffer(whole, kind, math.prod(shape), begin)
        found[name] = flat.reshape(shape)
    return found


def give_back(arrays: Iterable[Array]) -> None:
    """Drop from memory what arrays hold of files; it is read again where it is looked at."""
    if not CAN_MAP:
        return
    files = {id(file): file for array in arrays if (file := _file(array)) is not None}
    for file in files.values():
        file.madvise(mmap.MADV_DONTNEED)


def _file(array: Any) -> mmap.mmap | None:
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, memoryview):
        array = array.obj
    return array if isinstance(array, mmap.mmap) else None

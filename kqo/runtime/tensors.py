"""Tensors of a safetensors file: read without mapping it into memory, and again where need be.

A file that is mapped counts as memory beside the copies that are made of it, and one that is
written over in place ends the process that maps it. The file is kept open, so that it can still be
read where another has taken its name.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from kqo.errors import PlanFileError
from kqo.ir.folded import Constants, releasable
from kqo.ir.plan import Array

POSSIBLE = hasattr(os, "preadv")
"""Whether this system reads at an offset, into an array."""
_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?", "I64": "<i8", "I32": "<i4"},
    **{"I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}
_LENGTH = 8


class Tensors:
    """An open file of tensors.

    Args:
        path: of the file.

    Raises:
        Exception: of any kind, for what is no such file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        length = int.from_bytes(self._bytes(0, _LENGTH), "little")
        self._begin = _LENGTH + length
        self._header = json.loads(self._bytes(_LENGTH, length))
        self._header.pop("__metadata__", None)  # the plan's text, which is not read here

    def constants(self, names: Iterable[str]) -> Constants:
        """The tensors of these names; they are read again where they were released."""
        found = {}
        for name in names:
            read = self._reader(name)
            found[name] = releasable(name, read(), read, self._changed)
        return Constants(found)

    def _reader(self, name: str) -> Callable[[], Array]:
        about = self._header[name]
        dtype, shape = np.dtype(_TYPES[about["dtype"]]), tuple(about["shape"])
        first, end = about["data_offsets"]
        if end - first != math.prod(shape) * dtype.itemsize:
            raise PlanFileError(f"{self._path}: damaged: {name!r} has another size than its shape")
        self._check(self._begin + first, end - first)
        return partial(self._read, self._begin + first, dtype, shape)

    def _read(self, offset: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        found = np.empty(shape, dtype)
        self._fill(found.reshape(-1).view(np.uint8).data, offset)
        return found

    def _bytes(self, offset: int, count: int) -> bytes:
        self._check(offset, count)
        found = bytearray(count)
        self._fill(memoryview(found), offset)
        return bytes(found)

    def _check(self, offset: int, count: int) -> None:
        if not 0 <= offset <= offset + count <= os.fstat(self._file).st_size:
            raise PlanFileError(f"{self._path}: damaged: it ends early")

    def _fill(self, into: memoryview, offset: int) -> None:
        done = 0
        while done < len(into):  # one call reads 2 GB at most
            count = os.preadv(self._file, [into[done:]], offset + done)
            if not count:
                raise PlanFileError(f"{self._path}: damaged: it ends early")
            done += count

    def _changed(self, name: str) -> PlanFileError:
        return PlanFileError(
            f"{self._path}: {name!r} was changed in the file after the plan was loaded",
            hint="load it again",
        )

"""Memory that is given back to the system, or taken from it past the allocator."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.ir.folded import Constants

LARGE = 1 << 20
"""Bytes from which on scratch is taken past the allocator."""


def give_back() -> None:
    """Have the allocator return what is free, which it otherwise keeps below what is not."""
    # Allocators other than glibc's have no such call.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def release(constants: Constants) -> None:
    """Free the memory of constants that can be had again."""
    constants.release()
    give_back()


def scratch(size: int, dtype: Any) -> NDArray[Any]:
    """An uninitialized array (size,) whose memory goes back to the system when it is dropped.

    The allocator may keep what it had back, in holes that nothing larger fits into: arrays that
    grow from step to step would take their memory twice.
    """
    nbytes = size * np.dtype(dtype).itemsize
    if nbytes < LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.empty(size, dtype=dtype)
    taken = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # not every system has large pages
        taken.madvise(mmap.MADV_HUGEPAGE)  # which NumPy asks for, too
    return np.frombuffer(taken, dtype=dtype, count=size)

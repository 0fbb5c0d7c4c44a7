"""One BLAS thread per worker, and the right kernels for the processor.

OpenBLAS picks its kernels from a table of processors that it knows. One that it does not know gets those
of an older one: on AMD's Zen 5 NumPy 2.4 runs AVX2 kernels, at half the speed of the AVX-512 ones that
the same library holds. See docs/decisions/0002-openblas-kernels.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import ThreadpoolController

_LOCK = threading.Lock()
_DEPTH = 0
_LIMIT: contextlib.ExitStack | None = None
_SELECTED = False


def _has_avx512() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    wanted = {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}
    for line in flags.splitlines():
        if line.startswith("flags"):
            return wanted <= set(line.split())
    return False


def select_kernels() -> None:
    """Have NumPy's OpenBLAS use AVX-512 kernels where the processor has them and it chose others.

    Does nothing where OPENBLAS_CORETYPE is set by the user, where the library is another one or hides
    its switch, or where it chose well. Call before worker threads run.
    """
    global _SELECTED  # noqa: PLW0603 - once per process
    with _LOCK:
        if _SELECTED:
            return
        _SELECTED = True
        if os.environ.get("OPENBLAS_CORETYPE") or not _has_avx512():
            return
        for library in ThreadpoolController().select(internal_api="openblas").info():
            if library.get("architecture") not in ("Haswell", "Zen"):
                continue
            handle = ctypes.CDLL(library["filepath"])
            quit_, init = (
                getattr(handle, n, None) for n in ("gotoblas_dynamic_quit", "gotoblas_dynamic_init")
            )
            if quit_ is None or init is None:
                continue
            os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"
            try:
                quit_()
                init()
            finally:
                del os.environ["OPENBLAS_CORETYPE"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS to one thread while any caller is inside; counts references across threads."""
    global _DEPTH, _LIMIT  # noqa: PLW0603 - process-wide by nature
    with _LOCK:
        if _DEPTH == 0:
            _LIMIT = contextlib.ExitStack()
            _LIMIT.enter_context(ThreadpoolController().limit(limits=1, user_api="blas"))
        _DEPTH += 1
    try:
        yield
    finally:
        with _LOCK:
            _DEPTH -= 1
            if _DEPTH == 0 and _LIMIT is not None:
                _LIMIT.close()
                _LIMIT = None

"""Compiled kernels on disk: keyed by everything that decides the machine code.

A file is the SHA-256 of the code, then the code; one that is damaged is written anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from kqo.emit.cuda_program import Kernel
from kqo.runtime.cuda import nvrtc

DIGEST = hashlib.sha256().digest_size
"""Bytes before the code."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``KQO_CACHE``, or the user's cache folder."""
    given = os.environ.get("KQO_CACHE")
    return (Path(given) if given else user_cache_path("kqo")) / "cuda"


def _key(kernel: Kernel, capability: int) -> str:
    about = (nvrtc.version(), nvrtc.OPTIONS, capability, kernel.source)
    return hashlib.sha256(repr(about).encode()).hexdigest()


def compiled(kernel: Kernel, capability: int) -> bytes:
    """Machine code of a kernel, from the cache where it is there.

    A cache that cannot be read or written is no error: the kernel is compiled again next time.

    Raises:
        DeviceError: NVRTC is missing, or rejects the text.
    """
    path = cache_folder() / f"{_key(kernel, capability)}.cubin"
    with suppress(OSError):
        stored = path.read_bytes()
        digest, code = stored[:DIGEST], stored[DIGEST:]
        if hashlib.sha256(code).digest() == digest:
            return code
    code = nvrtc.compile_kernel(kernel.source, capability, kernel.name)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)  # whole or not at all, also beside other processes
    return code


def compile_all(kernels: Iterable[Kernel], capability: int) -> dict[str, bytes]:
    """Machine code of several kernels by name, compiled on all processors."""
    listed = list(kernels)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        codes = pool.map(lambda kernel: compiled(kernel, capability), listed)
        return {kernel.name: code for kernel, code in zip(listed, codes, strict=True)}

"""Compiled kernels on disk: keyed by everything that decides the machine code.

A file's name ends with the SHA-256 of what is in it, so that the GPU's driver reads what was looked
at; one that is damaged is written anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_path

from kqo.emit.cuda_program import Kernel
from kqo.errors import DeviceError
from kqo.runtime.cuda import nvrtc

KEY = 40
"""Hexadecimal digits of a key; some file systems take names of no more than 143 bytes."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``KQO_CACHE``, or the user's cache folder."""
    given = os.environ.get("KQO_CACHE")
    return (Path(given) if given else user_cache_path("kqo")) / "cuda"


@lru_cache(maxsize=1)
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """This process's own, for where the cache cannot be written."""
    return tempfile.TemporaryDirectory(prefix="kqo-cuda-", ignore_cleanup_errors=True)


def _key(kernel: Kernel, capability: int) -> str:
    about = (nvrtc.version(), nvrtc.OPTIONS, capability, kernel.source)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:KEY]


def _found(folder: Path, key: str) -> Path | None:
    """The file of a key that is as it was written; removes others."""
    for path in sorted(folder.glob(f"{key}-*.cubin")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == path.stem.partition("-")[2]:
            return path
        path.unlink()
    return None


def _written(folder: Path, key: str, code: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(code)
    path = folder / f"{key}-{hashlib.sha256(code).hexdigest()}.cubin"
    os.replace(temporary, path)  # whole or not at all, also beside other processes
    return path


def compiled(kernel: Kernel, capability: int) -> Path:
    """A file with the machine code of a kernel, from the cache where it is there.

    A cache that cannot be read or written is no error: the kernel is compiled again next time.

    Raises:
        DeviceError: NVRTC is missing, or rejects the text; or no file can be written anywhere.
    """
    key = _key(kernel, capability)
    with suppress(OSError):
        path = _found(cache_folder(), key)
        if path is not None:
            return path
    code = nvrtc.compile_kernel(kernel.source, capability, kernel.name)
    with suppress(OSError):
        return _written(cache_folder(), key, code)
    try:
        return _written(Path(_own_folder().name), key, code)
    except OSError as error:
        raise DeviceError(
            f"compiled kernels cannot be written: {error.strerror}", hint="KQO_CACHE=FOLDER"
        ) from None


def compile_all(kernels: Iterable[Kernel], capability: int) -> dict[str, Path]:
    """Files with the machine code of several kernels by name, compiled on all processors."""
    listed = list(kernels)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        paths = pool.map(lambda kernel: compiled(kernel, capability), listed)
        return {kernel.name: path for kernel, path in zip(listed, paths, strict=True)}

"""Compiling CUDA source by NVRTC, NVIDIA's run-time compiler, through ctypes.

The library comes from the wheel ``nvidia-cuda-nvrtc-cu12``, from a CUDA toolkit, or from wherever
the dynamic linker finds it. NVRTC 13, which the wheels of PyTorch for CUDA 13 bring, comes last: it
writes no code for compute capability 7.0, and code of a toolkit that is newer than the driver may
not load.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import os
import re
import site
import sys
from dataclasses import dataclass
from functools import lru_cache

from kqo.errors import DeviceError

OPTIONS = ("--std=c++14", "--device-as-default-execution-space")
HINT = "pip install nvidia-cuda-nvrtc-cu12"


def _candidates() -> list[str]:
    found: list[str] = []
    newer: list[str] = []
    for folder in (*site.getsitepackages(), site.getusersitepackages(), *sys.path):
        found += sorted(glob.glob(f"{folder}/nvidia/cuda_nvrtc/lib/libnvrtc.so.*[0-9]"))
        found += sorted(glob.glob(f"{folder}/nvidia/cuda_nvrtc/bin/nvrtc64_*_0.dll"))
        newer += sorted(glob.glob(f"{folder}/nvidia/cu13/lib/libnvrtc.so.*[0-9]"))
    for home in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home:
            found += sorted(glob.glob(f"{home}/lib64/libnvrtc.so.*[0-9]"))
    by_name = ctypes.util.find_library("nvrtc")
    linked = [*([by_name] if by_name else []), "libnvrtc.so.12"]
    return [*dict.fromkeys([*found, *linked, *newer])]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The NVRTC library; DeviceError where there is none."""
    for path in _candidates():
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise DeviceError("NVRTC, which compiles CUDA kernels, is not installed", hint=HINT)


def version() -> tuple[int, int]:
    """Major and minor version of NVRTC."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def _check(status: int) -> None:
    if status:
        describe = library().nvrtcGetErrorString
        describe.restype = ctypes.c_char_p
        raise DeviceError(f"NVRTC: {describe(status).decode()}")


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


@lru_cache(maxsize=1)
def architectures() -> tuple[int, ...]:
    """Compute capabilities that this NVRTC writes machine code for, ascending."""
    count = ctypes.c_int()
    _check(library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    found = (ctypes.c_int * count.value)()
    _check(library().nvrtcGetSupportedArchs(found))
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Assembled:
    """What a kernel takes of a multiprocessor.

    Attributes:
        registers: per thread.
        spilled: bytes per thread that did not fit the registers.
    """

    registers: int
    spilled: int


def assembled(source: str, capability: int) -> Assembled:
    """What the assembler says of a text with one kernel.

    Raises:
        DeviceError: NVRTC is missing, or rejects the text.
    """
    log = _compiled(source, f"sm_{capability}", "kernel", "--ptxas-options=-v")[1]
    registers = re.findall(r"Used (\d+) registers", log)
    spilled = re.findall(r"(\d+) bytes spill stores", log)
    return Assembled(int(registers[-1]), int(spilled[-1]))


def compile_kernel(source: str, capability: int, name: str = "kernel") -> bytes:
    """Machine code (a cubin) of CUDA source for one compute capability.

    For a GPU that is newer than NVRTC it is PTX for the newest that NVRTC knows, which the driver
    translates as it is loaded.

    Args:
        source: the text.
        capability: such as 80 for sm_80.
        name: how messages of the compiler call the text.

    Raises:
        DeviceError: NVRTC is missing, or rejects the text; with its log.
    """
    known = architectures()
    if capability < known[0]:
        raise DeviceError(
            f"NVRTC {'.'.join(map(str, version()))} writes no code for compute capability "
            f"{capability / 10}, but from {known[0] / 10} on",
            hint=HINT,
        )
    newer = capability not in known
    newest = max((a for a in known if a < capability), default=capability)
    target = f"compute_{newest}" if newer else f"sm_{capability}"
    return _compiled(source, target, name)[0]


def _compiled(source: str, target: str, name: str, *options: str) -> tuple[bytes, str]:
    """PTX or machine code, and the compiler's log."""
    nvrtc = library()
    program = ctypes.c_void_p()
    _check(
        nvrtc.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None
        )
    )
    try:
        every = [f"--gpu-architecture={target}", *OPTIONS, *options]
        given = (ctypes.c_char_p * len(every))(*(o.encode() for o in every))
        status = nvrtc.nvrtcCompileProgram(program, len(every), given)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if status:
            raise DeviceError(f"{name} does not compile for {target}: {log}")
        if target.startswith("sm_"):
            return _text(program, "CUBIN"), log
        return _text(program, "PTX").rstrip(b"\0"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))

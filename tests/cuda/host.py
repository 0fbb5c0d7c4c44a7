"""A device of the tests: kernels compiled by g++ over a shim, run on the processor."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from kqo.emit.cuda_program import Kernel
from kqo.emit.cuda_step import prelude

WORKERS = 2
SHIM = Path(__file__).parent / "shim.h"
FLAGS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-w", "-fwrapv", "-Wl,-Bsymbolic")
ENTRY = re.compile(
    r'extern "C" __global__ void(?: __launch_bounds__\([\d, ]+\))? (\w+)\((.*?)\)\n', re.S
)


def has_compiler() -> bool:
    return shutil.which("g++") is not None


def _wrapper(source: str) -> str:
    """Entry points that run a grid: run_NAME(arguments, grid, threads, shared)."""
    lines = []
    for name, parameters in ENTRY.findall(source):
        types = [re.sub(r"\s*__restrict__", "", p).strip() for p in parameters.split(",")]
        split = [re.match(r"(.*?)(\w+)$", t, re.S).groups() for t in types]
        declared = "".join(f"static {kind.strip()} g_{name}_{arg};\n" for kind, arg in split)
        taken = "".join(
            f"    g_{name}_{arg} = *({kind.strip()}*)arguments[{i}];\n"
            for i, (kind, arg) in enumerate(split)
        )
        given = ", ".join(f"g_{name}_{arg}" for _, arg in split)
        lines.append(
            f"{declared}static void body_{name}() {{ {name}({given}); }}\n"
            f'extern "C" void run_{name}(void** arguments, const int* grid, int threads,'
            " int bytes)\n"
            f"{{\n{taken}    kqo::run_grid(body_{name}, grid, threads, bytes);\n}}\n"
        )
    return "\n".join(lines)


class HostDevice:
    """As :class:`kqo.runtime.cuda.device.Device`, on the processor.

    Args:
        folder: where compiled kernels are kept.
        capability: of the GPU that kernels are compiled for: it decides how they copy and multiply.
    """

    xp = np
    name = "host"

    def __init__(self, folder: Path, capability: int = 80) -> None:
        self.folder = folder
        self.capability = capability
        self.out_of_memory = (MemoryError,)
        self.launches: list[str] = []
        self.free = 1 << 30

    def active(self):
        return nullcontext()

    def load(self, kernels: dict[str, Kernel]) -> dict[str, object]:
        """All kernels in a few libraries, each kernel in a namespace of its own."""
        texts = list({kernel.source: None for kernel in kernels.values()})
        parts = [texts[i::WORKERS] for i in range(WORKERS) if texts[i::WORKERS]]
        found = {}
        for part, library in zip(parts, self._libraries(parts), strict=True):
            for source in part:
                for name, _ in ENTRY.findall(source):
                    found[name] = getattr(library, f"run_{name}")
        return {name: found[name] for name in kernels}

    def _libraries(self, parts: list[list[str]]) -> list[ctypes.CDLL]:
        running, paths = [], []
        for sources in parts:
            about = ("".join(sources), SHIM.read_text(), FLAGS, self.capability)
            path = self.folder / f"{hashlib.sha256(repr(about).encode()).hexdigest()[:24]}.so"
            paths.append(path)
            if path.exists():
                continue
            text = path.with_suffix(".cpp")
            bodies = [
                f"namespace kernel{i} {{\n{source.removeprefix(prelude())}\n{_wrapper(source)}}}\n"
                for i, source in enumerate(sources)
            ]
            text.write_text(prelude() + "".join(bodies))
            command = ["g++", *FLAGS, f"-D__CUDA_ARCH__={self.capability * 10}"]
            command += ["-include", str(SHIM), str(text), "-o", str(path)]
            running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for process in running:
            _, log = process.communicate()
            assert process.returncode == 0, log
        return [ctypes.CDLL(str(path)) for path in paths]

    def launch(self, function, grid, threads, shared, args) -> None:
        self.launches.append(function.__name__.removeprefix("run_"))
        values = [
            ctypes.c_int(a) if isinstance(a, int) else ctypes.c_void_p(a.ctypes.data) for a in args
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        function(pointers, (ctypes.c_int * 3)(*grid), threads, shared)

    def asarray(self, value):
        return np.asarray(value, dtype=np.float32)

    def numpy(self, value):
        return np.array(value)

    def free_bytes(self) -> int:
        return self.free

    def release(self) -> None:
        pass

    def record(self):
        class Done:
            def synchronize(self) -> None:
                pass

        return Done()

    def capture(self, work):
        return work

    def milliseconds(self, work) -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1e3

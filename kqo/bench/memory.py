"""Peak memory of a piece of work, in this process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kqo.runtime.heap import give_back

_STATM = Path("/proc/self/statm")
INTERVAL = 0.005  # seconds between samples


@dataclass
class Peak:
    """Bytes of resident memory above what the process held before; None where that is not known."""

    bytes: int | None = None


def resident() -> int | None:
    """Resident bytes of this process, None on systems that do not tell."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Sample resident memory while the block runs; the yielded object holds the peak afterwards."""
    give_back()  # what is free would hide what is taken next
    before = resident()
    found = Peak()
    if before is None:
        yield found
        return
    stop = threading.Event()
    top = before

    def sample() -> None:
        nonlocal top
        while not stop.wait(INTERVAL):
            top = max(top, resident() or 0)

    sampler = threading.Thread(target=sample, name="kqo-memory", daemon=True)
    sampler.start()
    try:
        yield found
    finally:
        stop.set()
        sampler.join()
        found.bytes = max(top, resident() or 0) - before

"""Measures a machine's rates with NumPy on one core, and keeps them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from kqo.errors import ArgumentError
from kqo.planner.cost import BLOCK_BYTES, FEWEST_ROWS, WORD, tiles_in_block
from kqo.planner.rates import REFERENCE, Rates

Values = NDArray[np.float32]
VARIABLE = "KQO_RATES"
"""Environment variable: ``reference`` has the shipped rates used, a path those of that file."""
BEYOND = 64 << 20
"""Bytes of an array that no cache holds."""
_ROUNDS = 21
_LEAST = 4e-3


def current_rates() -> Rates:
    """The rates of this machine where it was calibrated, else the reference.

    Raises:
        ArgumentError: the environment names a file that holds no rates.
    """
    given = os.environ.get(VARIABLE, "")
    if given == "reference":
        return REFERENCE
    if given:
        try:
            return Rates.from_dict(json.loads(Path(given).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())
            accepted = "'reference', or a file of kqo calibrate"
            raise ArgumentError(VARIABLE, f"{given} ({reason})", accepted) from None
    return read(cache_file()) or REFERENCE


def read(path: Path) -> Rates | None:
    """Rates that were kept; None where nothing was, or by a version that measured other rates."""
    try:
        return Rates.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def machine_key() -> str:
    """What rates depend on: the processor, NumPy's version and its BLAS.

    Other packages bring a BLAS of their own, and may be loaded or not.
    """
    found = [info for info in ThreadpoolController().info() if info.get("user_api") == "blas"]
    own = [info for info in found if "numpy" in str(info.get("filepath"))]
    libraries = [
        (info.get("internal_api"), info.get("version"), info.get("architecture"))
        for info in own or found
    ]
    about = (platform.machine(), _processor(), np.__version__, sorted(map(str, libraries)))
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor()


def cache_file() -> Path:
    """Where the rates of this machine are kept."""
    from platformdirs import user_cache_path

    return user_cache_path("kqo") / f"rates-{machine_key()}.json"


def keep(rates: Rates, path: Path) -> None:
    """Write rates to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(rates.to_dict(), indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def calibrate(progress: Callable[[str], None] | None = None) -> Rates:
    """Measure the rates of one core; takes a few seconds.

    Times are processor times and medians, so that other programs disturb little.

    Args:
        progress: called with the name of what is measured next.
    """
    say = progress or (lambda name: None)
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        say("matrix products")
        call, gemm, panel = _products()
        say("Winograd")
        batched, transform = _winograd(panel)
        say("gathers")
        gather_row, gather = _gathers(call)
        say("elementwise operations")
        elementwise = _elementwise(call)
        say("row numbers")
        index, bind = _indices()
    return Rates(
        REFERENCE.inner,
        REFERENCE.wide,
        gemm,
        panel=panel,
        batched=batched,
        transform=transform,
        gather_row=gather_row,
        gather=gather,
        **elementwise,
        call=call,
        index=index,
        bind=bind,
        source="calibrated",
    )


def _time(run: Callable[[], Any]) -> float:
    """Processor seconds of one call: the median of several rounds, since runs are long and see the
    clock rate that the processor sustains, not the one that it starts with."""
    run()
    began = time.thread_time()
    run()
    count = max(1, int(_LEAST / max(time.thread_time() - began, 1e-7)))
    rounds = []
    for _ in range(_ROUNDS):
        began = time.thread_time()
        for _ in range(count):
            run()
        rounds.append((time.thread_time() - began) / count)
    return float(np.median(rounds))


def _random(*shape: int) -> Values:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _products() -> tuple[float, tuple[tuple[float, ...], ...], float]:
    """Seconds of a call, rates by inner size and columns, and bytes per second of right sides."""
    one, result = _random(1, 1), _random(1, 1)
    call = _time(lambda: np.matmul(one, one, out=result))
    left, right, out = _random(FEWEST_ROWS, 2304), _random(2304, 512), _random(FEWEST_ROWS, 512)
    many = _time(lambda: np.matmul(left, right, out=out))
    few = _time(lambda: np.matmul(left[:32], right, out=out[:32]))
    per_call = max(few - 32 * (many - few) / (FEWEST_ROWS - 32), 1e-6)
    panel = right.nbytes / per_call
    table = []
    for inner in REFERENCE.inner:
        rates = []
        rows = min(max(FEWEST_ROWS, BLOCK_BYTES // (inner * WORD)), 8192)
        x = _random(rows, inner)
        for wide in REFERENCE.wide:
            kernel, y = _random(inner, wide), np.empty((rows, wide), dtype=np.float32)
            took = _time(lambda x=x, k=kernel, y=y: np.matmul(x, k, out=y))  # type: ignore[misc]
            took = max(took - call - kernel.nbytes / panel, 0.5 * took)
            rates.append(2 * rows * inner * wide / took)
        table.append(tuple(rates))
    return call, tuple(table), panel


def _winograd(panel: float) -> tuple[float, float]:
    """Rates for many features, where most of the time goes: harmonic means."""
    found = [_winograd_of(columns, panel) for columns in (256, 512)]
    products, transforms = (
        2 / sum(1 / rate for rate in rates) for rates in zip(*found, strict=True)
    )
    return products, transforms


def _winograd_of(columns: int, panel: float) -> tuple[float, float]:
    """Operations per second of the products, and of the transforms, of F(4x4, 3x3)."""
    tiles = tiles_in_block(36 * columns * WORD)
    x, v, m = (_random(tiles, 36, columns) for _ in range(3))
    y = _random(tiles, 16, columns)
    b, a, kernel = _random(36, 36), _random(16, 36), _random(36, columns, columns)
    took = _time(lambda: np.matmul(b, x, out=v)) + _time(lambda: np.matmul(a, m, out=y))
    transform = 2 * tiles * 36 * (36 + 16) * columns / took
    flat, into = v.transpose(1, 0, 2), m.transpose(1, 0, 2)
    took = _time(lambda: np.matmul(flat, kernel, out=into))
    took = max(took - kernel.nbytes / panel, 0.5 * took)
    return 2 * tiles * 36 * columns * columns / took, transform


def _gathers(call: float) -> tuple[float, float]:
    """Seconds per row, and bytes per second of long rows, from a source beyond the second cache."""
    times = []
    for columns in (16, 256):
        rows = BLOCK_BYTES // (columns * WORD)
        source = _random((16 << 20) // (columns * WORD), columns)
        index = np.random.default_rng(0).permutation(len(source))[:rows]
        out = _random(rows, columns)
        took = _time(lambda s=source, i=index, o=out: np.take(s, i, 0, o, "clip"))  # type: ignore[misc]
        times.append(max(took - call, 0.1 * took) / rows)
    per_byte = max((times[1] - times[0]) / (2 * (256 - 16) * WORD), 1e-13)
    return max(times[0] - 2 * 16 * WORD * per_byte, 1e-10), 1 / per_byte


def _elementwise(call: float) -> dict[str, float]:
    shape = (BLOCK_BYTES // (128 * WORD), 128)
    x, y, row = _random(*shape), _random(*shape), _random(1, 128)
    runs: dict[str, Callable[[], Any]] = {
        "scalar": lambda: np.maximum(x, 0, out=x),
        "vector": lambda: np.add(x, row, out=y),
        "stream": lambda: np.maximum(x, y, out=x),
        "function": lambda: np.exp(row_like, out=y),
    }
    row_like = _random(*shape)
    found = {name: x.size / (_time(run) - call) for name, run in runs.items()}
    large = _random(BEYOND // WORD)
    copy = np.empty_like(large)
    return {**found, "memory": large.nbytes / _time(lambda: np.copyto(copy, large))}


def _indices() -> tuple[float, float]:
    """Row numbers per second, and the fixed seconds of binding a step, as the runtime does it:
    about twenty passes over the row numbers of a window."""
    times = []
    for rows in (16, 4096):
        y = np.arange(rows).reshape(-1, 1, 1)
        tap = np.arange(3)
        low = np.zeros(rows, dtype=np.int64).reshape(-1, 1, 1)

        def run(y: Any = y, tap: Any = tap, low: Any = low) -> Any:
            down, across = y // 64 + tap.reshape(1, 3, 1), y % 64 + tap.reshape(1, 1, 3)
            linear = down * 64 + across
            inside, local = np.ones(1, dtype=bool), np.zeros(1, dtype=np.int64)
            for key in (down, across):
                offset = key - low
                inside = inside & (offset >= 0) & (offset < 32)
                local = local * 32 + offset
            rows = np.where(inside, local + low, linear)
            outside = (down < 0) | (down >= 64) | (across < 0) | (across >= 64)
            return np.ascontiguousarray(np.where(outside, 0, rows))

        times.append(_time(run))
    per_index = max((times[1] - times[0]) / (9 * (4096 - 16)), 1e-10)
    return 1 / per_index, 2 * times[0]

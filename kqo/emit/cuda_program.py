"""An emitted CUDA program: kernels as text, and the launches that make up a plan.

It is data: which kernel runs over how many rows with which arrays. The runtime resolves the arrays
and the counts, so that the same program runs on any device that can compile and launch its kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

STAGES_ASYNC = 4
STAGES = 2
STATE = 4
"""Integers of the state before the counts: first query, queries, number of the batch, and whether a
view holds NaN or infinity."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Where a table's delta rows are, as far as kernels are specialised on it.

    Attributes:
        region: number of the region; tables with equal rows share one.
        boxes: boxes per query.
        whole: whether every query has every position, in one box.
    """

    region: int
    boxes: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Shapes:
    """What kernels are specialised on beside the plan.

    Attributes:
        deltas: by table, of those that have delta rows.
        changed: by number of a patch step, the axes and boxes per query that it changes.
    """

    deltas: Mapping[int, Delta]
    changed: Mapping[int, tuple[tuple[str, ...], int]]


@dataclass(frozen=True, slots=True)
class Arg:
    """An argument of a launch.

    Kinds: ``state``; ``count``, ``points`` and ``boxes`` of a region; ``tile_count``, ``tiles`` and
    ``stride`` (an int: the most tiles of a batch) of a tiling; ``table``; ``start`` (an int: the
    number of a table's first delta row); ``constant``; ``scratch``; ``changed`` (boxes of a patch
    step); ``result`` (an output by name).
    """

    kind: str
    ref: int | str = 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A CUDA kernel.

    Attributes:
        name: of its entry, extern "C".
        source: the whole text to compile.
        threads: per block.
        shared: bytes of dynamic shared memory.
        shared_stage: further bytes per stage of the copy pipeline.
        stages: of that pipeline from sm_80; before there are 2.
    """

    name: str
    source: str
    threads: int
    shared: int = 0
    shared_stage: int = 0
    stages: int = STAGES_ASYNC

    def shared_bytes(self, capability: int) -> int:
        """Dynamic shared memory on a device of a compute capability such as 80."""
        return self.shared + self.shared_stage * (self.stages if capability >= 80 else STAGES)


@dataclass(frozen=True, slots=True)
class Extent:
    """How many items a launch covers: rows of a region, tiles of a tiling, or a known number.

    Attributes:
        fixed: the number, where the launch is for a view.
        region: the region whose rows are meant, or -1.
        tiling: the tiling whose tiles are meant, or -1.
        queries: whether the queries of a batch are meant.
    """

    fixed: int = 0
    region: int = -1
    tiling: int = -1
    queries: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: ``ceil(extent * width / per_block) * columns`` blocks, ``layers`` deep.

    Attributes:
        kernel: name of the kernel.
        step: number of the plan's step, or -1.
        extent: what it covers.
        args: in the order of the kernel's parameters.
    """

    kernel: str
    step: int
    extent: Extent
    args: tuple[Arg, ...]
    width: int = 1
    per_block: int = 1
    columns: int = 1
    layers: int = 1


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory between two launches of a step: ``floats`` per item of the extent."""

    name: str
    extent: Extent
    floats: int


@dataclass(frozen=True, slots=True)
class Program:
    """Kernels and launches of a plan.

    Attributes:
        kernels: by name; launches that need the same text share one.
        views: launches once per input, in order.
        deltas: launches per batch, in order.
        roots: launches per batch that write whole outputs, in order.
        constants: arrays in the layouts that kernels read, by key.
        scratch: memory that steps use between two of their launches.
        tilings: regions cut into tiles, with the outputs of a tile along both axes.
        precision: of matrix products: float32, tf32 or float16.
        placed: by table whose delta rows are columns of another table's, that table.
        spreading: whether a kernel spreads NaN and infinity to values that do not read them.
    """

    kernels: Mapping[str, Kernel]
    views: tuple[Launch, ...]
    deltas: tuple[Launch, ...]
    roots: tuple[Launch, ...]
    constants: Mapping[str, NDArray[Any]]
    scratch: tuple[Scratch, ...]
    tilings: tuple[tuple[int, tuple[int, int]], ...]
    precision: str
    placed: Mapping[int, int] = field(default_factory=dict)
    spreading: bool = False

    @property
    def stored(self) -> str:
        """The type that rows are stored in: float32 or float16."""
        return "float16" if self.precision == "float16" else "float32"

    @property
    def source(self) -> str:
        """All kernels as one text, for people."""
        return "\n".join(k.source for k in self.kernels.values())


@dataclass
class Collected:
    """A program under construction."""

    kernels: dict[str, Kernel] = field(default_factory=dict)
    views: list[Launch] = field(default_factory=list)
    deltas: list[Launch] = field(default_factory=list)
    roots: list[Launch] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    scratch: dict[tuple[str, Extent], Scratch] = field(default_factory=dict)
    tilings: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    spreading: bool = False
    _names: dict[str, str] = field(default_factory=dict)
    _keys: dict[object, str] = field(default_factory=dict)

    def tiling(self, region: int, outputs: tuple[int, int]) -> int:
        """The number of a region's tiling, which is added at its first use."""
        if (region, outputs) not in self.tilings:
            self.tilings.append((region, outputs))
        return self.tilings.index((region, outputs))

    def kernel(self, base: str, text: str, placeholder: str, **sizes: int) -> str:
        """Adds a kernel unless there is one of the same text; returns its name."""
        if text not in self._names:
            name, number = base, 2
            while name in self.kernels:
                name, number = f"{base}_{number}", number + 1
            self._names[text] = name
            self.kernels[name] = Kernel(name, text.replace(placeholder, name), **sizes)
        return self._names[text]

    def constant(self, base: str, key: object, make: Callable[[], NDArray[Any]]) -> str:
        """Adds the array that ``make`` returns, once for each ``key``; returns its name."""
        if key not in self._keys:
            self._keys[key] = name = f"{base}_{len(self.constants)}"
            self.constants[name] = make()
        return self._keys[key]

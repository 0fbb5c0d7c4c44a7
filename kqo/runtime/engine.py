"""Runs an emitted plan: views once per input, then batches of queries on a thread pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kqo.errors import ArgumentError
from kqo.ir.bind import Known, bind
from kqo.ir.boxes import Boxes, with_untouched
from kqo.ir.nodes import Overlay
from kqo.ir.plan import Array
from kqo.ir.schema import Axes, names, shape
from kqo.options import available_cores
from kqo.planner.physical import PhysicalPlan, Step
from kqo.runtime import blas
from kqo.runtime.bind import Binder, Bound
from kqo.runtime.finite import are_finite
from kqo.runtime.footprint import Footprint
from kqo.runtime.heap import release
from kqo.runtime.opaque import Functions, OpaqueRows, assemble
from kqo.runtime.patch import PatchRows
from kqo.runtime.plain import plain
from kqo.runtime.rows import Ints, Region, everything
from kqo.runtime.schedule import Queue, batches_of
from kqo.runtime.sharing import Sharing
from kqo.runtime.sharing import run as run_step
from kqo.runtime.shrink import Moving, shrinking_of, together
from kqo.runtime.slots import spans_of
from kqo.runtime.storage import Storage
from kqo.runtime.tail import tail_of
from kqo.runtime.templates import Templates
from kqo.runtime.timing import Timings

Values = NDArray[Any]
Progress = Callable[[int, int], None]
NO_QUERIES = np.empty(0, dtype=np.int64)


@dataclass
class _Held:
    """What a worker keeps from its last batch: regions by table, where their rows begin, regions by
    step as it computed them, and steps bound to them."""

    regions: dict[int, Region] = field(default_factory=dict)
    outs: dict[int, Region] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    bounds: dict[int, Bound] = field(default_factory=dict)


class Engine:
    """An emitted plan bound to positions. One engine serves any number of inputs, one at a time.

    Args:
        plan: the physical plan.
        source: its emitted Python source.
        changed: the region relation of each base relation, over the axes of its Scan.
        threads: worker threads; by default the processors that this process may use.
        memory: bytes for views, delta rows, row numbers and scratch; decides the batch size, and
            cuts the threads where one query each takes more.
        batch: queries per batch, in place of that decision.
        opaques: what torch runs, by the name of the plan's Opaque nodes.
        known: regions that are bound already, with the query that changes nothing.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        source: str,
        changed: Mapping[str, Boxes],
        *,
        threads: int | None = None,
        memory: int | None = None,
        batch: int | None = None,
        opaques: Functions | None = None,
        known: Known | None = None,
    ) -> None:
        self.plan = plan
        self._opaques: Functions = opaques or {}
        self.source = source
        self.changed = with_untouched(changed)
        self.queries = next(iter(self.changed.values())).queries
        self.workers = min(threads or available_cores(), self.queries)
        if any(not s.delta and not s.once for s in plan.steps):
            self.workers = 1  # a view that is recomputed per batch cannot be shared by workers
        self._lock = threading.Lock()
        self._timings: Timings | None = None
        self._holder: object = None  # whose input the views are of, where some session asked
        self._shrinking = shrinking_of(plan)
        self._moving: Set[int] = self._shrinking.tables if self._shrinking else frozenset()
        self._limits: dict[int, float] = {}
        self._bind_regions(Known() if known is None else known)
        self._sharing = Sharing(plan, self.changed)
        self._tail = tail_of(plan, self.boxes)
        kept = self._tail.kept if self._tail is not None else ()
        spans = spans_of(plan, self.boxes, kept)
        about = (plan, self.boxes, spans, self._tail, self.workers, self.queries, self._batches)
        shares = self._sharing.shares(self.boxes)
        if memory is not None:  # they are of batches of usual size; in smaller ones fewer are equal
            shares = dict.fromkeys(shares, 1.0)
        self._footprint = Footprint(*about, shares, self._moving, memory)
        if memory is not None and batch is None:
            self._footprint = self._footprint.fitted(memory)
            self.workers = self._footprint.workers
        self.batch = min(batch or self._footprint.batch(), self.queries)
        self.batches = self._batches(self.batch)
        self.group = self._footprint.group(self.batch)
        self._allocated = False

    def _batches(self, size: int) -> list[Ints]:
        return batches_of(next(iter(self.changed.values())), size)

    def _load(self) -> None:
        space: dict[str, Any] = {"__name__": f"kqo.emitted.{self.plan.name}"}
        exec(compile(self.source, f"<kqo plan {self.plan.name}>", "exec"), space)
        program = space["PROGRAM"]
        self.functions = [function for function, _ in program]
        held = space["constants"](self.plan.constants)
        for group in held.values():
            for key, value in group.items():
                group[key] = np.asarray(value, dtype=self.plan.dtype)
        self.constants: list[dict[str, Array]] = [held[k] if k else {} for _, k in program]

    def _bind_regions(self, known: Known) -> None:
        """The most rows of each table with delta rows; tables with equal ones share one region."""
        rows: dict[tuple[Any, ...], Boxes] = {}
        self.boxes: dict[int, Boxes] = {}
        for table in self.plan.tables:
            if table.region is None:
                continue
            own = names(table.positions)
            boxes = known.project(bind(table.region, self.changed, known), own)
            if table.id in self._moving:  # other rows may be left of it when the plan runs
                boxes = rows.setdefault((table.region, own), Boxes(own, boxes.lo, boxes.hi))
            self.boxes[table.id] = boxes
        parts = self._shrinking.fixed if self._shrinking is not None else ()
        self._fixed = {part: bind(part, self.changed, known) for part in parts}

    def _allocate(self) -> None:
        self._load()
        footprint = self._footprint
        self.storage = Storage(footprint, footprint.capacities(self.batches, self.group))
        release(self.plan.constants)
        self._held = [(_Held(), _Held()) for _ in range(self.workers)]
        self._views: dict[int, Bound] = {}
        self._templates = Templates(footprint.template_bytes(self.batch, self.group))
        self._allocated = True

    @property
    def least_bytes(self) -> int:
        """Bytes that a run takes with one thread and one query at a time."""
        return self._footprint.least

    @property
    def planned_bytes(self) -> int:
        """Bytes that a run takes, as they were counted to choose the batch."""
        return self._footprint.needed(self.batch, self.group)

    @property
    def nbytes(self) -> int:
        """Bytes of rows and scratch held, without the constants."""
        return self.storage.nbytes if self._allocated else 0

    @cached_property
    def distinct(self) -> dict[int, Boxes]:
        """The rows that steps compute which compute equal ones once, by their number."""
        return self._sharing.of_all(self.boxes, self.batches)

    def views_are_finite(self) -> bool:
        """Whether no value of a base relation or view of the last run is NaN or infinite."""
        return are_finite(self.storage.views())

    def _bound(
        self,
        step: Step,
        number: int,
        binder: Binder,
        out: Region,
        batch: Ints,
        made: dict[Any, Any],
        last: Bound | None = None,
    ) -> Bound:
        if step.shared:
            return self._sharing.bind(number, binder, out, batch, last)
        bound = binder.bind(step, out, last)
        k = self.constants[number]
        if step.form == "plain":
            run = plain(step, binder, out, k)

            def write(a: int, z: int) -> None:
                bound.target[a:z] = run(a, z)

            bound.plain = write
        elif step.form == "patch":
            assert isinstance(step.node, Overlay)
            boxes = bind(step.node.at, self.changed).select(batch)
            patch = PatchRows(step, binder, out, boxes, k)
            bound.overlay = lambda a, z: patch.write(bound.target, a, z)
        elif step.form == "opaque":
            opaque = OpaqueRows(step, binder, out.boxes.queries, self._opaques, made)
            bound.plain = lambda a, z: opaque.write(bound.target)
        return bound

    def _run_views(self, pool: ThreadPoolExecutor) -> None:
        for number, step in enumerate(self.plan.steps):
            if step.delta or not step.once or step.leader is not None:
                continue
            bound = self._view_bound(number, step)
            shares = [bound.blocks[w :: self.workers] for w in range(self.workers)]
            done = [
                pool.submit(self._run_view, number, bound, w, blocks)
                for w, blocks in enumerate(shares[1:], 1)
                if blocks
            ]
            # A hand-over to another thread takes longer than a small step.
            self._run_view(number, bound, 0, shares[0])
            for future in done:
                future.result()
        if self._shrinking is not None:
            self._limits = self._shrinking.limits(self.storage.buffers)

    def _run_view(
        self, number: int, bound: Bound, worker: int, blocks: list[tuple[int, int]]
    ) -> None:
        began = time.thread_time()
        with np.errstate(all="ignore"):
            self.functions[number](
                bound, self.constants[number], self.storage.workspaces[worker], blocks
            )
        if self._timings is not None:
            self._timings.note(worker, number, began, began, time.thread_time())

    def _view_bound(self, number: int, step: Step) -> Bound:
        if number not in self._views:
            table = self.plan.tables[step.table]
            binder = Binder(self.plan.tables, self.storage.buffers, {}, {}, parts=self.workers)
            out = everything(table.positions, 1)
            self._views[number] = self._bound(step, number, binder, out, NO_QUERIES, {})
        return self._views[number]

    def _regions(self, batch: Ints, held: _Held, tables: Collection[int]) -> dict[int, Region]:
        """The rows of each table; the same object as before where they are those of before."""
        found: dict[int, Region] = {}
        shared: dict[tuple[int, Axes], Region] = {}
        for table in tables:
            boxes = self.boxes[table]
            # Equal boxes may be all of one relation and part of a larger one.
            key = (id(boxes), self.plan.tables[table].positions)
            if key not in shared:
                made = Region(key[1], boxes.select(batch))
                before = held.regions.get(table)
                shared[key] = before if before and before.same_rows(made) else made
            found[table] = shared[key]
        return found

    def _run_group(
        self,
        batches: list[Ints],
        worker: int,
        results: dict[str, Values],
        done: Callable[[int], bool],
    ) -> None:
        """Run batches one by one, and what is behind the last window for all of them at once."""
        slots = dict(self.storage.slots[worker])
        before, behind = self._held[worker]
        tail = self._tail
        head = self.boxes.keys() - tail.own if tail is not None else self.boxes.keys()
        end = tail.first if tail is not None else len(self.plan.steps)
        left: dict[int, list[Region]] = {}
        for batch in batches:
            binder = self._run_steps(range(end), batch, worker, head, before, slots)
            if tail is None:
                self._store(binder, batch, results)
            for table in tail.kept if tail is not None else ():
                slots[table] += binder.regions[table].count
                if table in self._moving:
                    left.setdefault(table, []).append(binder.regions[table])
            if done(len(batch)):
                return
        if tail is not None:
            steps, every = range(end, len(self.plan.steps)), np.concatenate(batches)
            slots = self.storage.slots[worker]
            given = {table: together(regions) for table, regions in left.items()}
            binder = self._run_steps(steps, every, worker, tail.tables, behind, slots, given)
            self._store(binder, every, results)

    def _store(self, binder: Binder, batch: Ints, results: dict[str, Values]) -> None:
        for name, table, axes in self.plan.roots:
            results[name][batch] = assemble(binder, table, axes, len(batch), delta=True)

    def _run_steps(
        self,
        numbers: range,
        batch: Ints,
        worker: int,
        tables: Set[int],
        held: _Held,
        slots: dict[int, int],
        given: Mapping[int, Region] | None = None,
    ) -> Binder:
        """Run some steps for a batch, and return what binds them.

        Args:
            numbers: of the steps.
            batch: its queries.
            worker: that runs it.
            tables: those with delta rows that the steps read and write.
            held: what is kept from the last batch.
            slots: where delta rows begin, by table.
            given: regions that earlier steps cut, by table.
        """
        regions = self._regions(batch, held, tables - self._moving) | dict(given or {})
        moving = None
        if self._shrinking is not None:
            changed = {name: boxes.select(batch) for name, boxes in self.changed.items()}
            fixed = {part: boxes.select(batch) for part, boxes in self._fixed.items()}
            moving = Moving(self._shrinking, changed, regions, held.regions, fixed)
        rows, ends = self.storage.rows[worker], self.storage.ends[worker]
        binder = Binder(self.plan.tables, rows, regions, slots, self._templates, ends=ends)
        workspace = self.storage.workspaces[worker]
        made: dict[Any, Any] = {}
        outs: dict[int, Region] = {}
        bounds: dict[int, Bound] = {}
        timings = self._timings
        began = at = time.thread_time()

        def stays(number: int, step: Step) -> bool:
            if step.shared or step.form in ("patch", "opaque"):
                return False  # what they write depends on more than which rows there are
            if outs[number] is not held.outs.get(number):
                return False
            read = step.reads
            return all(regions.get(t) is held.regions.get(t) for t in read) and all(
                slots.get(t) == held.slots.get(t) for t in (*step.writes, *read)
            )

        for number in numbers:
            step = self.plan.steps[number]
            if step.leader is not None:
                continue
            if step.delta:
                last = held.bounds.pop(number, None)
                if moving is None:
                    outs[number] = regions[step.table]
                else:
                    outs[number] = moving.out(number, held.outs.get(number))
                if last is not None and stays(number, step):
                    bound = last
                else:
                    bound = self._bound(step, number, binder, outs[number], batch, made, last)
                bounds[number] = bound
            elif not step.once:
                bound = self._view_bound(number, step)
            else:
                continue
            if timings is not None:
                at = time.thread_time()
            if bound.blocks:
                run_step(bound, self.functions[number], self.constants[number], workspace)
            if number in self._limits:
                assert moving is not None
                views = self.storage.buffers[step.table]
                moving.measure(number, outs, binder, views, self._limits[number], workspace)
            if timings is not None:
                ended = time.thread_time()
                timings.note(worker, number, began, at, ended)
                began = ended
        held.regions, held.outs, held.slots, held.bounds = regions, outs, dict(slots), bounds
        return binder

    def run(
        self,
        inputs: Mapping[str, Array],
        progress: Progress | None = None,
        timings: Timings | None = None,
    ) -> dict[str, Values]:
        """Answer all queries for one input.

        Args:
            inputs: each base relation's values, shaped as its axes.
            progress: called with the number of queries done and their total.
            timings: filled with the time of each step, where given.

        Returns:
            for each output an array (queries + 1, *axes): the last row is for the untouched input.

        Raises:
            ArgumentError: an input is missing or has another shape.
        """
        with self._lock, np.errstate(all="ignore"), blas.one_thread():
            if not self._allocated:
                self._allocate()
            began = time.perf_counter()
            self._timings, self._holder = timings, None
            if timings is not None:
                timings.share(self.workers)
            self._take(inputs)
            results = self.results()
            with ThreadPoolExecutor(self.workers, thread_name_prefix="kqo") as pool:
                self._run_views(pool)
                self.run_batches(pool, self.batches, results, progress)
            if timings is not None:
                timings.wall = time.perf_counter() - began
            return results

    def results(self) -> dict[str, Values]:
        """Room for the outputs of all queries, by output name; nothing is in it yet."""
        roots = self.plan.roots
        return {n: np.empty((self.queries, *shape(a)), dtype=self.plan.dtype) for n, _, a in roots}

    def prepare(self) -> None:
        """Load the source, transform the constants and take memory, where that is still to do."""
        with self._lock:
            if not self._allocated:
                self._allocate()

    @contextmanager
    def holding(self, holder: object, inputs: Mapping[str, Array]) -> Iterator[None]:
        """The engine for one holder, with the holder's input; views stay where nobody else ran."""
        with self._lock:
            if not self._allocated:
                self._allocate()
            if self._holder is not holder:
                self._holder, self._timings = None, None
                self._take(inputs)
                with ThreadPoolExecutor(self.workers) as pool, blas.one_thread():
                    self._run_views(pool)
                self._holder = holder
            yield

    def fitting(self, queries: Ints) -> list[Ints]:
        """Batches of any queries whose rows fit in the memory that is there."""
        share = max(1, min(self.batch, -(-len(queries) // self.workers)))
        room = self._footprint.capacities(self.batches)
        left = [queries[at : at + share] for at in range(0, len(queries), share)]
        found: list[Ints] = []
        while left:
            part = left.pop()
            need = self._footprint.capacities([part])
            if all(need[t] <= room[t] for t in need):
                found.append(part)
            else:  # one query always fits: it is in one of the usual batches
                left += np.array_split(part, 2)
        return found

    def run_batches(
        self,
        pool: ThreadPoolExecutor,
        batches: list[Ints],
        results: dict[str, Values],
        progress: Progress | None,
    ) -> None:
        """Write the outputs of batches into their rows of the outputs of all queries."""
        stop = threading.Event()
        count = threading.Lock()
        so_far = 0
        queue = Queue(len(batches), self.workers, self.group)

        def done(queries: int) -> bool:
            nonlocal so_far
            with count:
                so_far += queries
                if progress is not None:
                    progress(min(so_far, self.queries - 1), self.queries - 1)
            return stop.is_set()

        def work(worker: int) -> None:
            with np.errstate(all="ignore"):
                while numbers := queue.take():
                    for at in range(0, len(numbers), self.group):
                        group = [batches[n] for n in numbers[at : at + self.group]]
                        self._run_group(group, worker, results, done)
                        if stop.is_set():
                            return

        futures = [pool.submit(work, w) for w in range(self.workers)]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()

    def _take(self, inputs: Mapping[str, Array]) -> None:
        for table in self.plan.tables:
            if table.id not in self.plan.scans:
                continue
            value = inputs.get(table.name)
            if value is None or value.shape != shape(table.axes):
                given = "nothing" if value is None else f"shape {value.shape}"
                raise ArgumentError(table.name, given, f"an array of shape {shape(table.axes)}")
            self.storage.fill(table, value)

"""Time per step of a run, for EXPLAIN ANALYZE."""

from __future__ import annotations


class Timings:
    """What one run spent where, in processor time, which other programs do not add to; on a GPU in
    time of the device, by its events.

    Each thread adds to lists of its own, so that no lock is held while steps run.

    Attributes:
        wall: seconds of the whole run by the clock on the wall.
        workers: threads that shared the work.
        clock: what the times of steps are: ``processor time`` or ``device time``.
    """

    def __init__(self, steps: int) -> None:
        self.wall = 0.0
        self.workers = 1
        self.clock = "processor time"
        self._steps = steps
        self._bound: list[list[float]] = []
        self._ran: list[list[float]] = []

    def share(self, workers: int) -> None:
        """Make room for the threads of a run."""
        self.workers = workers
        self._bound = [[0.0] * self._steps for _ in range(workers)]
        self._ran = [[0.0] * self._steps for _ in range(workers)]

    def note(self, worker: int, step: int, began: float, bound: float, ended: float) -> None:
        """Add one execution: when it began, when its row numbers were there, when it ended."""
        self._bound[worker][step] += bound - began
        self._ran[worker][step] += ended - bound

    def binding(self, step: int) -> float:
        """Seconds spent on a step's row numbers, over all threads."""
        return sum(times[step] for times in self._bound)

    def running(self, step: int) -> float:
        """Seconds spent in a step's function, over all threads."""
        return sum(times[step] for times in self._ran)

    def of(self, step: int) -> float:
        """Seconds of a step in all, over all threads."""
        return self.binding(step) + self.running(step)

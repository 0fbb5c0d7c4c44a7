"""Python's garbage collector, paused while plans are made.

Planning makes many objects that live on, and hardly any cycles. Each time they have grown by a
quarter the collector looks at every object of the process, PyTorch's among them: that was a third
of the time that compiling took.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_paused() -> Iterator[None]:
    """No collection of cycles meanwhile; also a decorator.

    At the end what was made meanwhile is looked at once. So many new objects would else have the
    collector look at them at once, and with them, when it is their turn, at those that are a
    little older: all that was imported, four times as many.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        gc.enable()

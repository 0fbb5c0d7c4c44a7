"""One BLAS thread per worker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_LOCK = threading.Lock()
_DEPTH = 0
_LIMIT: contextlib.ExitStack | None = None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS to one thread while any caller is inside; counts references across threads."""
    global _DEPTH, _LIMIT  # noqa: PLW0603 - process-wide by nature
    with _LOCK:
        if _DEPTH == 0:
            _LIMIT = contextlib.ExitStack()
            _LIMIT.enter_context(ThreadpoolController().limit(limits=1, user_api="blas"))
        _DEPTH += 1
    try:
        yield
    finally:
        with _LOCK:
            _DEPTH -= 1
            if _DEPTH == 0 and _LIMIT is not None:
                _LIMIT.close()
                _LIMIT = None

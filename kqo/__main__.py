"""The ``kqo`` command: runs the command line and turns errors into one line and an exit code.

Exit codes: 0 done; 1 an error of kqo's own making; 2 wrong arguments or input; 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

DEBUG = "--debug"
INTERRUPTED = 130
_NEW_OBJECTS = 20_000
"""Objects that are made before unreachable ones are looked for. With Python's 700, looking through
what torch keeps takes an eighth of the time of a short command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: as the shell gives them, without the program's name. None: those of the process.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given
    try:
        code = _run([word for word in given if word != DEBUG])
        return _fail("interrupted", code) if code == INTERRUPTED else code
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (BrokenPipeError, SystemExit):
        # The reader, such as head, has seen enough, which Typer turns into an exit; Python would
        # complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(*_explained(error))


def _run(arguments: list[str]) -> int:
    from kqo.cli import app

    before = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *before[1:])
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = app(arguments, prog_name="kqo", standalone_mode=False)
    finally:
        gc.set_threshold(*before)
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _explained(error: Exception) -> tuple[str, int]:
    """What to print of an error, and the exit code."""
    from typer import Abort

    from kqo.errors import KqoError

    if isinstance(error, KqoError):
        return str(error), 2
    if isinstance(error, Abort):
        return "interrupted", INTERRUPTED
    # Typer raises the errors of click, or of the copy of click that newer versions hold.
    words = getattr(error, "format_message", None)
    if words is not None:
        return f"{words()} (see --help)", int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 2  # a full disk, a folder that is not ours
    text = f"{type(error).__name__}: {error}".strip()
    return f"{text} (this should not happen; {DEBUG} shows the traceback)", 1


def _warn(message: Warning | str, *_: Any, **_named: Any) -> None:
    print(f"kqo: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(text: str, code: int) -> int:
    print(f"kqo: error: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

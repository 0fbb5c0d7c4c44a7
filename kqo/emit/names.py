"""Names in emitted code: whatever a model or a file calls its parts, it stays a name."""

from __future__ import annotations

import json
import re


def quoted(name: str) -> str:
    """The name as a string literal of Python."""
    return json.dumps(name, ensure_ascii=False)


def shown(name: str) -> str:
    """The name for a comment or a docstring: one line, without quotes and backslashes."""
    return re.sub(r"[^\w .:/()\[\],+*-]", "_", name)

"""Other libraries' errors in words that fit into kqo's own."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """What an error says, in its first line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

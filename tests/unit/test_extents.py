"""What is kept by extents: of small boxes only."""

from __future__ import annotations

from kqo.runtime.extents import SMALL, cached_when_small


def test_small_extents_are_kept_and_large_ones_made_again() -> None:
    asked: list[tuple[tuple[int, ...], str]] = []

    @cached_when_small
    def make(extent: tuple[int, ...], name: str) -> str:
        asked.append((extent, name))
        return f"{name}{extent}"

    small, large = (2, SMALL // 2), (2, SMALL)
    for _ in range(2):
        assert make(small, "a") == f"a{small}"
        assert make(small, "b") == f"b{small}"
        assert make(large, "a") == f"a{large}"
    assert asked == [(small, "a"), (small, "b"), (large, "a"), (large, "a")]

"""docs/operators.md says what the registry says."""

from __future__ import annotations

from pathlib import Path

import torch

from kqo.frontend.operators import LOADED
from kqo.frontend.registry import TABLE
from tests.unit.operator_table import _shown, page, refusals

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_the_page_is_what_the_code_says(update_golden: bool) -> None:
    if update_golden:
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_operator_is_listed_once() -> None:
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    listed = [name for row in rows for name in row.split(" | ")[0].removeprefix("| ").split(", ")]
    assert sorted(listed) == sorted(map(_shown, TABLE))


def test_every_operator_is_one_of_torch() -> None:
    for operator in TABLE:
        _, name, overload = operator.split(".")
        assert hasattr(getattr(torch.ops.aten, name), overload), operator


def test_refusals_are_found() -> None:
    found = {text for module in LOADED for text in refusals(module)}
    assert {"a mask as an index", "the kernel depends on the model's input"} <= found
    assert "a norm of order ..." in found

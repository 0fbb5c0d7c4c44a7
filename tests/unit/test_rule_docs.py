"""The documents about rules say what is so: every block on their pages is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kqo.__main__ import main
from kqo.cli.rules import FAILED
from kqo.errors import RuleError
from kqo.lang.format import format_rules
from kqo.lang.registry import builtins
from kqo.lang.ruleset import load_rules
from tests import golden_case

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, kind: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [body for found, body in _BLOCK.findall(text) if found == kind]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my-rules" / "normalize").mkdir(parents=True)
    (text,) = blocks("add-a-rule.md", "rules")
    (tmp_path / "my-rules" / "normalize" / "subtract.rules").write_text(text)
    return tmp_path


def test_the_new_rule_prints_what_the_page_says(folder: Path) -> None:
    script = blocks("add-a-rule.md", "python")[0]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PYTHONPATH": str(DOCS.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == blocks("add-a-rule.md", "text")[1]


def test_the_checker_says_what_the_page_says(folder: Path) -> None:
    path = folder / "my-rules" / "normalize" / "subtract.rules"
    path.write_text(path.read_text().replace("single_use(", "single_uses("))
    with pytest.raises(RuleError) as error:
        load_rules(folder / "my-rules")
    assert f"{error.value}\n" == blocks("add-a-rule.md", "text")[0]


def test_the_new_rule_without_its_guard_goes_in_a_circle_with_the_one_named(folder: Path) -> None:
    from kqo.ir.text import parse_plan
    from kqo.rewrite.normalize import normalize

    path = folder / "my-rules" / "normalize" / "subtract.rules"
    path.write_text(path.read_text().replace(", not is_const($y)", ""))
    rules = load_rules().without("FoldConstants").merged(load_rules(folder / "my-rules"))
    plan = parse_plan(
        "plan p float32 x = Scan(axes: (c:2)) a = Const(axes: (c:2)) "
        "return o = Join(left: x, right: a, on: [], axes: (), combine: sub)"
    )
    with pytest.raises(RuleError, match="circle: SubtractConstantToAdd, SubtractNegated"):
        normalize(plan, rules)


def test_what_testing_the_rule_prints_is_what_the_page_shows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "my-rules" / "normalize" / "subtract.rules"
    holds, fails = blocks("add-a-rule.md", "text")[2:]
    assert main(["rules", "test", str(path)]) == 0
    # How many plans it takes depends on the other rules there are.
    assert re.sub(r" *\d+", " N", capsys.readouterr().out) == re.sub(r" *\d+", " N", holds)
    path.write_text(path.read_text().replace("left: $x, right: $y, on", "left: $y, right: $x, on"))
    assert main(["rules", "test", str(path)]) == FAILED
    assert capsys.readouterr().out == fails


def test_the_golden_cases_on_the_page_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = load_rules(folder / "my-rules")
    monkeypatch.setattr(golden_case, "load_rules", lambda: rules)
    path = folder / "SubtractNegated.case"
    path.write_text(blocks("add-a-rule.md", "case")[0])
    cases = golden_case.read_cases(path)
    assert [case.fires for case in cases] == [True, False]
    for case in cases:
        assert golden_case.run_case(case).strip() == case.output


def test_the_new_builtin_registers() -> None:
    source = blocks("add-a-rule.md", "python")[1]
    script = (
        f"{source}\nfrom kqo.lang.registry import builtins\nprint(builtins()['is_small'].signature)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(DOCS.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "is_small(node: node) -> truth\n")


def test_rules_shown_are_the_rules_that_run() -> None:
    from kqo.data import data_path

    files = [path.read_text() for path in data_path("rules").glob("*/*.rules")]
    for text in blocks("rule-language.md", "rules"):
        assert any(text in file for file in files)
        assert format_rules(text) == text


def test_every_builtin_is_listed() -> None:
    text = (DOCS / "rule-language.md").read_text()
    for function in builtins().values():
        if not function.call.__module__.endswith("physical_builtins"):
            assert f"| `{function.signature}` |" in text, f"{function.name} is not listed"

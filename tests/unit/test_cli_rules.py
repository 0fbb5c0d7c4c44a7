from pathlib import Path

import pytest

from kqo.__main__ import main
from kqo.lang.ruleset import FAMILIES, load_rules

ROOT = Path(__file__).resolve().parents[2]
RULE = """## DropNothing drops an identity map of zero.
rule DropNothing exact {
  match   Map(input: $x, fn: "v + 0")
  replace $x
}
"""


@pytest.fixture
def folder(tmp_path):
    """A user's own folder of rules."""
    (tmp_path / "normalize").mkdir()
    (tmp_path / "normalize" / "mine.rules").write_text(RULE)
    return tmp_path


def test_the_list_names_every_rule_under_its_family(capsys):
    assert main(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in FAMILIES] == [
        f for f in FAMILIES if load_rules().family(f)
    ]
    for rule in load_rules():
        (line,) = (text for text in lines if text.startswith(f"  {rule.name} "))
        kind = rule.rule.approximation
        assert ("exact" if kind is None else f"approx({kind.parameter})") in line


def test_a_rule_is_shown_as_it_stands_in_its_file(capsys):
    for rule in load_rules():
        assert main(["rules", rule.name]) == 0
        place, *lines = capsys.readouterr().out.splitlines()
        text = (ROOT / "rules" / rule.rule.place.file).read_text()
        assert "\n".join(lines) in text and rule.rule.place.file in place
        assert lines[0].startswith(f"## {rule.name} ") and lines[-1] == "}"


def test_an_unknown_rule_is_an_error(capsys):
    assert main(["rules", "GatherProducts"]) == 2
    assert "did you mean GatherProduct?" in capsys.readouterr().err


def test_the_users_rules_are_added(capsys, folder):
    assert main(["rules", "--rules", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "DropNothing" in shown and "GatherProduct" in shown
    assert main(["rules", "DropNothing", "--rules", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == RULE.splitlines()


def test_a_plan_uses_the_users_rules_and_the_built_in_ones(capsys, folder):
    small = ["tests.unit.test_cli:Small", "--input-size", "16", "--window", "6"]
    assert main(["explain", *small, "--rules", str(folder)]) == 0
    assert "GatherProduct" in capsys.readouterr().out


def test_fmt_formats_and_checks(capsys, folder):
    path = folder / "normalize" / "mine.rules"
    assert main(["fmt", "--check", str(path)]) == 0
    path.write_text(RULE.replace("  match   ", "match "))
    assert main(["fmt", "--check", str(path)]) == 1
    assert "would be formatted" in capsys.readouterr().out and path.read_text() != RULE
    assert main(["fmt", str(path)]) == 0
    assert path.read_text() == RULE
    capsys.readouterr()
    path.write_text("rule {")
    assert main(["fmt", str(path)]) == 2
    assert "mine.rules:1:" in capsys.readouterr().err

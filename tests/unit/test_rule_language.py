"""The rule language: what the parser and the checker say, and how rule sets are put together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kqo.data import data_path
from kqo.errors import ArgumentError, RuleError
from kqo.lang.format import format_rules
from kqo.lang.registry import builtin, builtins
from kqo.lang.ruleset import FAMILIES, compile_text, load_rules

GOOD = """## R does something.
rule R exact {
  match   Map(input: $m @ Map(input: $x, fn: $inner), fn: $outer)
  where   single_use($m)
  let     $fn = compose($outer, $inner)
  replace Map(input: $x, fn: $fn)
}
"""

# What to change in GOOD, and what is then said.
MISTAKES = [
    ("match   Map(", "match   Mapp(", "f:3:11: unknown operator Mapp (did you mean Map?)"),
    ("replace Map(", "replace Mop(", "f:6:11: unknown operator Mop (did you mean Map?)"),
    ("fn: $outer)", "fm: $outer)", "f:3:55: Map has no field fm (did you mean fn?)"),
    ("fn: $outer)", "fn: $o, fn: $outer)", "f:3:63: field fn of Map is given twice"),
    ("fn: $fn)", "fn: $f)", "f:6:30: unknown variable $f (did you mean $fn?)"),
    ("compose(", "composes(", "f:5:17: unknown function composes (did you mean compose?)"),
    (
        "compose($outer, $inner)",
        "compose($outer)",
        "f:5:17: compose takes 2 arguments, got 1 (compose(outer: expr, inner: expr) -> expr)",
    ),
    ("compose($outer,", "compose($x,", "f:5:25: $x is node; expected expr"),
    ("fn: $fn)", "fn: $outer)", "f:5:11: $fn is never used"),
    ("let     $fn", "let     $x", "f:5:11: $x is bound twice"),
    ("fn: $inner", "fn: $x", "f:3:46: $x is node, and here expr"),
    ("replace Map(input: $x, fn: $fn)", "replace $fn", "f:6:11: $fn is expr; expected node"),
    ("input: $x, fn: $fn", "fn: $fn", "f:6:11: Map(...) lacks the field input"),
    ("single_use($m)", "compose($outer, $inner)", "f:4:11: compose(...) is expr; expected truth"),
    ("single_use($m)", "$outer == $m", "f:4:21: $m is node; expected expr"),
    ("fn: $outer)", "fn: 1 | max)", "f:3:63: max is a name; expected expr"),
    ("fn: $outer)", 'fn: "v +")', "f:3:59: no scalar expression: the text ends"),
    ("fn: $outer)", "fn: some $outer)", "f:3:59: 'some' is for lists of nodes; this is expr"),
    ("fn: $outer)", "fn: [])", "f:3:59: [] is a list; expected expr"),
    ("fn: $outer)", "fn: Map())", "f:3:59: Map(...) is a node; expected expr"),
    ("match   Map(input:", "match   $n @ $o", "f:3:19: syntax error at '$m'"),
    ("## R does something.\n", "", "f:1:6: rule R has no doc comment (start it with: ## R ...)"),
    ("## R does", "## It does", "f:2:6: the doc comment of R starts with 'It'"),
    ("where ", "were ", "f:4:3: syntax error at 'were'; expected"),
    (
        "replace Map(input: $x, fn: $fn)\n}",
        "replace Map(input: $x, fn: $fn)",
        "f:6:34: syntax error at the end of the file; expected '}'",
    ),
    ("exact", "approx(tau = 1)", None),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES, ids=lambda v: str(v)[:30])
def test_checker_says_what_is_wrong_and_where(old: str, new: str, said: str | None) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if said is None:
        assert compile_text(text, file="f").names() == ("R",)
        return
    with pytest.raises(RuleError) as error:
        compile_text(text, file="f")
    assert str(error.value).startswith(said)


def test_names_of_combines_and_aggregates_are_checked() -> None:
    rule = """## R r.
rule R exact {{
  match   $n @ Join(left: $x, right: $y, combine: {})
  replace Join(left: $x, right: $y, on: [], axes: [], combine: {})
}}
"""
    compile_text(rule.format("add | sub", "mul"))
    with pytest.raises(RuleError, match=r":3:51: unknown combine ad \(did you mean add\?\)"):
        compile_text(rule.format("ad", "mul"))
    with pytest.raises(RuleError, match=r":4:64: unknown combine mull"):
        compile_text(rule.format("add", "mull"))


def test_alternatives_bind_the_same_variables() -> None:
    text = "## R r.\nrule R exact {{\n  match {}\n  replace {}\n}}\n"
    compile_text(text.format("Map(input: $x) | Group(input: $x)", "$x"), file="f")
    with pytest.raises(RuleError, match=r"f:3:26: \$x is not bound alike by all alternatives"):
        compile_text(text.format("Map(input: $x) | Group(input: _)", "$x"), file="f")
    with pytest.raises(RuleError, match="a pattern starts with an operator"):
        compile_text(text.format("$n @ (Map() | _)", "$n"), file="f")
    with pytest.raises(RuleError, match=r"\$x cannot be bound under 'some'"):
        compile_text(text.format("Union(parts: some Map(input: $x))", "$x"), file="f")


def test_duplicate_names_are_found_within_and_across_files(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"f:10:6: rule R is also defined at f:2:6"):
        compile_text(GOOD + "\n" + GOOD, file="f")
    (tmp_path / "normalize").mkdir()
    (tmp_path / "delta").mkdir()
    (tmp_path / "normalize" / "a.rules").write_text(GOOD)
    (tmp_path / "delta" / "b.rules").write_text(GOOD)
    with pytest.raises(RuleError, match=r"delta/b.rules:2:6: rule R is also defined at normalize"):
        load_rules(tmp_path)


def test_operators_are_declared_as_the_classes_are() -> None:
    from kqo.lang.check import check_operators
    from kqo.lang.parse import parse_rules

    text = data_path("rules", "ops.rules").read_text()
    declared = check_operators([parse_rules(text)])
    assert declared["Map"] == {"input": "node", "fn": "expr"}
    for old, new, said in [
        ("fn: expr", "fn: name", "Map.fn is expr, not name"),
        ("fn: expr", "fn: exp", r"unknown type exp of field fn \(did you mean expr\?\)"),
        ("input: node, fn: expr", "fn: expr, input: node", "the fields of Map are input, fn"),
        ("operator Map", "operator Scan", "the doc comment of Scan"),
        (
            "## Map applies a scalar expression of v to every value.\n"
            "operator Map { input: node, fn: expr }\n",
            "",
            "operator Map is not declared",
        ),
    ]:
        assert old in text
        with pytest.raises(RuleError, match=said):
            check_operators([parse_rules(text.replace(old, new, 1))])


def test_families_are_folders_and_order_of_files_does_not_matter(tmp_path: Path) -> None:
    text = data_path("rules", "normalize", "shapes.rules").read_text()
    rules = text.split("\n\n## ")[1:]
    for number, rule in enumerate(reversed(rules)):
        folder = tmp_path / "normalize" / str(number)
        folder.mkdir(parents=True)
        (folder / "one.rules").write_text(f"## {rule}")
    found = load_rules(tmp_path)
    assert found.names() == tuple(sorted(found.names()))
    assert {rule.family for rule in found} == {"normalize"}
    assert len(found) == len(rules)


def test_rule_sets_drop_get_and_merge(tmp_path: Path) -> None:
    rules = load_rules()
    assert {rule.family for rule in rules} == set(FAMILIES)
    assert rules is load_rules(), "rules are read once"
    fewer = rules.without("delta", "FuseMaps")
    assert "FuseMaps" not in fewer.names() and not len(fewer.family("delta"))
    assert rules.get("FuseMaps").doc.startswith("FuseMaps merges")
    with pytest.raises(ArgumentError, match=r"FuseMap;.*did you mean FuseMaps\?"):
        rules.get("FuseMap")
    with pytest.raises(ArgumentError, match="did you mean"):
        rules.without("FuseMap")
    (tmp_path / "normalize").mkdir()
    (tmp_path / "normalize" / "own.rules").write_text(GOOD)
    own = load_rules(tmp_path)
    assert rules.merged(own).names() == load_rules(data_path("rules"), tmp_path).names()
    with pytest.raises(RuleError, match="rule R is also defined"):
        own.merged(own)


def test_folders_that_hold_no_rules_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="a folder of rule families"):
        load_rules(tmp_path / "missing")
    with pytest.raises(ArgumentError, match="a folder that holds some"):
        load_rules(tmp_path)
    (tmp_path / "prune").mkdir()
    (tmp_path / "prune" / "bad.rules").write_bytes(b"\xff\xfe")
    with pytest.raises(RuleError, match=r"prune/bad\.rules:1:1: cannot be read"):
        load_rules(tmp_path)


def test_builtins_are_registered_with_types() -> None:
    known = builtins()
    assert known["compose"].signature == "compose(outer: expr, inner: expr) -> expr"
    assert known["single_use"].contextual and known["single_use"].parameters == (("node", "node"),)
    assert all(function.doc for function in known.values())
    with pytest.raises(TypeError, match="defined twice"):
        builtin(known["compose"].call)

    def undocumented(node: int) -> bool:
        return bool(node)

    with pytest.raises(TypeError, match="no docstring"):
        builtin(undocumented)

    def untyped(node: bytes) -> bool:
        """Nothing."""
        return bool(node)

    with pytest.raises(TypeError, match="no type"):
        builtin(untyped)


def test_every_citation_is_in_the_list() -> None:
    listed = data_path("rules", "CITATIONS.md").read_text()
    for rule in load_rules():
        for key in rule.doc.replace("\n", " ").split("[")[1:]:
            assert f"[{key.split(']')[0]}]" in listed, f"{rule.name} cites {key.split(']')[0]}"


def test_every_rule_says_why_it_pays_and_when_it_is_invalid() -> None:
    for rule in load_rules():
        text = " ".join(rule.doc.split())
        assert "pays" in text.lower(), f"{rule.name} does not say why it pays"
        assert "Invalid" in text, f"{rule.name} does not say when it is invalid"


# ---- the formatter ------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(data_path("rules").glob("**/*.rules")), ids=lambda p: "/".join(p.parts[-2:])
)
def test_rule_files_are_formatted(path: Path) -> None:
    text = path.read_text()
    assert format_rules(text) == text, "run kqo fmt"


def test_formatting_keeps_comments_and_meaning_and_is_idempotent() -> None:
    text = """# File.


# Above.
## R does   something.
##   Indented.
rule R approx( tau=1 ) { # trailing
  match $n@Map(input:$m@(Map(input:$x,fn:$i)|Map(input:$x,fn:$i)),fn:"max(v, 0)",)
  # between
  where single_use($m),not is_const( $x ),$n!=$x let $fn=compose($i,$i)
  replace Map(input:$x,fn:$fn) }
# Below.
"""
    once = format_rules(text)
    assert format_rules(once) == once
    assert (
        once
        == """# File.

# Above.
## R does   something.
##   Indented.
rule R approx(tau = 1) {
  # trailing
  match   $n @ Map(input: $m @ (Map(input: $x, fn: $i) | Map(input: $x, fn: $i)), fn: "max(v, 0)")
  # between
  where   single_use($m), not is_const($x), $n != $x
  let     $fn = compose($i, $i)
  replace Map(input: $x, fn: $fn)
}

# Below.
"""
    )
    assert compile_text(text).names() == compile_text(once).names()


def test_formatting_survives_a_narrow_rewrite_of_every_file() -> None:
    for path in data_path("rules").glob("**/*.rules"):
        text = path.read_text()
        code = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        squeezed = " ".join(" ".join(code).split())
        assert format_rules(format_rules(squeezed)) == format_rules(squeezed)


def test_package_data_copied_elsewhere_loads_alike(tmp_path: Path) -> None:
    shutil.copytree(data_path("rules"), tmp_path / "rules")
    assert load_rules(tmp_path / "rules").names() == load_rules().names()

"""The reader of rule files, held against the grammar that documents them."""

from __future__ import annotations

import random
import re

import pytest
from lark import Lark
from lark.exceptions import UnexpectedInput

from kqo.data import data_path
from kqo.errors import RuleError
from kqo.lang.parse import parse_rules

WORDS = [
    "not",
    "some",
    "where",
    "let",
    "rule",
    "operator",
    "replace",
    "## d\n",
    "# c\n",
    '"a"',
    '"',
]
SIGNS = [
    "_",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    "@",
    "$x",
    ",",
    ":",
    "=",
    "==",
    "!=",
    "-1",
    "1e5",
    "é",
]
GRAMMAR = Lark(
    data_path("grammar", "rules.lark").read_text(encoding="utf-8"), parser="lalr"
)  # fmt: skip


def _rules() -> list[str]:
    files = sorted(data_path("rules").glob("**/*.rules"))
    return [rule for path in files for rule in path.read_text(encoding="utf-8").split("\n\n")]


def _changed(text: str, draw: random.Random) -> str:
    tokens = re.findall(r'\s+|#[^\n]*|[\w$]+|"[^"\n]*"|.', text) or [""]
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(tokens) or 1)
        other = draw.choice([*WORDS, *SIGNS, draw.choice(tokens or [""])])
        tokens[at : at + draw.randint(0, 1)] = draw.choice([[], [other]])
    return "".join(tokens)


def _is_rule_file(text: str) -> bool:
    try:
        GRAMMAR.parse(text)
    except UnexpectedInput:
        return False
    return True


def test_the_reader_accepts_what_the_grammar_does() -> None:
    draw, rules, seen = random.Random(5), _rules(), [0, 0]
    for _ in range(3000):
        text = _changed(draw.choice(rules), draw)
        wanted = _is_rule_file(text)
        seen[wanted] += 1
        if wanted:
            parse_rules(text)
        else:
            with pytest.raises(RuleError, match="syntax error at"):
                parse_rules(text)
    assert min(seen) > 500


def test_places_are_those_of_the_first_token() -> None:
    text = (
        "## d\nrule R exact {\n  match ($a @ Map(input: (_) | $b, fn: $f))\n  replace Map(\n"
        "    input: [$a], fn: 2)\n}\n"
    )
    (rule,) = parse_rules(text, "f").items
    assert [str(p) for p in (rule.place, rule.match_place, rule.replace_place, rule.end)] == [
        "f:2:6", "f:3:3", "f:4:3", "f:6:2"
    ]  # fmt: skip
    assert str(rule.match.place) == "f:3:10"
    inner = rule.match.pattern
    assert [str(f.place) for f in inner.fields] == ["f:3:19", "f:3:36"]
    assert [str(f.pattern.place) for f in inner.fields] == ["f:3:26", "f:3:40"]
    assert [str(a.value.place) for a in rule.replace.arguments] == ["f:5:12", "f:5:22"]


def test_a_rule_that_is_nested_too_deep_is_said_to_be() -> None:
    text = f"rule R exact {{ match {'(' * 20000}$x{')' * 20000} replace $x }}"
    with pytest.raises(RuleError, match="f:1:1: nested too deep"):
        parse_rules(text, "f")


def test_a_keyword_is_a_whole_word() -> None:
    with pytest.raises(RuleError, match="f:1:1: syntax error at 'ruler'; expected"):
        parse_rules("ruler R exact { match $x replace $x }", "f")

"""Reading rule files: places, depth, and words that begin like keywords."""

from __future__ import annotations

import pytest

from kqo.errors import RuleError
from kqo.lang.parse import parse_rules


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
    text = f"rule R exact {{ match {'some ' * 20000}$x replace $x }}"
    with pytest.raises(RuleError, match="f:1:1: nested too deep"):
        parse_rules(text, "f")


def test_a_keyword_is_a_whole_word() -> None:
    with pytest.raises(RuleError, match="f:1:1: syntax error at 'ruler'; expected"):
        parse_rules("ruler R exact { match $x replace $x }", "f")

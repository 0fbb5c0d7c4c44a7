"""Reading rule files, by recursive descent: every cold start reads all rules, and this takes a
fifth of the time of an LALR parser with the tables of ``grammar/rules.lark``.

The grammar stays what decides: it words the errors, and a test holds both against one another.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import TypeVar

from kqo.errors import Place, RuleError
from kqo.lang import ast

_Item = TypeVar("_Item")
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#(?!\#)[^\n]*)
    |(?P<name>[A-Za-z][A-Za-z_0-9]*)
    |(?P<variable>\$[A-Za-z_][A-Za-z_0-9]*)
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<string>"[^"\n]*")
    |(?P<doc>\#\#[^\n]*)
    |(?P<sign>==|!=|[{}()\[\],:=@|_])
    |(?P<unknown>.)""",
    re.VERBOSE | re.DOTALL,
)
_END = "end"


class _NoRuleFile(Exception):
    """The text is none; the grammar says why."""


def parse_rules(text: str, file: str = "<text>") -> ast.File:
    """Parse a rule file.

    Args:
        text: its text.
        file: its name, for the places that errors give.

    Raises:
        RuleError: a syntax error, with file, line, column and what was expected.
    """
    try:
        items = _Reader(text, file).items()
    except RecursionError:
        raise RuleError("nested too deep", place=Place(file, 1)) from None
    except _NoRuleFile:
        from kqo.lang.expected import syntax_error  # errors alone need the grammar's tables

        raise syntax_error(text, file) from None
    comments = [(Place(file, line, column), comment) for line, column, comment in _comments(text)]
    return ast.File(file, items, tuple(comments))


def _comments(text: str) -> list[tuple[int, int, str]]:
    """Ordinary comments (one ``#``) with their places; doc comments belong to the tree."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        quoted = False
        for column, char in enumerate(line):
            if char == '"':
                quoted = not quoted
            elif char == "#" and not quoted:
                if line[column : column + 2] != "##":
                    found.append((number, column + 1, line[column:].rstrip()))
                break
    return found


class _Reader:
    """Reads tokens from left to right; one method for each production of the grammar."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._lines = [0, *(m.end() for m in re.finditer("\n", text))]
        # The kind of a sign is its text. No method reads on behind the end.
        self._tokens: list[tuple[str, str, int]] = []
        for found in _TOKEN.finditer(text):
            kind = str(found.lastgroup)
            if kind != "skip":
                word = found.group()
                self._tokens.append((word if kind == "sign" else kind, word, found.start()))
        self._tokens.append((_END, "", len(text)))
        self._at = 0
        self._kind = self._tokens[0][0]

    def _next(self) -> str:
        """The text of the token that is read now."""
        text = self._tokens[self._at][1]
        self._at += 1
        self._kind = self._tokens[self._at][0]
        return text

    def _take(self, kind: str) -> str:
        if self._kind != kind:
            raise _NoRuleFile
        return self._next()

    def _is_word(self, *words: str) -> bool:
        return self._kind == "name" and self._tokens[self._at][1] in words

    def _word(self, *words: str) -> str:
        if not self._is_word(*words):
            raise _NoRuleFile
        return self._next()

    def _place(self, behind: bool = False) -> Place:
        """Where the next token starts, or the last one ends."""
        _, text, start = self._tokens[self._at - behind]
        offset = start + len(text) * behind
        line = bisect_right(self._lines, offset)
        return Place(self._file, line, offset - self._lines[line - 1] + 1)

    def _several(self, item: Callable[[], _Item], end: str, least: int = 0) -> tuple[_Item, ...]:
        """Items with commas between them up to a sign, which is read, too."""
        found: list[_Item] = []
        while self._kind != end or len(found) < least:
            found.append(item())
            if self._kind != end:
                self._take(",")
        self._next()
        return tuple(found)

    # Declarations and rules.

    def items(self) -> tuple[ast.Operator | ast.Rule, ...]:
        found: list[ast.Operator | ast.Rule] = []
        while self._kind != _END:
            doc = self._doc()
            found.append(self._operator(doc) if self._is_word("operator") else self._rule(doc))
        return tuple(found)

    def _doc(self) -> str:
        lines = []
        while self._kind == "doc":
            lines.append(self._next()[2:].removeprefix(" ").rstrip())
        return "\n".join(lines)

    def _operator(self, doc: str) -> ast.Operator:
        self._next()
        place, name = self._place(), self._take("name")
        self._take("{")
        fields = self._several(self._field, "}", least=1)
        return ast.Operator(name, doc, fields, place, self._place(behind=True))

    def _field(self) -> tuple[str, str]:
        name = self._take("name")
        self._take(":")
        return name, self._take("name")

    def _rule(self, doc: str) -> ast.Rule:
        self._word("rule")
        place, name = self._place(), self._take("name")
        approximation = None
        if self._word("exact", "approx") == "approx":
            approximation = self._approximation()
        self._take("{")
        match_place = self._place()
        self._word("match")
        match = self._pattern()
        steps: list[ast.Where | ast.Let] = []
        while not self._is_word("replace"):
            steps.append(self._step())
        replace_place = self._place()
        self._next()
        replace = self._template()
        self._take("}")
        end = self._place(behind=True)
        return ast.Rule(
            name, doc, approximation, match, tuple(steps), replace, place, match_place,
            replace_place, end,
        )  # fmt: skip

    def _approximation(self) -> ast.Approximation:
        self._take("(")
        place, parameter = self._place(), self._take("name")
        self._take("=")
        neutral = float(self._take("number"))
        self._take(")")
        return ast.Approximation(parameter, neutral, place)

    def _step(self) -> ast.Where | ast.Let:
        place = self._place()
        if self._word("where", "let") == "let":
            variable = self._variable()
            self._take("=")
            return ast.Let(variable, self._template(), place)
        conditions = [self._condition()]
        while self._kind == ",":
            self._next()
            conditions.append(self._condition())
        return ast.Where(tuple(conditions), place)

    def _condition(self) -> ast.Holds | ast.Compares:
        place = self._place()
        if self._is_word("not"):
            self._next()
            return ast.Holds(self._template(), True, place)
        left = self._template()
        if self._kind in ("==", "!="):
            differs = self._next() == "!="
            return ast.Compares(left, self._template(), differs, place)
        return ast.Holds(left, False, place)

    # Patterns.

    def _pattern(self) -> ast.Pattern:
        place = self._place()
        bare = self._kind == "variable"
        first = self._primary()
        if bare and self._kind == "@" and isinstance(first, ast.Variable):
            self._next()
            return ast.Bind(first, self._pattern(), place)
        options = [first]
        while self._kind == "|":
            self._next()
            options.append(self._primary())
        return ast.AnyOf(tuple(options), place) if len(options) > 1 else first

    def _primary(self) -> ast.Pattern:
        if self._kind == "variable":
            return self._variable()
        place = self._place()
        if self._kind == "_":
            self._next()
            return ast.Wildcard(place)
        if self._kind == "(":
            self._next()
            inner = self._pattern()
            self._take(")")
            return inner
        if self._kind == "[":
            self._next()
            self._take("]")
            return ast.Empty(place)
        if self._is_word("some"):
            self._next()
            return ast.Some(self._primary(), place)
        literal = self._literal(place)
        if self._kind != "(" or not _is_name(literal):
            return literal
        self._next()
        return ast.NodePattern(
            str(literal.value), self._several(self._field_pattern, ")"), place
        )  # fmt: skip

    def _field_pattern(self) -> ast.FieldPattern:
        place, name = self._place(), self._take("name")
        self._take(":")
        return ast.FieldPattern(name, self._pattern(), place)

    # Templates.

    def _template(self) -> ast.Template:
        if self._kind == "variable":
            return self._variable()
        place = self._place()
        if self._kind == "[":
            self._next()
            return ast.Listing(self._several(self._template, "]"), place)
        literal = self._literal(place)
        if self._kind != "(" or not _is_name(literal):
            return literal
        self._next()
        name = str(literal.value)
        if self._kind == "name" and self._tokens[self._at + 1][0] == ":":
            return ast.NodeTemplate(name, self._several(self._argument, ")"), place)
        return ast.Call(name, self._several(self._template, ")"), place)

    def _argument(self) -> ast.Argument:
        place, name = self._place(), self._take("name")
        self._take(":")
        return ast.Argument(name, self._template(), place)

    def _variable(self) -> ast.Variable:
        place = self._place()
        return ast.Variable(self._take("variable")[1:], place)

    def _literal(self, place: Place) -> ast.Literal:
        if self._kind == "name":
            return ast.Literal(self._next(), False, place)
        if self._kind == "string":
            return ast.Literal(self._next()[1:-1], True, place)
        return ast.Literal(float(self._take("number")), False, place)


def _is_name(literal: ast.Literal) -> bool:
    return isinstance(literal.value, str) and not literal.quoted

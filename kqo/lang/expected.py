"""What the grammar ``grammar/rules.lark`` says of a text that is no rule file."""

from __future__ import annotations

from functools import cache

from lark import Lark
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from kqo.data import data_path
from kqo.errors import Place, RuleError

_TERMINALS = {
    "NAME": "a name",
    "VARIABLE": "a variable such as $x",
    "NUMBER": "a number",
    "STRING": "a quoted string",
    "DOC": "a doc comment (##)",
    "$END": "the end of the file",
}


def syntax_error(text: str, file: str) -> RuleError:
    """The error of a text that does not parse: file, line, column and what was expected."""
    try:
        _parser().parse(text)
    except UnexpectedInput as error:
        return _explained(error, text, file)
    return RuleError("syntax error", place=Place(file, 1))


@cache
def _parser() -> Lark:
    source = data_path("grammar", "rules.lark").read_text(encoding="utf-8")
    return Lark(source, parser="lalr", maybe_placeholders=False)


def _explained(error: UnexpectedInput, text: str, file: str) -> RuleError:
    expected: set[str] = set()
    found = "the end of the file"
    if isinstance(error, UnexpectedToken):
        expected = set(error.accepts or error.expected)
        if error.token.type != "$END":
            found = repr(str(error.token))
    elif isinstance(error, UnexpectedCharacters):
        expected = set(error.allowed or ())
        found = repr(text[error.pos_in_stream or 0])
    shown = sorted({_terminal(name) for name in expected})
    lines = text.splitlines() or [""]
    end = found == "the end of the file"
    line = len(lines) if end else max(error.line, 1)
    column = len(lines[-1]) + 1 if end else max(error.column, 1)
    return RuleError(
        f"syntax error at {found}; expected {' or '.join(shown)}", place=Place(file, line, column)
    )


def _terminal(name: str) -> str:
    if name in _TERMINALS:
        return _TERMINALS[name]
    pattern = _parser().get_terminal(name).pattern.value
    return repr(pattern.removesuffix(r"\b").replace("\\", ""))

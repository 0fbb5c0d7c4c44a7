"""Reading rule files, by the grammar ``grammar/rules.lark``."""

from __future__ import annotations

from functools import cache
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from kqo.data import data_path
from kqo.errors import Place, RuleError
from kqo.lang import ast

_TERMINALS = {
    "NAME": "a name",
    "VARIABLE": "a variable such as $x",
    "NUMBER": "a number",
    "STRING": "a quoted string",
    "DOC": "a doc comment (##)",
    "$END": "the end of the file",
    "NOT": "'not'",
}


def parse_rules(text: str, file: str = "<text>") -> ast.File:
    """Parse a rule file.

    Args:
        text: its text.
        file: its name, for the places that errors give.

    Raises:
        RuleError: a syntax error, with file, line, column and what was expected.
    """
    try:
        tree = _parser().parse(text)
        items = tuple(_item(child, file) for child in tree.children)
    except UnexpectedInput as error:
        raise _syntax_error(error, text, file) from None
    except RecursionError:
        raise RuleError("nested too deep", place=Place(file, 1)) from None
    comments = [(Place(file, line, column), comment) for line, column, comment in _comments(text)]
    return ast.File(file, items, tuple(comments))


@cache
def _parser() -> Lark:
    source = data_path("grammar", "rules.lark").read_text(encoding="utf-8")
    return Lark(source, parser="lalr", propagate_positions=True, maybe_placeholders=False)


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


def _syntax_error(error: UnexpectedInput, text: str, file: str) -> RuleError:
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


def _place(item: Tree[Token] | Token, file: str) -> Place:
    if isinstance(item, Token):
        return Place(file, item.line or 1, item.column or 1)
    return Place(file, item.meta.line, item.meta.column)


def _doc(tree: Tree[Token]) -> str:
    lines = [str(line)[2:] for line in tree.children]
    return "\n".join(line.removeprefix(" ").rstrip() for line in lines)


def _item(tree: Any, file: str) -> ast.Operator | ast.Rule:
    doc, name, *rest = tree.children
    end = Place(file, tree.meta.end_line, tree.meta.end_column)
    if tree.data == "operator":
        fields = tuple((str(f.children[0]), str(f.children[1])) for f in rest)
        return ast.Operator(str(name), _doc(doc), fields, _place(name, file), end)
    kind, match, *steps, replace = rest
    approximation = None
    if kind.data == "approx":
        parameter, neutral = kind.children
        approximation = ast.Approximation(
            str(parameter), float(neutral.children[0]), _place(parameter, file)
        )
    return ast.Rule(
        str(name),
        _doc(doc),
        approximation,
        _pattern(match.children[0], file),
        tuple(_step(step, file) for step in steps),
        _template(replace.children[0], file),
        _place(name, file),
        _place(match, file),
        _place(replace, file),
        end,
    )


def _step(tree: Any, file: str) -> ast.Where | ast.Let:
    place = _place(tree, file)
    if tree.data == "let":
        variable, value = tree.children
        return ast.Let(_variable(variable, file), _template(value, file), place)
    return ast.Where(tuple(_condition(c, file) for c in tree.children), place)


def _condition(tree: Any, file: str) -> ast.Holds | ast.Compares:
    place = _place(tree, file)
    if tree.data == "holds":
        return ast.Holds(_template(tree.children[-1], file), len(tree.children) == 2, place)
    left, right = (_template(child, file) for child in tree.children)
    return ast.Compares(left, right, tree.data == "differs", place)


def _variable(token: Token, file: str) -> ast.Variable:
    return ast.Variable(str(token)[1:], _place(token, file))


def _literal(tree: Any, file: str) -> ast.Literal:
    place = _place(tree, file)
    (child,) = tree.children
    if tree.data == "name":
        return ast.Literal(str(child), False, place)
    if tree.data == "string":
        return ast.Literal(str(child)[1:-1], True, place)
    return ast.Literal(float(str(child.children[0])), False, place)


def _pattern(tree: Any, file: str) -> ast.Pattern:
    place = _place(tree, file)
    kind = tree.data
    if kind == "bind":
        variable, inner = tree.children
        return ast.Bind(_variable(variable, file), _pattern(inner, file), place)
    if kind == "any_of":
        return ast.AnyOf(tuple(_pattern(child, file) for child in tree.children), place)
    if kind == "node_pattern":
        op, *fields = tree.children
        return ast.NodePattern(
            str(op),
            tuple(
                ast.FieldPattern(str(f.children[0]), _pattern(f.children[1], file), _place(f, file))
                for f in fields
            ),
            place,
        )
    if kind == "variable":
        return _variable(tree.children[0], file)
    if kind == "wildcard":
        return ast.Wildcard(place)
    if kind == "some":
        return ast.Some(_pattern(tree.children[0], file), place)
    if kind == "empty":
        return ast.Empty(place)
    return _literal(tree, file)


def _template(tree: Any, file: str) -> ast.Template:
    if isinstance(tree, Token):
        return _variable(tree, file)
    place = _place(tree, file)
    kind = tree.data
    if kind == "call":
        fn, *args = tree.children
        return ast.Call(str(fn), tuple(_template(a, file) for a in args), place)
    if kind == "node_template":
        op, *arguments = tree.children
        return ast.NodeTemplate(
            str(op),
            tuple(
                ast.Argument(str(a.children[0]), _template(a.children[1], file), _place(a, file))
                for a in arguments
            ),
            place,
        )
    if kind == "variable":
        return _variable(tree.children[0], file)
    if kind == "list":
        return ast.Listing(tuple(_template(child, file) for child in tree.children), place)
    return _literal(tree, file)

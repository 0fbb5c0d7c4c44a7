"""Formatting rule files: one layout for all, idempotent; comments are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kqo.errors import Place
from kqo.lang import ast
from kqo.lang.parse import parse_rules

WIDTH = 100
_KEYWORD = 10  # "  match   " and its like: what follows starts in this column.
_INDENT = 2
_HOLDS_NODES = re.compile(r"[A-Za-z]\w*\([^)]")


def format_rules(text: str, file: str = "<text>") -> str:
    """The text of a rule file in its standard layout; formatting it again changes nothing.

    A comment stays before the clause, rule or declaration that follows it; one inside a clause goes
    before that clause.

    Raises:
        RuleError: the text does not parse.
    """
    parsed = parse_rules(text, file)
    comments = _Comments(list(parsed.comments), text.splitlines())
    lines: list[str] = []
    for item in parsed.items:
        if lines:
            lines.append("")
        start = _start(item)
        before = comments.take(start)
        lines += _spaced(before, start)
        lines += [f"## {line}".rstrip() for line in item.doc.splitlines()]
        lines += _item(item, comments)
    rest = comments.take(None)
    if rest:
        lines += ([""] if lines else []) + [comment for _, comment in rest]
    return "\n".join(lines) + "\n" if lines else ""


Comment = tuple[Place, str]


def _start(item: ast.Rule | ast.Operator) -> Place:
    """Where the doc comment of an item starts: comments above that are not part of it."""
    return Place(item.place.file, item.place.line - len(item.doc.splitlines()), 1)


@dataclass(slots=True)
class _Comments:
    """The comments that are not yet written, in order, with the lines of the text."""

    left: list[Comment]
    lines: list[str]

    def take(self, until: Place | None) -> list[Comment]:
        """Remove and give the comments before a place; all of them where it is None."""
        taken: list[Comment] = []
        while self.left and (until is None or _before(self.left[0][0], until)):
            taken.append(self.left.pop(0))
        return taken

    def take_inside(self, following: Place) -> list[Comment]:
        """Remove and give the comments in a clause: before the next one, but not right above it."""
        found = self.take(following)
        above: list[Comment] = []
        while found and self._leads(found[-1][0], following):
            above.insert(0, found.pop())
        self.left = above + self.left
        return found

    def _leads(self, comment: Place, following: Place) -> bool:
        """Whether nothing but comments stands on the lines from the comment to what follows."""
        between = self.lines[comment.line - 1 : following.line - 1]
        return all(not line.strip() or line.lstrip().startswith("#") for line in between)


def _before(place: Place, other: Place) -> bool:
    return (place.line, place.column) < (other.line, other.column)


def _spaced(comments: list[Comment], item: Place) -> list[str]:
    """Comments above an item, with the blank lines between them and it that set them apart."""
    lines: list[str] = []
    for index, (place, comment) in enumerate(comments):
        lines.append(comment)
        following = comments[index + 1][0] if index + 1 < len(comments) else item
        if following.line > place.line + 1:
            lines.append("")
    return lines


def _item(item: ast.Rule | ast.Operator, comments: _Comments) -> list[str]:
    if isinstance(item, ast.Operator):
        inside = [f"  {comment}" for _, comment in comments.take(item.end)]
        fields = [f"{name}: {kind}" for name, kind in item.fields]
        line = f"operator {item.name} {{ {', '.join(fields)} }}"
        if len(line) <= WIDTH and not inside:
            return [line]
        return [f"operator {item.name} {{", *inside, *_filled(fields, _INDENT), "}"]
    kind = "exact"
    if item.approximation is not None:
        neutral = _number(item.approximation.neutral)
        kind = f"approx({item.approximation.parameter} = {neutral})"
    lines = [f"rule {item.name} {kind} {{"]
    clauses = [("match", item.match_place, _pattern(item.match, _Room(_KEYWORD)))]
    for step in item.steps:
        if isinstance(step, ast.Where):
            conditions = [_condition(c) for c in step.conditions]
            clauses.append(("where", step.place, ", ".join(conditions)))
        else:
            head = f"${step.variable.name} = "
            room = _Room(_KEYWORD, len(head))
            clauses.append(("let", step.place, head + _template(step.value, room)))
    clauses.append(("replace", item.replace_place, _template(item.replace, _Room(_KEYWORD))))
    ends = [place for _, place, _ in clauses[1:]] + [item.end]
    for (keyword, start, body), end in zip(clauses, ends, strict=True):
        own = comments.take(start) + comments.take_inside(end)
        lines += [f"  {comment}" for _, comment in own]
        lines += _where(body) if keyword == "where" else [f"  {keyword:<7} {body}"]
    return [*lines, "}"]


def _where(body: str) -> list[str]:
    if _KEYWORD + len(body) <= WIDTH:
        return [f"  where   {body}"]
    wrapped = _filled(_split(body), _KEYWORD)
    return [f"  where   {wrapped[0].strip()}", *wrapped[1:]]


def _split(body: str) -> list[str]:
    """Split at commas outside parentheses and brackets."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(body):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append(body[start:index].strip())
            start = index + 1
    return [*parts, body[start:].strip()]


def _filled(parts: Sequence[str], indent: int) -> list[str]:
    """Parts with commas between them, as many on a line as fit."""
    lines: list[str] = []
    line = ""
    for index, part in enumerate(parts):
        text = part + ("," if index + 1 < len(parts) else "")
        if line and indent + len(line) + 1 + len(text) > WIDTH:
            lines.append(" " * indent + line)
            line = text
        else:
            line = f"{line} {text}" if line else text
    return [*lines, " " * indent + line]


@dataclass(frozen=True, slots=True)
class _Room:
    """Where a piece of text stands: the indent of its lines, and what else is on its line."""

    indent: int
    before: int = 0
    after: int = 0

    def fits(self, text: str) -> bool:
        """Whether the text goes on the line."""
        return "\n" not in text and self.indent + self.before + len(text) + self.after <= WIDTH

    def field(self, name: str, last: bool) -> _Room:
        """The room for a field on a line of its own; after the last one the node is closed."""
        after = self.after + 1 if last else 1
        return _Room(self.indent + _INDENT, len(name) + 2, after)

    def behind(self, head: str) -> _Room:
        """What is left behind some text on the line."""
        return _Room(self.indent, self.before + len(head), self.after)


def _laid_out(head: str, names: list[str], write: Callable[[int, _Room], str], room: _Room) -> str:
    """``head(name: part, ...)``, on one line where it fits.

    Else parts that hold nodes go on lines of their own, two deeper, and others side by side.
    """
    far = _Room(-10 * WIDTH)
    flat = ", ".join(f"{name}: {write(i, far)}" for i, name in enumerate(names))
    if room.fits(f"{head}({flat})"):
        return f"{head}({flat})"
    lines: list[str] = []
    line = ""
    for index, name in enumerate(names):
        last = index + 1 == len(names)
        inside = room.field(name, last)
        text = f"{name}: {write(index, inside)}" + ("" if last else ",")
        whole = _HOLDS_NODES.search(text) is not None
        if line and (whole or not _Room(inside.indent, len(line) + 1, room.after).fits(text)):
            lines.append(line)
            line = ""
        line = f"{line} {text}" if line else text
        if whole and not last:
            lines.append(line)
            line = ""
    if line:
        lines.append(line)
    inner = " " * (room.indent + _INDENT)
    return f"{head}(\n" + "\n".join(inner + line for line in lines) + ")"


def _pattern(pattern: ast.Pattern, room: _Room) -> str:
    if isinstance(pattern, ast.Variable):
        return f"${pattern.name}"
    if isinstance(pattern, ast.Wildcard):
        return "_"
    if isinstance(pattern, ast.Empty):
        return "[]"
    if isinstance(pattern, ast.Literal):
        return _literal(pattern)
    if isinstance(pattern, ast.Some):
        return f"some {_closed(pattern.pattern, room.behind('some '))}"
    if isinstance(pattern, ast.Bind):
        head = f"${pattern.variable.name} @ "
        return head + _closed(pattern.pattern, room.behind(head))
    if isinstance(pattern, ast.AnyOf):
        flat = " | ".join(_closed(option, _Room(-10 * WIDTH)) for option in pattern.options)
        if room.fits(flat):
            return flat
        first, *rest = pattern.options
        below = _Room(room.indent + 2, 2, room.after)
        line = "\n" + " " * below.indent + "| "
        return line.join([_closed(first, room), *(_closed(option, below) for option in rest)])
    parts = [f.pattern for f in pattern.fields]
    names = [f.field for f in pattern.fields]
    return _laid_out(pattern.op, names, lambda i, inside: _pattern(parts[i], inside), room)


def _closed(pattern: ast.Pattern, room: _Room) -> str:
    text = _pattern(pattern, room)
    return f"({text})" if isinstance(pattern, ast.AnyOf) else text


def _condition(condition: ast.Holds | ast.Compares) -> str:
    if isinstance(condition, ast.Holds):
        return ("not " if condition.negated else "") + _flat(condition.value)
    sign = "!=" if condition.negated else "=="
    return f"{_flat(condition.left)} {sign} {_flat(condition.right)}"


def _template(template: ast.Template, room: _Room) -> str:
    if not isinstance(template, ast.NodeTemplate):
        return _flat(template)
    parts = [a.value for a in template.arguments]
    names = [a.field for a in template.arguments]
    return _laid_out(template.op, names, lambda i, inside: _template(parts[i], inside), room)


def _flat(template: ast.Template) -> str:
    if isinstance(template, ast.Variable):
        return f"${template.name}"
    if isinstance(template, ast.Literal):
        return _literal(template)
    if isinstance(template, ast.Call):
        return f"{template.fn}({', '.join(map(_flat, template.args))})"
    if isinstance(template, ast.Listing):
        return f"[{', '.join(map(_flat, template.items))}]"
    fields = ", ".join(f"{a.field}: {_flat(a.value)}" for a in template.arguments)
    return f"{template.op}({fields})"


def _literal(literal: ast.Literal) -> str:
    return _number(literal.value) if isinstance(literal.value, float) else str(literal)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)

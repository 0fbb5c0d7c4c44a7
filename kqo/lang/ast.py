"""Syntax trees of rule files: the parser builds them, the checker and the compiler read them."""

from __future__ import annotations

from dataclasses import dataclass

from kqo.errors import Place


@dataclass(frozen=True, slots=True)
class Variable:
    """``$x``: in a pattern it binds, elsewhere it reads. The name has no dollar sign."""

    name: str
    place: Place


@dataclass(frozen=True, slots=True)
class Literal:
    """A name, a number or a quoted string; what it means depends on the field it stands for."""

    value: str | float
    quoted: bool
    place: Place

    def __str__(self) -> str:
        if isinstance(self.value, float):
            return f"{self.value:g}"
        return f'"{self.value}"' if self.quoted else self.value


@dataclass(frozen=True, slots=True)
class Wildcard:
    """``_``: matches anything."""

    place: Place


@dataclass(frozen=True, slots=True)
class Empty:
    """``[]`` in a pattern: a list, tuple of names or tuple of axes without items."""

    place: Place


@dataclass(frozen=True, slots=True)
class Bind:
    """``$x @ pattern``: binds what the pattern matches."""

    variable: Variable
    pattern: Pattern
    place: Place


@dataclass(frozen=True, slots=True)
class AnyOf:
    """``a | b``: matches what one of the options matches."""

    options: tuple[Pattern, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Some:
    """``some pattern``: a list of nodes of which at least one matches. It binds nothing."""

    pattern: Pattern
    place: Place


@dataclass(frozen=True, slots=True)
class FieldPattern:
    """``field: pattern``."""

    field: str
    pattern: Pattern
    place: Place


@dataclass(frozen=True, slots=True)
class NodePattern:
    """``Op(field: pattern, ...)``: fields that are not named match anything."""

    op: str
    fields: tuple[FieldPattern, ...]
    place: Place


Pattern = Variable | Literal | Wildcard | Empty | Bind | AnyOf | Some | NodePattern


@dataclass(frozen=True, slots=True)
class Call:
    """``f(a, b)``: a builtin function."""

    fn: str
    args: tuple[Template, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Listing:
    """``[a, b]``: a list of nodes, names or regions."""

    items: tuple[Template, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Argument:
    """``field: template``."""

    field: str
    value: Template
    place: Place


@dataclass(frozen=True, slots=True)
class NodeTemplate:
    """``Op(field: template, ...)``: builds a node; every field is named."""

    op: str
    arguments: tuple[Argument, ...]
    place: Place


Template = Variable | Literal | Call | Listing | NodeTemplate


@dataclass(frozen=True, slots=True)
class Holds:
    """A call of a predicate, or its negation."""

    value: Template
    negated: bool
    place: Place


@dataclass(frozen=True, slots=True)
class Compares:
    """``a == b`` or, negated, ``a != b``."""

    left: Template
    right: Template
    negated: bool
    place: Place


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions that must all hold, tried in order."""

    conditions: tuple[Holds | Compares, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Let:
    """``let $x = template``. A builtin that has no answer refuses the match."""

    variable: Variable
    value: Template
    place: Place


@dataclass(frozen=True, slots=True)
class Approximation:
    """``approx(parameter = neutral)``: the rule is exact at the neutral value of its parameter."""

    parameter: str
    neutral: float
    place: Place


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ``approximation`` is None for an exact one. ``doc`` has no comment signs."""

    name: str
    doc: str
    approximation: Approximation | None
    match: Pattern
    steps: tuple[Where | Let, ...]
    replace: Template
    place: Place
    match_place: Place
    replace_place: Place
    end: Place


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator declaration: fields with their types, in order."""

    name: str
    doc: str
    fields: tuple[tuple[str, str], ...]
    place: Place
    end: Place


@dataclass(frozen=True, slots=True)
class File:
    """A rule file: declarations and rules in their order."""

    path: str
    items: tuple[Operator | Rule, ...]
    comments: tuple[tuple[Place, str], ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of the file."""
        return tuple(item for item in self.items if isinstance(item, Rule))

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The operator declarations of the file."""
        return tuple(item for item in self.items if isinstance(item, Operator))

"""Sets of rules: read from folders, checked, compiled, cached; a folder's name is the family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path

from kqo.data import data_path
from kqo.errors import ArgumentError, Place, RuleError
from kqo.lang import ast
from kqo.lang.check import check_operators, check_rule, fail
from kqo.lang.compile import CompiledRule, compile_rule
from kqo.lang.parse import parse_rules
from kqo.options import Options

FAMILIES = ("normalize", "delta", "batch", "prune", "physical")


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order of families and names, whatever files they came from."""

    rules: tuple[CompiledRule, ...]

    def __iter__(self) -> Iterator[CompiledRule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def names(self) -> tuple[str, ...]:
        """Names of the rules, in order."""
        return tuple(rule.name for rule in self.rules)

    def family(self, *families: str) -> RuleSet:
        """The rules of some families."""
        return RuleSet(tuple(rule for rule in self.rules if rule.family in families))

    def get(self, name: str) -> CompiledRule:
        """The rule of that name.

        Raises:
            ArgumentError: there is none.
        """
        for rule in self.rules:
            if rule.name == name:
                return rule
        hint = fail_hint(name, self.names())
        raise ArgumentError("rule", name, "the name of a rule, as kqo rules lists them", hint=hint)

    def without(self, *dropped: str) -> RuleSet:
        """All rules but those of the given names or families.

        Raises:
            ArgumentError: a name that is neither.
        """
        known = (*self.names(), *FAMILIES)
        for name in dropped:
            if name not in known:
                accepted = "the name of a rule or a family, as kqo rules lists them"
                raise ArgumentError("without", name, accepted, hint=fail_hint(name, known))
        return RuleSet(
            tuple(r for r in self.rules if r.name not in dropped and r.family not in dropped)
        )

    def merged(self, other: RuleSet) -> RuleSet:
        """Both sets together.

        Raises:
            RuleError: a name that both have.
        """
        known = {rule.name: rule for rule in self.rules}
        for rule in other.rules:
            if rule.name in known:
                raise _twice(rule.rule, known[rule.name].rule)
        return _ordered([*self.rules, *other.rules])


def fail_hint(name: str, known: tuple[str, ...]) -> str:
    """The hint that names what is closest."""
    return fail(Place("", 0), "", name, known).hint


def load_rules(*directories: str | PathLike[str]) -> RuleSet:
    """Read rule folders, each with a folder per family; without arguments, those of the package.

    Operators are always those of the package's ``ops.rules``. Files are read once per process.

    Raises:
        ArgumentError: a directory that does not exist, or has no folder of a known family.
        RuleError: a file that does not parse or check, or a rule that is defined twice.
    """
    if not directories:
        return _load((_own_folder(),))
    return _load(tuple(str(Path(folder).resolve()) for folder in directories))


@lru_cache(maxsize=1)
def _own_folder() -> str:
    return str(data_path("rules").resolve())


@lru_cache(maxsize=64)
def _load(directories: tuple[str, ...]) -> RuleSet:
    operators = check_operators([read_file(data_path("rules", "ops.rules"))])
    found: dict[str, ast.Rule] = {}
    compiled: list[CompiledRule] = []
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise ArgumentError("directory", directory, "a folder of rule families")
        families = [name for name in FAMILIES if (directory / name).is_dir()]
        if not families:
            accepted = f"a folder that holds some of {', '.join(FAMILIES)}"
            raise ArgumentError("directory", directory, accepted)
        for family in families:
            for path in sorted((directory / family).glob("**/*.rules")):
                for rule in read_file(path).rules:
                    if rule.name in found:
                        raise _twice(rule, found[rule.name])
                    found[rule.name] = rule
                    compiled.append(compile_rule(rule, family, check_rule(rule, operators)))
    return _ordered(compiled)


def load_files(*paths: str | PathLike[str], family: str | None = None) -> RuleSet:
    """Read single rule files.

    Args:
        paths: the files.
        family: what family their rules belong to; by default the name of the nearest folder above
            each file that is a family's.

    Raises:
        ArgumentError: a family that there is not, or a file in no family's folder.
        RuleError: a file that does not parse or check, or a rule that is defined twice.
    """
    if family is not None and family not in FAMILIES:
        raise ArgumentError("family", family, ", ".join(FAMILIES))
    operators = check_operators([read_file(data_path("rules", "ops.rules"))])
    found: dict[str, ast.Rule] = {}
    compiled: list[CompiledRule] = []
    for path in map(Path, paths):
        parents = path.resolve().parents
        own = family or next((p.name for p in parents if p.name in FAMILIES), None)
        if own is None:
            accepted = f"a file in a folder that is called {', '.join(FAMILIES)}"
            raise ArgumentError("file", path, accepted, hint="or say which with --family")
        for rule in read_file(path).rules:
            if rule.name in found:
                raise _twice(rule, found[rule.name])
            found[rule.name] = rule
            compiled.append(compile_rule(rule, own, check_rule(rule, operators)))
    return _ordered(compiled)


def read_file(path: Path) -> ast.File:
    """Parse one rule file; places in errors are relative to the folder of rules.

    Raises:
        RuleError: it cannot be read, or does not parse.
    """
    shown = "/".join(path.parts[-2:])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f"cannot be read: {error}", place=Place(shown, 1)) from None
    return parse_rules(text, shown)


def compile_text(text: str, family: str = "normalize", file: str = "<text>") -> RuleSet:
    """The rules of a text, as if it were a file of that family: for tests and experiments."""
    operators = check_operators([read_file(data_path("rules", "ops.rules"))])
    parsed = parse_rules(text, file)
    seen: dict[str, ast.Rule] = {}
    for rule in parsed.rules:
        if rule.name in seen:
            raise _twice(rule, seen[rule.name])
        seen[rule.name] = rule
    rules = [compile_rule(rule, family, check_rule(rule, operators)) for rule in parsed.rules]
    return _ordered(rules)


def _twice(rule: ast.Rule, other: ast.Rule) -> RuleError:
    return RuleError(f"rule {rule.name} is also defined at {other.place}", place=rule.place)


def _ordered(rules: list[CompiledRule]) -> RuleSet:
    return RuleSet(tuple(sorted(rules, key=lambda r: (FAMILIES.index(r.family), r.name))))


def rules_for(options: Options) -> RuleSet:
    """The built-in rules with the user's, less those that the options switch off."""
    rules = load_rules()
    if options.rules:
        rules = rules.merged(load_rules(*options.rules))
    return rules.without(*options.without) if options.without else rules

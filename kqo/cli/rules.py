"""``kqo rules`` and ``kqo fmt``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kqo.lang.ast import Rule


def rules(
    name: Annotated[str | None, typer.Argument(help="Show this rule.", metavar="NAME")] = None,
    folders: Annotated[
        list[Path] | None, typer.Option("--rules", help="Folder with further rule files.")
    ] = None,
) -> None:
    """List the rules by family, or show one with its documentation."""
    from kqo.lang.ruleset import load_rules

    found = load_rules()
    if folders:
        found = found.merged(load_rules(*folders))
    if name is not None:
        typer.echo(source(found.get(name).rule, folders or []))
        return
    width = max((len(rule.name) for rule in found), default=0)
    family = ""
    for rule in found:
        if rule.family != family:
            typer.echo(f"{chr(10) if family else ''}{rule.family}")
            family = rule.family
        kind = "exact"
        if rule.rule.approximation is not None:
            kind = f"approx({rule.rule.approximation.parameter})"
        about = " ".join(rule.rule.doc.split()).removeprefix(rule.name).split(". ")[0].strip(" .")
        typer.echo(f"  {rule.name:<{width}}  {kind:<11}  {about}")


def source(rule: Rule, folders: list[Path]) -> str:
    """A rule as it stands in its file, with its documentation."""
    from kqo.data import data_path

    # A place names its file by the last two parts of the path.
    files = (f for d in (data_path("rules"), *folders) for f in d.rglob("*.rules"))
    path = next(f for f in files if "/".join(f.parts[-2:]) == rule.place.file)
    lines = path.read_text(encoding="utf-8").splitlines()
    first = rule.place.line - 1 - len(rule.doc.splitlines())
    return "\n".join([f"# {rule.place.file}:{rule.place.line}", *lines[first : rule.end.line]])


def fmt(
    files: Annotated[list[Path], typer.Argument(help="Rule files.", metavar="FILE...")],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a file would change.")
    ] = False,
) -> None:
    """Format rule files."""
    from kqo.errors import ArgumentError
    from kqo.lang.format import format_rules

    changed = 0
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError("file", f"{path} ({error})", "a rule file") from None
        new = format_rules(text, str(path))
        if new == text:
            continue
        changed += 1
        typer.echo(f"{path}: {'would be formatted' if check else 'formatted'}")
        if not check:
            path.write_text(new, encoding="utf-8")
    if check and changed:
        raise typer.Exit(1)

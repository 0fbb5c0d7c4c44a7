"""``kqo rules`` and ``kqo fmt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rules(
    name: Annotated[str | None, typer.Argument(help="Show this rule.", metavar="NAME")] = None,
    folders: Annotated[
        list[Path] | None, typer.Option("--rules", help="Folder with further rule files.")
    ] = None,
) -> None:
    """List the rules by family, or show one with its documentation."""
    from kqo.lang.format import format_rule
    from kqo.lang.ruleset import load_rules

    found = load_rules()
    if folders:
        found = found.merged(load_rules(*folders))
    if name is not None:
        typer.echo(format_rule(found.get(name).rule))
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
        about = rule.rule.doc.split("\n", 1)[0].removeprefix(rule.name).strip()
        typer.echo(f"  {rule.name:<{width}}  {kind:<11}  {about}")


def fmt(
    files: Annotated[list[Path], typer.Argument(help="Rule files.", metavar="FILE...")],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a file would change.")
    ] = False,
) -> None:
    """Format rule files."""
    from kqo.errors import ArgumentError
    from kqo.lang.format import format_text

    changed = 0
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError("file", f"{path} ({error})", "a rule file") from None
        new = format_text(text, str(path))
        if new == text:
            continue
        changed += 1
        typer.echo(f"{path}: {'would be formatted' if check else 'formatted'}")
        if not check:
            path.write_text(new, encoding="utf-8")
    if check and changed:
        raise typer.Exit(1)

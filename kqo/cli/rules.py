"""``kqo rules``, ``kqo rules test`` and ``kqo fmt``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

if TYPE_CHECKING:
    from kqo.lang.ast import Rule
    from kqo.lang.ruleset import RuleSet

FAILED, UNPROVEN = 1, 3
"""Exit codes of ``kqo rules test``: a rule does not hold; a rule never fired."""


class RulesGroup(typer.core.TyperGroup):
    """``kqo rules [NAME]`` beside ``kqo rules test``: what is no command is an argument of show."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``show`` before arguments that name no command."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RulesGroup,
    help="List the rules, or show one: kqo rules [NAME] [--rules DIR]; test: kqo rules test FILE.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("show")
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


@app.command("test")
def test(
    files: Annotated[
        list[Path], typer.Argument(help="Rule files, or folders of them.", metavar="FILE...")
    ],
    examples: Annotated[
        int, typer.Option("--examples", help="Plans on which each rule has to fire and hold.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of the random plans.")] = 0,
    family: Annotated[
        str | None,
        typer.Option("--family", help="Of files that lie in no folder called after a family."),
    ] = None,
) -> None:
    """Hold rules against random plans: exact rationals, DuckDB, torch, and the source that runs.

    Exit code 1 where a rule does not hold, 3 where one never fired.
    """
    from kqo.errors import ArgumentError
    from kqo.lang.ruleset import load_rules
    from kqo.prove.duck import need_duckdb
    from kqo.prove.prover import prove_all
    from kqo.prove.report import format_counterexample, format_head, format_line

    if examples < 1:
        raise ArgumentError("examples", examples, "a whole number from 1")
    need_duckdb()
    chosen = tuple(_rules_of(files, family))
    width = max([len("rule"), *(len(rule.name) for rule in chosen)])
    typer.echo(format_head(width))
    outcomes = []
    for outcome in prove_all(chosen, load_rules(), examples=examples, seed=seed):
        typer.echo(format_line(outcome, width))
        outcomes.append(outcome)
    failed = [outcome for outcome in outcomes if outcome.counterexample is not None]
    for outcome in failed:
        typer.echo(f"\n{format_counterexample(outcome)}")
    if failed:
        raise typer.Exit(FAILED)
    if not all(outcome.holds for outcome in outcomes):
        raise typer.Exit(UNPROVEN)


def _rules_of(paths: list[Path], family: str | None) -> RuleSet:
    """The rules of files and folders together; ArgumentError where there are none."""
    from kqo.errors import ArgumentError
    from kqo.lang.ruleset import load_files, load_rules

    for path in paths:
        if not path.exists():
            raise ArgumentError("file", f"{path}, which does not exist", "a rule file or folder")
    folders = [path for path in paths if path.is_dir()]
    found = load_files(*(path for path in paths if not path.is_dir()), family=family)
    if folders:
        found = found.merged(load_rules(*folders))
    if not len(found):
        raise ArgumentError("file", ", ".join(map(str, paths)), "files that hold rules")
    return found


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

"""Golden cases of rules: reading, running and rewriting ``tests/golden/<family>/<RuleName>.case``.

A file holds cases with blank lines between them. A case is comments, a command, the text of a plan,
``----``, and what the command prints:

    # A second reader would compute the inner map twice.
    apply FuseMaps
    plan two-readers float64
    ...
    ----
    no match

``apply RULE [parameter=value] [with=OtherRule,...]`` runs that rule alone, or with others that it
needs: a normalize rule to a fixpoint, and any other in a memo. Printed is the plan; of a memo each
alternative that the rule added, as a root beside the node that it is equal to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kqo.ir.nodes import Node
from kqo.ir.plan import Plan
from kqo.ir.text import format_plan, parse_plan
from kqo.lang.ruleset import RuleSet, load_rules
from kqo.rewrite.memo import explore
from kqo.rewrite.normalize import normalize

GOLDEN = Path(__file__).parent / "golden"
NO_MATCH = "no match"


@dataclass(frozen=True)
class Case:
    """One case; ``line`` is where its command stands."""

    file: Path
    line: int
    comments: tuple[str, ...]
    command: str
    text: str
    output: str

    @property
    def rule(self) -> str:
        return self.command.split()[1]

    @property
    def options(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.command.split()[2:])

    @property
    def fires(self) -> bool:
        return self.output.strip() != NO_MATCH

    @property
    def plan(self) -> Plan:
        return parse_plan(self.text, {}, f"{self.file.name}:{self.line}")

    def __str__(self) -> str:
        head = "".join(f"{comment}\n" for comment in self.comments)
        return f"{head}{self.command}\n{self.text.strip()}\n----\n{self.output.strip()}\n"


def read_cases(path: Path) -> list[Case]:
    """The cases of a file, in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    cases: list[Case] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        comments = []
        while at < len(lines) and lines[at].startswith("#"):
            comments.append(lines[at])
            at += 1
        start = at
        if at == len(lines) or not lines[at].startswith("apply "):
            raise ValueError(f"{path.name}:{at + 1}: a case starts with: apply RULE")
        while at < len(lines) and lines[at] != "----":
            at += 1
        if at == len(lines):
            raise ValueError(f"{path.name}:{start + 1}: the case has no line ----")
        text = "\n".join(lines[start + 1 : at])
        end = at + 1
        while end < len(lines) and lines[end].strip():
            end += 1
        output = "\n".join(lines[at + 1 : end])
        cases.append(Case(path, start + 1, tuple(comments), lines[start], text, output))
        at = end
    return cases


def write_cases(path: Path, cases: list[Case]) -> None:
    path.write_text("\n".join(map(str, cases)), encoding="utf-8")


def case_files() -> list[Path]:
    return sorted(GOLDEN.glob("*/*.case"))


def rules_of(case: Case, rules: RuleSet | None = None) -> RuleSet:
    """The rules that the case runs, as a set of their own."""
    rules = rules or load_rules()
    names = [case.rule, *filter(None, case.options.get("with", "").split(","))]
    return RuleSet(tuple(rules.get(name) for name in names))


def rewritten(case: Case, plan: Plan | None = None) -> Plan | None:
    """The plan that the command prints; None where the rule does not match.

    Where the rule adds to a memo, roots are pairs: a node, and an alternative that the rule added.
    """
    plan = plan or case.plan
    rules = rules_of(case)
    if rules.get(case.rule).family == "normalize":
        after, trace = normalize(plan, rules, check=True)
        return after if case.rule in trace.counts() else None
    parameters = {k: float(v) for k, v in case.options.items() if k != "with"}
    memo = explore(plan, rules, parameters)
    found: dict[tuple[Node, Node], None] = {}
    for application in memo.trace:
        if application.rule == case.rule:
            found[application.before, application.after] = None
    roots: list[tuple[str, Node]] = []
    for number, (before, after) in enumerate(found, 1):
        roots += [(f"original{number}", before), (f"alternative{number}", after)]
    return replace(plan, roots=tuple(roots)) if roots else None


def run_case(case: Case) -> str:
    after = rewritten(case)
    return NO_MATCH if after is None else format_plan(after)

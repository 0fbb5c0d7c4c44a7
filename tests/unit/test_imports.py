"""The order of the stages: a module imports only from those before its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "kqo"
ORDER = (
    "errors",
    "collecting",
    "data",
    "profile",
    "options",
    "ir",
    "lang",
    "rewrite",
    "workloads",
    "planner",
    "emit",
    "runtime",
    "explain",
    "frontend",
    "zoo",
    "interop",
    "prove",
    "approximate",
    "answer",
    "demo",
    "api",
    "captum",
    "",  # kqo/__init__.py
    "bench",
    "cli",
    "__main__",
)
TORCH = ("frontend", "interop", "zoo", "bench", "demo", "cli", "captum")
"""Stages that may import torch: demo trains a network, cli runs one beside a plan."""
LONGEST = 500
MODULES = sorted(PACKAGE.rglob("*.py"))


def stage_of(path: Path) -> str:
    """The stage that a file belongs to: its folder in kqo/, or its own name there."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports_of(path: Path):
    """Every import of a file, wherever it stands: dotted name, line, whether only for types."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing.update(id(below) for part in node.body for below in ast.walk(part))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in typing
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, id(node) in typing


def stage_imported(name: str) -> str | None:
    """The stage that ``from kqo.x import y`` or ``from kqo import x`` reads; None for others."""
    parts = name.split(".")
    if parts[0] != "kqo":
        return None
    second = parts[1] if len(parts) > 1 else ""
    return second if second in ORDER else ""


def violations(path: Path) -> list[str]:
    own = stage_of(path)
    found = []
    for name, line, typing in imports_of(path):
        stage = stage_imported(name)
        if stage is not None and ORDER.index(stage) > ORDER.index(own):
            found.append(f"{path.relative_to(ROOT)}:{line}: {own or 'kqo'} imports {name}")
        if name.split(".")[0] == "torch" and own not in TORCH and not typing:
            found.append(f"{path.relative_to(ROOT)}:{line}: {own or 'kqo'} imports torch")
    return found


def test_every_stage_is_in_the_order():
    assert {stage_of(path) for path in MODULES} <= set(ORDER)


def test_imports_go_down_the_pipeline():
    assert not [line for path in MODULES for line in violations(path)]


@pytest.mark.parametrize(
    ("stage", "source", "wrong"),
    [
        ("ir", "from kqo.lang import parse", True),
        ("ir", "def f():\n    import kqo.lang.parse", True),
        ("ir", "import torch", True),
        ("lang", "from kqo.ir.nodes import Node", False),
        ("frontend", "import torch.nn", False),
        ("api", "if TYPE_CHECKING:\n    import torch", False),
        ("api", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", True),
        ("ir", "if TYPE_CHECKING:\n    from kqo.lang import parse", True),
        ("planner", "from kqo import api", True),
        ("planner", "from kqo import errors", False),
        ("planner", "import kqo", True),
    ],
)
def test_the_check_finds_what_it_should(tmp_path, monkeypatch, stage, source, wrong):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / stage / "module.py"
    path.parent.mkdir()
    path.write_text(source)
    assert bool(violations(path)) is wrong


@pytest.mark.parametrize("module", ["kqo", "kqo.cli", "kqo.demo"])
def test_importing_kqo_imports_no_heavy_library(module):
    code = (
        f"import sys, {module}; "
        "print([n for n in ('torch', 'cupy', 'matplotlib', 'onnx') if n in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "[]"


def test_files_are_short_enough_to_read():
    code = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "codegen").rglob("*.j2")]
    long = {p: n for p in code if (n := len(p.read_text(encoding="utf-8").splitlines())) > LONGEST}
    assert not long


def test_the_repository_names_no_machine():
    """Nothing about the place where it was written: no absolute home."""
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *MODULES]
    marks = [f"/{top}/" for top in ("work", "home", "root")]
    assert not [(p, m) for p in texts for m in marks if m in p.read_text(encoding="utf-8")]

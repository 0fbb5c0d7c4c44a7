"""What is shipped: a wheel that holds everything and works away from the checkout."""

import ast
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def run(*command, cwd, **variables):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**env, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder
    )
    (found,) = folder.glob("kqo-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_every_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    package = [p for p in (ROOT / "kqo").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    expected = {str(p.relative_to(ROOT)) for p in package}
    for folder in ("grammar", "rules", "codegen"):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file()]
        assert files
        expected |= {f"kqo/_data/{p.relative_to(ROOT)}" for p in files}
    assert expected <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(wheel, tmp_path):
    # The environment sees this one's packages, so that only kqo itself has to be installed.
    venv.create(tmp_path / "venv", system_site_packages=False, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site / "installed")
    # Paths of a .pth file come in order: the wheel's first, then the packages that it needs.
    outer = [p for p in sys.path if p.endswith("site-packages")]
    (site / "test.pth").write_text("\n".join([str(site / "installed"), *outer]) + "\n")
    where = run(python, "-c", "import kqo; print(kqo.__file__)", cwd=tmp_path)
    assert str(site) in where
    assert "HoistOverlay" in run(python, "-m", "kqo", "rules", cwd=tmp_path)
    shown = run(python, "-m", "kqo", "demo", "-o", "demo.png", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert "speedup" in shown and (tmp_path / "demo.png").stat().st_size > 10_000


def test_direct_dependencies_are_pinned_and_declared():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {text.split(">")[0].split("[")[0] for text in project["dependencies"]}
    wanted |= {text.split(">")[0] for text in project["optional-dependencies"]["test"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert {name.lower() for name in wanted} <= pins
    assert all("==" in line or line.startswith("#") for line in lines if line)


def test_what_is_imported_is_declared():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    texts = [text for group in groups for text in group]
    declared = {re.split(r"[>=\[]", text)[0].lower() for text in texts}
    imported = set()
    for path in (ROOT / "kqo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    known = {"PIL": "pillow", "cupy": "cupy-cuda12x"}
    outside = imported - set(sys.stdlib_module_names) - {"kqo"}
    assert {known.get(name, name).lower() for name in outside} <= declared


def test_ci_runs_what_it_should():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK) and "set -euo pipefail" in script
    for step in ("pip install", "ruff check", "ruff format --check", "mypy", "pytest", "-m slow"):
        assert step in script


def test_links_in_the_documentation_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    missing = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not missing


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_say_what_they_do(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, tmp_path):
    run(sys.executable, path, cwd=tmp_path, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))

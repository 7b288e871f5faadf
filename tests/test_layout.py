"""The promises of the house: one import name per module, every package shipped, light imports, small files."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for folder in ("dpaudit", "attacks", "reports")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_symlink()
)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_top_level_is_as_agreed():
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "action.yml", ".ci/run"):
        assert (ROOT / name).is_file(), name
    for name in ("dpaudit", "attacks", "reports", "tests", "benchmarks", "examples", "docs"):
        assert (ROOT / name).is_dir(), name
    assert (ROOT / "dpaudit" / "attacks").resolve() == ROOT / "attacks"
    assert (ROOT / "dpaudit" / "reports").resolve() == ROOT / "reports"


def test_every_package_is_listed_for_the_wheel():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"dpaudit", "dpaudit.attacks", "dpaudit.reports"}
    found |= {
        "dpaudit." + path.parent.relative_to(ROOT / "dpaudit").as_posix().replace("/", ".")
        for path in (ROOT / "dpaudit").rglob("*.py")
        if path.parent != ROOT / "dpaudit"
    }
    assert found - listed == set(), "packages that the wheel would miss"
    assert listed - found == set(), "packages that do not exist"


def test_one_name_per_module():
    code = (
        "import sys, dpaudit.attacks, dpaudit.reports; print([n for n in ('attacks', 'reports') if n in sys.modules])"
    )
    assert python(code) == "[]"


@pytest.mark.parametrize(
    "statement", ["import dpaudit", "from dpaudit.cli.main import run; run(['--help'])", "import dpaudit.cli.gate"]
)
def test_light_imports(statement):
    code = f"""
import io, sys
sys.stdout = io.StringIO()
{statement}
sys.stdout = sys.__stdout__
print([m for m in ('tensorflow', 'keras', 'matplotlib', 'dp_accounting', 'sklearn') if m in sys.modules])
"""
    assert python(code) == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500, "hard stop of the house; the aim is 300"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            assert length <= 60, f"{node.name} has a body of {length} lines; the aim is 40"


def test_no_asserts_in_library_code():
    for path in SOURCES:
        found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert not found, f"{path}: assert at {found}; raise a DpauditError instead"

"""The pytest plugin: the gate as tests, in a pytest of its own."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from junitparser import JUnitXml

POLICY = "[claim]\nrecompute = false\n[evidence]\nmax_age_days = 36000\n"


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "pytest", "-p", "dpaudit.cli.pytest_gate", "-p", "no:cacheprovider", "--junitxml=j.xml",
        *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("what", ["pass", "fail", "inconclusive"])
def test_a_gate_as_tests(factory: ModuleType, tmp_path: Path, what: str) -> None:
    changes = {"pass": {}, "fail": {"bounds": (factory.bound(epsilon=9.0),)}, "inconclusive": {"powers": ()}}[what]
    bundle = factory.make(tmp_path, **changes)
    (tmp_path / "p.toml").write_text(POLICY)
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    done = pytest_run(tmp_path, "--dpaudit-evidence", str(bundle.root), "--dpaudit-policy", "p.toml", "test_own.py")
    assert done.returncode == (0 if what == "pass" else 1), done.stdout + done.stderr
    cases = {case.name: case for suite in JUnitXml.fromfile(str(tmp_path / "j.xml")) for case in suite}
    assert {"test_own", "DPA001", "DPA101", "verdict"} <= set(cases)
    failed = {name for name, case in cases.items() if any(r.__class__.__name__ == "Failure" for r in case.result)}
    assert failed == {"pass": set(), "fail": {"DPA101", "verdict"}, "inconclusive": {"DPA103", "verdict"}}[what]
    assert "Traceback" not in done.stdout
    if what == "fail":
        assert "ε ≥ 9 shown" in done.stdout


def test_unreadable_evidence_is_a_usage_error_and_no_pass(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, "--dpaudit-evidence", "nowhere")
    assert done.returncode == 4
    assert "there is no evidence" in done.stderr


def test_without_the_option_nothing_happens(tmp_path: Path) -> None:
    code = "import sys\ndef test_own():\n    assert not {'dpaudit.gate', 'numpy', 'pydantic'} & set(sys.modules)\n"
    (tmp_path / "test_own.py").write_text(code)
    assert pytest_run(tmp_path).returncode == 0

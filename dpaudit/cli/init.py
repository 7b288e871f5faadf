"""`dpaudit init`: a policy file, and the gate as a job of the CI that is used."""

import re
from importlib.resources import files
from pathlib import Path

import click

from dpaudit import __version__, serialize
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import UsageError

POLICY = Path("dpaudit.toml")
TEMPLATES = {
    "github": ("ci-github.yml", Path(".github/workflows/dpaudit.yml")),
    "gitlab": ("ci-gitlab.yml", Path(".gitlab/dpaudit.gitlab-ci.yml")),
    "jenkins": ("ci-jenkins.groovy", Path("Jenkinsfile.dpaudit")),
    "pre-commit": ("ci-pre-commit.yml", Path(".pre-commit-config.yaml")),
}
_PLAIN = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")


@click.command()
@click.option("--ci", type=click.Choice(list(TEMPLATES)), help="Also write the job, or hooks, for this CI.")
@click.option("--profile", type=click.Choice(["strict", "standard", "research"]), default="standard", show_default=True)
@click.option("--evidence", default="evidence", show_default=True, help="Where the CI finds the evidence.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@json_option
def command(*, ci: str | None, profile: str, evidence: str, force: bool, as_json: bool) -> None:
    """Write dpaudit.toml here and, with --ci, the job that runs the gate. A policy that exists is kept."""
    if not _PLAIN.match(evidence):
        raise UsageError(f"--evidence must be a plain relative path (letters, digits, _ . / -); got {evidence[:80]!r}.")
    values = {"@PROFILE@": profile, "@VERSION@": __version__, "@EVIDENCE@": evidence}
    wanted = [("init-policy.toml", POLICY), *([TEMPLATES[ci]] if ci else [])]
    kept = [str(path) for _, path in wanted if path.exists() and path == POLICY and not force]
    if blocked := [str(path) for _, path in wanted if path.exists() and str(path) not in kept and not force]:
        raise UsageError(f"{', '.join(blocked)} exists. Look at it first; --force replaces it.")
    written = []
    for template, path in wanted:
        if str(path) in kept:
            continue
        write(path, filled(template, values))
        written.append(str(path))
    told = [f"wrote {path}" for path in written] + [f"kept {path}" for path in kept]
    emit("init", {"written": written, "kept": kept}, "\n".join(told), as_json=as_json)


def filled(template: str, values: dict[str, str]) -> str:
    """Return a template of the package with its place-holders replaced."""
    text = files("dpaudit").joinpath(f"data/{template}").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def write(path: Path, text: str) -> None:
    """Write a file below the working folder; raise UsageError if that cannot be done."""
    try:
        serialize.write_atomic(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}.") from error

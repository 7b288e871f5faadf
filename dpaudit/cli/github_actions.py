"""What `dpaudit gate` does by itself inside a GitHub Actions job: annotations and the step summary."""

import os

import click

from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import Verdict


def tell(evidence: Evidence, verdict: Verdict, policy: Policy, *, to_stderr: bool) -> None:
    """Print annotations and append to the step summary, in GitHub Actions only; the exit code is not touched.

    Args:
        evidence: the bundle.
        verdict: the verdict.
        policy: the policy, whose lines the annotations point at.
        to_stderr: keep stdout for the one JSON document; the runner reads both.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    from dpaudit import reports

    click.echo(reports.render("github", evidence, verdict, policy=policy), nl=False, err=to_stderr)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(path, reports.render("md", evidence, verdict))


def _append(path: str, text: str) -> None:
    """Append to the summary, cut below the limit above which GitHub drops all of it."""
    from dpaudit.reports.github import SUMMARY_LIMIT

    data = text.encode()
    try:
        room = SUMMARY_LIMIT - 1024 - (os.path.getsize(path) if os.path.exists(path) else 0)
        with open(path, "ab") as stream:
            stream.write(data if len(data) <= room else data[: max(0, room)].rsplit(b"\n", 1)[0] + b"\n\n(cut)\n")
    except OSError as error:
        click.echo(f"dpaudit: the step summary could not be written: {error.strerror}", err=True)

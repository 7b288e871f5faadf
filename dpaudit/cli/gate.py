"""`dpaudit gate EVIDENCE`: one verdict; the exit code never depends on how it is written down."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpaudit.cli.gate_inputs import beside_options, gather, recompute
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from dpaudit.records import Verdict


@click.command()
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option("--policy", metavar="FILE|PROFILE", help="Profile (strict, standard, ...) or policy file.")
@click.option("--baseline", type=click.Path(path_type=Path), help="Evidence of the released model (DPA401).")
@beside_options
@click.option("--now", type=click.DateTime(["%Y-%m-%d"]), help="Date of the judgement (UTC today).")
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="FORMAT=PATH",
    help="Write it as text, json, junit, junit-strict, sarif, gitlab, github, md or html; any number of times.",
)
@click.option("--allow-inconclusive", is_flag=True, help="Exit 0 instead of 3 when the verdict is inconclusive.")
@click.option("--report-only", is_flag=True, help="Exit 0 whatever the verdict is.")
@click.option(
    "--no-recompute", is_flag=True, help="Do not recompute the claim from the ledger (DPA001 then cannot pass)."
)
@click.option("--no-ci", is_flag=True, help="No annotations and no step summary in GitHub Actions.")
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict line only.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    evidence: Path,
    policy: str | None,
    baseline: Path | None,
    model: Path | None,
    commit: str | None,
    seal: Path | None,
    drill: Path | None,
    releases: tuple[Path, ...],
    now: datetime | None,
    outputs: tuple[str, ...],
    allow_inconclusive: bool,
    report_only: bool,
    no_recompute: bool,
    no_ci: bool,
    quiet: bool,
    color: str,
    as_json: bool,
) -> None:
    """Judge EVIDENCE, a bundle (folder, .zip, or the folder of a run), under a policy.

    Exit code: 0 pass, 1 fail, 2 usage or unreadable evidence, 3 inconclusive.
    """  # fmt: skip
    from dpaudit import reports
    from dpaudit.cli import github_actions
    from dpaudit.evidence import read_evidence
    from dpaudit.gate import evaluate
    from dpaudit.policy import load_policy
    from dpaudit.reports import document, text
    from dpaudit.reports.summary import last_line

    targets = [_target(output) for output in outputs]
    chosen = load_policy(policy)
    bundle = read_evidence(evidence)
    for _, path in targets:
        refuse_inside(path, bundle.root)
    today = now.date() if now else datetime.now(UTC).date()
    recompute_it = chosen.claim.recompute and not no_recompute
    recomputed = recompute(bundle) if recompute_it else None
    released = read_evidence(baseline) if baseline else None
    shown_too = gather(bundle, chosen, model=model, commit=commit, seal=seal, drill=drill, releases=releases)
    verdict = evaluate(bundle, chosen, today=today, recomputed=recomputed, baseline=released, beside=shown_too)
    for kind, path in targets:
        write(path, reports.render(kind, bundle, verdict, policy=chosen))
    if not no_ci:
        github_actions.tell(bundle, verdict, chosen, to_stderr=as_json)
    code, note = _exit_code(verdict, allow_inconclusive=allow_inconclusive, report_only=report_only)
    body = {**document.payload(bundle, verdict), "exit_code": code, "written": [str(path) for _, path in targets]}
    coloured = not as_json and _colour(color)
    brief = text.paint(last_line(verdict), verdict.status, coloured)
    shown = brief if quiet else text.render(bundle, verdict, colour=coloured, width=_width())
    emit("gate", body, shown + note, as_json=as_json)
    ctx.exit(code)


def _exit_code(verdict: "Verdict", *, allow_inconclusive: bool, report_only: bool) -> tuple[int, str]:
    code = verdict.exit_code
    if report_only and code != EXIT_PASS:
        return EXIT_PASS, f"  (report only: exit 0 instead of {code})"
    if allow_inconclusive and code == EXIT_INCONCLUSIVE:
        return EXIT_PASS, "  (inconclusive allowed: exit 0 instead of 3)"
    return code, ""


def _target(output: str) -> tuple[str, Path]:
    """Split FORMAT=PATH."""
    from dpaudit.reports import FORMATS

    kind, equals, path = output.partition("=")
    if not equals or not path or kind not in FORMATS:
        raise UsageError(f"--output must be FORMAT=PATH with a format of {', '.join(FORMATS)}; got {output!r}.")
    return kind, Path(path)


def refuse_inside(path: Path, root: Path) -> None:
    """A file more in the bundle would make the evidence unreadable."""
    if root.resolve() in (path.resolve(), *path.resolve().parents):
        raise UsageError(f"--output {path} lies inside the evidence {root}, which would change it. Write elsewhere.")


def write(path: Path, text: str | bytes) -> None:
    """Write a rendering; raise UsageError if that cannot be done."""
    from dpaudit import serialize

    try:
        serialize.write_atomic(path, text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}.") from error


def _colour(choice: str) -> bool:
    """Decide on colour: what was asked, else NO_COLOR and friends, else whether stdout is a terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("CLICOLOR") == "0" or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


def _width() -> int:
    import shutil

    return max(80, min(160, shutil.get_terminal_size((110, 24)).columns))

"""`dpaudit report EVIDENCE`: a report for people, from an evidence bundle."""

from datetime import UTC, datetime
from pathlib import Path

import click

from dpaudit.cli.gate import refuse_inside, write
from dpaudit.cli.gate_inputs import recompute
from dpaudit.cli.output import emit, json_option

_NAMES = {
    "html": "dpaudit-report.html",
    "md": "dpaudit-report.md",
    "json": "dpaudit-report.json",
    "pdf": "dpaudit-report.pdf",
}


@click.command()
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(list(_NAMES)), default="html", show_default=True)
@click.option("--policy", metavar="FILE|PROFILE", help="Profile (strict, standard, research) or policy file.")
@click.option("--now", type=click.DateTime(["%Y-%m-%d"]), help="Date of the judgement (UTC today).")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write; default dpaudit-report.FORMAT here.")
@click.option("--open", "show", is_flag=True, help="Show the report in the browser (or viewer) of this machine.")
@json_option
def command(
    *, evidence: Path, kind: str, policy: str | None, now: datetime | None, out: Path | None, show: bool, as_json: bool
) -> None:
    """Write a report on EVIDENCE. The exit code says whether it was written, not what the verdict is."""
    from dpaudit import reports
    from dpaudit.evidence import read_evidence
    from dpaudit.gate import evaluate
    from dpaudit.policy import load_policy
    from dpaudit.reports.summary import last_line

    chosen = load_policy(policy)
    bundle = read_evidence(evidence)
    target = out or Path(_NAMES[kind])
    refuse_inside(target, bundle.root)
    today = now.date() if now else datetime.now(UTC).date()
    fresh = recompute(bundle) if chosen.claim.recompute else None
    verdict = evaluate(bundle, chosen, today=today, recomputed=fresh)
    write(target, reports.render_report(kind, bundle, verdict))
    if show and click.launch(target.resolve().as_uri()) != 0:
        click.echo(f"dpaudit: nothing here could open {target}", err=True)
    payload = {"written": str(target), "format": kind, "status": verdict.status}
    emit("report", payload, f"{last_line(verdict)}\nreport: {target}", as_json=as_json)

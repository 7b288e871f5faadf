"""The files for people and machines that a run leaves beside its evidence; all render the one verdict."""

from pathlib import Path

from dpaudit import reports, serialize
from dpaudit.pipeline.run import Outcome


def write_outputs(outcome: Outcome, out: Path) -> dict[str, Path]:
    """Write verdict.json, verdict.txt, junit.xml and report.html; return their paths by format."""
    rendered = {
        "json": ("verdict.json", reports.render("json", outcome.evidence, outcome.verdict)),
        "text": ("verdict.txt", reports.render("text", outcome.evidence, outcome.verdict)),
        "junit": ("junit.xml", reports.render("junit", outcome.evidence, outcome.verdict)),
        "html": ("report.html", reports.render("html", outcome.evidence, outcome.verdict)),
    }
    for name, text in rendered.values():
        serialize.write_atomic(out / name, text)
    return {kind: out / name for kind, (name, _) in rendered.items()}


def verdict_text(outcome: Outcome, written: dict[str, Path]) -> str:
    """Return what is printed at the end of a run; the verdict stands last, where eyes end."""
    facts = outcome.evidence.training
    head = (
        f"{facts['name']}: {facts['rounds']} rounds, {facts['clients']} clients, hold-out accuracy "
        f"{facts['holdout_accuracy']:.1%}\nevidence {outcome.evidence.root}   report {written['html']}"
    )
    return f"{head}\n\n{reports.render('text', outcome.evidence, outcome.verdict)}"

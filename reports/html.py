"""The report for people: one self-contained HTML file without scripts, in light, dark and print."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from dpaudit import __version__
from dpaudit.evidence import Evidence
from dpaudit.records import Status, Verdict
from dpaudit.reports import checklist, groups, plots, plots_audit, plots_spent, view
from dpaudit.reports.clean import plain
from dpaudit.reports.sentences import Story
from dpaudit.reports.summary import WORDS, by_severity, counts, model_name


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("dpaudit.reports", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(evidence: Evidence, verdict: Verdict) -> str:
    """Return the whole report. It shows what the bundle and the verdict say and computes nothing of its own."""
    story = Story(evidence, verdict)
    return _environment().get_template("report.html.j2").render(
        version=__version__,
        evidence=evidence,
        verdict=verdict,
        story=story,
        model=model_name(evidence),
        counts=counts(verdict),
        words=WORDS,
        classes=view.STATUS_CLASS,
        findings=by_severity(verdict),
        waived=[f for f in verdict.findings if f.status == Status.WAIVED],
        plain=plain,
        icons=_icons(story),
        rates=[f"{100 * fpr:g} %" for fpr, _ in story.ceilings],
        tables={name: getattr(view, name)(evidence) for name in _TABLES} | {"groups": groups.groups(evidence)},
        provenance=view.provenance(evidence, verdict),
        figures=_figures(evidence, verdict),
        waivers=checklist.waivers(verdict),
        checklist=checklist.checklist(evidence, verdict),
        commands=checklist.commands(evidence, verdict),
        limits=view.LIMITS,
        glossary=view.GLOSSARY,
    )  # fmt: skip


_TABLES = ("guarantee", "assumptions", "canaries", "bounds", "powers", "checks", "attacks", "training")


def _icons(story: Story) -> dict[str, Any] | None:
    """Return how many of 100 icons are filled: the ceiling at a false-positive rate of 1 %, rounded up."""
    found = [tpr for fpr, tpr in story.ceilings if abs(fpr - 0.01) < 1e-9]
    return {"filled": max(0, min(100, -int(-(100 * found[0] - 1e-9) // 1)))} if found else None


def _figures(evidence: Evidence, verdict: Verdict) -> dict[str, list[dict[str, Any]]]:
    """Draw every figure, by the section that shows it."""
    return {
        "guarantee": _drawn([plots.trade_off(evidence), plots_spent.rounds(evidence), plots_spent.profile(evidence)]),
        "audit": _drawn(
            [plots_audit.ladder(evidence), plots_audit.power(evidence, verdict), plots.canary_histogram(evidence)]
        ),
        "attacks": _drawn([plots.roc(evidence), *plots.attack_histograms(evidence)]),
    }


def _drawn(wanted: Iterable[plots.Plot | None]) -> list[dict[str, Any]]:
    from dpaudit.reports import figures

    result = []
    for plot in wanted:
        if plot is None:
            continue
        try:
            svg: Markup | None = Markup(figures.draw(plot))  # noqa: S704 - our own drawing; its texts are escaped there
        except Exception:  # numbers that cannot be drawn are still in the table
            svg = None
        result.append({"plot": plot, "svg": svg})
    return result

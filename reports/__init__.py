"""Renderings of one verdict: text, JSON, JUnit XML, Markdown and HTML. None of them computes or changes anything."""

from collections.abc import Mapping
from importlib import import_module

from dpaudit.errors import UsageError
from dpaudit.evidence import Evidence
from dpaudit.records import Verdict

FORMATS: Mapping[str, str] = {
    "text": "dpaudit.reports.text",
    "json": "dpaudit.reports.document",
    "junit": "dpaudit.reports.junit",
    "junit-strict": "dpaudit.reports.junit_strict",
    "md": "dpaudit.reports.markdown",
    "html": "dpaudit.reports.html",
}
"""Formats of a verdict and the modules that hold their `render(evidence, verdict) -> str`, imported when first used."""
REPORTS: Mapping[str, str] = {
    "html": "dpaudit.reports.html",
    "md": "dpaudit.reports.markdown_report",
    "json": "dpaudit.reports.full_document",
}
"""Formats of a whole report."""


def render(kind: str, evidence: Evidence, verdict: Verdict) -> str:
    """Return the verdict in a format; raise UsageError if there is no such format."""
    return _render(FORMATS, kind, evidence, verdict)


def render_report(kind: str, evidence: Evidence, verdict: Verdict) -> str:
    """Return the whole report as html, md or json; raise UsageError for anything else."""
    return _render(REPORTS, kind, evidence, verdict)


def _render(modules: Mapping[str, str], kind: str, evidence: Evidence, verdict: Verdict) -> str:
    if kind not in modules:
        raise UsageError(f"there is no output format {kind!r}; the formats are {', '.join(modules)}.")
    text: str = import_module(modules[kind]).render(evidence, verdict)
    return text

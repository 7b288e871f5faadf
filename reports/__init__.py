"""Renderings of one verdict and of the evidence behind it. None of them computes or changes anything."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dpaudit.errors import UsageError
from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import Verdict

FORMATS: Mapping[str, str] = {
    "text": "dpaudit.reports.text",
    "json": "dpaudit.reports.document",
    "junit": "dpaudit.reports.junit",
    "junit-strict": "dpaudit.reports.junit_strict",
    "md": "dpaudit.reports.markdown",
    "html": "dpaudit.reports.html",
    "sarif": "dpaudit.reports.sarif",
    "gitlab": "dpaudit.reports.gitlab",
    "github": "dpaudit.reports.github",
}
"""Formats of a verdict and the modules that hold their `render(evidence, verdict)`, imported when first used."""
ANCHORED = frozenset({"sarif", "gitlab", "github"})
"""Formats that point at lines of the policy; their `render` takes it too."""
REPORTS: Mapping[str, str] = {
    "html": "dpaudit.reports.html",
    "md": "dpaudit.reports.markdown_report",
    "json": "dpaudit.reports.full_document",
    "pdf": "dpaudit.reports.pdf",
}
"""Formats of a whole report."""


def render(kind: str, evidence: Evidence, verdict: Verdict, *, policy: Policy | None = None) -> str:
    """Return the verdict in a format.

    Args:
        kind: one of FORMATS.
        evidence: the bundle that was judged.
        verdict: what the gate said of it.
        policy: the policy that it was judged under; formats that point at lines anchor findings in its file.

    Raises: UsageError if there is no such format.
    """
    module = _module(FORMATS, kind)
    text: str = module.render(evidence, verdict, policy) if kind in ANCHORED else module.render(evidence, verdict)
    return text


def render_report(kind: str, evidence: Evidence, verdict: Verdict) -> str | bytes:
    """Return the whole report as html, md, json (text) or pdf (bytes); raise UsageError for anything else."""
    report: str | bytes = _module(REPORTS, kind).render(evidence, verdict)
    return report


def _module(modules: Mapping[str, str], kind: str) -> Any:
    if kind not in modules:
        raise UsageError(f"there is no output format {kind!r}; the formats are {', '.join(modules)}.")
    return import_module(modules[kind])

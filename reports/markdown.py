"""The verdict as GitHub-flavoured Markdown, for summaries, comments and issues."""

import re

from dpaudit.evidence import Evidence
from dpaudit.records import Finding, Verdict
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import WORDS, by_severity, claim_text, last_line, model_name

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~:&$])")

_CAUTION = (
    "A pass means that the claim follows from the ledger and that nothing here contradicts it. "
    "It is no proof that no information leaks."
)


def escape(text: object) -> str:
    """Return text that Markdown shows as it is: no markup, no links, no mentions, no cells."""
    entities = _SPECIAL.sub(lambda found: f"&#{ord(found[1])};", plain(text))
    return entities.replace("@", "@\u200b").replace("www.", "www\u200b.")


def render(evidence: Evidence, verdict: Verdict) -> str:
    """Return the Markdown, with headings from the third level on."""
    digests = (
        f"Evidence `sha256:{evidence.digest}`, policy {escape(verdict.profile)} `sha256:{verdict.digests['policy']}`"
    )
    lines = [
        f"### dpaudit: {WORDS[verdict.status]}",
        "",
        f"{escape(model_name(evidence))}, claim {escape(claim_text(evidence))}. {last_line(verdict)}",
        "",
        "| Status | Rule | Question | Finding |",
        "|---|---|---|---|",
        *(_row(finding) for finding in by_severity(verdict)),
        "",
        f"{digests}, judged on {verdict.date}.",
        "",
        _CAUTION,
    ]
    return "\n".join(lines) + "\n"


def _row(finding: Finding) -> str:
    fix = f"<br>→ {escape(finding.fix)}" if finding.fix else ""
    return f"| **{WORDS[finding.status]}** | {finding.rule} | {finding.title} | {escape(finding.message)}{fix} |"

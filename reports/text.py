"""The verdict for a terminal: one finding each, its fix below, the verdict last, where eyes end."""

import textwrap

from dpaudit.evidence import Evidence
from dpaudit.records import Finding, Status, Verdict
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import WORDS, claim_text, last_line, model_name

WIDTH = 110
_STATUS, _RULE, _TITLE = 14, 8, 23
_COLOURS = {Status.PASS: "32", Status.FAIL: "1;31", Status.INCONCLUSIVE: "33", Status.WAIVED: "36", Status.NOT_RUN: "2"}


def render(evidence: Evidence, verdict: Verdict, *, colour: bool = False, width: int = WIDTH) -> str:
    """Return the verdict as text; `colour` adds ANSI colours, the words stay."""
    policy = verdict.digests["policy"][:12]
    head = [
        f"dpaudit gate  {model_name(evidence)}  claim {claim_text(evidence)}",
        f"evidence sha256:{evidence.digest[:12]}  policy {verdict.profile} sha256:{policy}  {verdict.date}",
    ]
    rows = [line for finding in verdict.findings for line in _row(finding, colour, width)]
    return "\n".join([*head, "", *rows, "", paint(last_line(verdict), verdict.status, colour)])


def paint(text: str, status: Status, colour: bool) -> str:
    """Colour a text by a status."""
    return f"\x1b[{_COLOURS[status]}m{text}\x1b[0m" if colour else text


def _row(finding: Finding, colour: bool, width: int) -> list[str]:
    indent = " " * (2 + _STATUS + _RULE + _TITLE)
    room = max(40, width - len(indent))
    message = textwrap.wrap(plain(finding.message), room, break_long_words=False) or [""]
    status = paint(f"{WORDS[finding.status]:<{_STATUS}}", finding.status, colour)
    lines = [f"  {status}{finding.rule:<{_RULE}}{finding.title:<{_TITLE}}{message[0]}"]
    lines += [indent + line for line in message[1:]]
    if finding.fix:
        advice = textwrap.wrap(f"→ {plain(finding.fix)}  dpaudit explain {finding.rule}", room, break_long_words=False)
        lines += [indent + line for line in advice]
    return lines

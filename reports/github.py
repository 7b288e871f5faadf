"""The verdict as annotations of a GitHub Actions job, within the ten that a step may make."""

from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import Finding, Status, Verdict
from dpaudit.reports.anchors import anchor
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import by_severity, last_line

MOST = 9
"""GitHub shows ten of each kind and drops the rest without a word; the tenth says how many there are."""
SUMMARY_LIMIT = 1 << 20
KINDS = {Status.FAIL: "error", Status.INCONCLUSIVE: "warning"}


def render(evidence: Evidence, verdict: Verdict, policy: Policy | None = None) -> str:
    """Return the workflow commands, worst first; waived findings are left to the summary."""
    shown = [finding for finding in by_severity(verdict) if finding.status in KINDS]
    lines = [_command(evidence, policy, finding) for finding in shown[:MOST]]
    if len(shown) > MOST:
        lines.append(f"::error title=dpaudit::{_data(f'{len(shown) - MOST} more findings are in the summary')}")
    lines.append(f"::notice title=dpaudit::{_data(last_line(verdict))}")
    return "\n".join(lines) + "\n"


def _command(evidence: Evidence, policy: Policy | None, finding: Finding) -> str:
    place = anchor(evidence, policy, finding)
    properties = {"file": place.path, "line": str(place.line), "title": f"{finding.rule} {finding.title}"}
    stated = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{KINDS[finding.status]} {stated}::{_data(plain(finding.message))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(plain(text)).replace(":", "%3A").replace(",", "%2C")

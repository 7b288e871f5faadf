"""What every rendering shares: the order of findings, the counts, the last line and who was judged."""

from collections import Counter

from dpaudit.evidence import Evidence
from dpaudit.records import Finding, Status, Verdict
from dpaudit.reports.clean import plain

SEVERITY = (Status.FAIL, Status.INCONCLUSIVE, Status.WAIVED, Status.PASS, Status.NOT_RUN)
WORDS = {
    Status.PASS: "PASS",
    Status.FAIL: "FAIL",
    Status.INCONCLUSIVE: "INCONCLUSIVE",
    Status.WAIVED: "WAIVED",
    Status.NOT_RUN: "NOT RUN",
}
_COUNTED = {
    Status.FAIL: "failed",
    Status.INCONCLUSIVE: "inconclusive",
    Status.WAIVED: "waived",
    Status.PASS: "passed",
    Status.NOT_RUN: "not asked",
}


def counts(verdict: Verdict) -> str:
    """Return how many findings there are of each kind, worst first: `1 failed, 1 inconclusive, 2 passed`."""
    found = Counter(finding.status for finding in verdict.findings)
    return ", ".join(f"{found[status]} {_COUNTED[status]}" for status in SEVERITY if found[status])


def last_line(verdict: Verdict) -> str:
    """Return the verdict in one line."""
    return f"{WORDS[verdict.status]}: {counts(verdict)}."


def by_severity(verdict: Verdict) -> list[Finding]:
    """Return the findings, worst first, by code within a status."""
    return sorted(verdict.findings, key=lambda finding: (SEVERITY.index(finding.status), finding.rule))


def claim_text(evidence: Evidence) -> str:
    """Return the claim in one phrase."""
    claim = evidence.claim
    return f"(ε {claim.epsilon:g}, δ {claim.delta:g}), one {claim.unit.value}, {claim.relation.value}"


def model_name(evidence: Evidence) -> str:
    """Return the name of the model, harmless to print."""
    return plain(evidence.claim.model or "model")

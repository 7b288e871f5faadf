"""The verdict as a GitLab Code Quality report; GitLab stops reading at the first entry that is not valid."""

from collections import Counter

from dpaudit import serialize
from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import Status, Verdict
from dpaudit.reports.anchors import anchor, fingerprint
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import model_name

SEVERITIES = {Status.FAIL: "blocker", Status.INCONCLUSIVE: "major"}


def render(evidence: Evidence, verdict: Verdict, policy: Policy | None = None) -> str:
    """Return the list of degradations; waived findings are left out."""
    seen: Counter[str] = Counter()
    entries = []
    for finding in verdict.findings:
        if finding.status not in SEVERITIES:
            continue
        place = anchor(evidence, policy, finding)
        entries.append(
            {
                "description": f"{finding.rule} {finding.title}: {plain(finding.message)} ({model_name(evidence)})",
                "check_name": finding.rule,
                "fingerprint": fingerprint(evidence, finding, seen[finding.rule]),
                "severity": SEVERITIES[finding.status],
                "location": {"path": place.path, "lines": {"begin": place.line}},
            }
        )
        seen[finding.rule] += 1
    return serialize.dumps(entries) + "\n"

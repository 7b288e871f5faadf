"""The verdict as SARIF 2.1.0 that GitHub accepts.

GitHub rejects the whole file when one result has no physical location, ignores `suppressions`, and joins alerts by
`primaryLocationLineHash`: waived findings are left out, and every result is anchored at a line.
"""

from collections import Counter
from typing import Any

from dpaudit import __version__, serialize
from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import Finding, Status, Verdict
from dpaudit.reports.anchors import anchor, fingerprint
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import model_name
from dpaudit.rules import CATALOGUE
from dpaudit.rules_base import Rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {Status.FAIL: "error", Status.INCONCLUSIVE: "warning"}
_GRAVE = frozenset({"DPA001", "DPA003", "DPA007", "DPA101", "DPA102", "DPA202", "DPA302", "DPA304", "DPA306", "DPA307"})


def render(evidence: Evidence, verdict: Verdict, policy: Policy | None = None) -> str:
    """Return the SARIF log as text."""
    run = {
        "tool": {
            "driver": {
                "name": "dpaudit",
                "informationUri": "https://dpaudit.dev/",
                "semanticVersion": __version__,
                "rules": [_rule(rule) for rule in CATALOGUE],
            }
        },
        "automationDetails": {"id": f"dpaudit/{plain(evidence.claim.model or 'model')}/"},
        "results": _results(evidence, verdict, policy),
        "properties": {"status": verdict.status, "digests": verdict.digests, "date": verdict.date},
    }
    return serialize.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    name = "".join(word.capitalize() for word in rule.title.split())
    advice = f"Fails when {rule.fails}\n\nInconclusive when {rule.inconclusive}\n\n{rule.why}\n\n{rule.fix}"
    return {
        "id": rule.code,
        "name": name,
        "shortDescription": {"text": f"{rule.title.capitalize()}."},
        "fullDescription": {"text": rule.question},
        "help": {"text": advice, "markdown": f"**{rule.question}**\n\n{advice}"},
        "defaultConfiguration": {"level": "error"},
        "properties": {
            "tags": ["security", "privacy", "differential-privacy"],
            "precision": "very-high",
            "problem.severity": "error",
            "security-severity": "9.1" if rule.code in _GRAVE else "6.5",
        },
    }


def _results(evidence: Evidence, verdict: Verdict, policy: Policy | None) -> list[dict[str, Any]]:
    codes = [rule.code for rule in CATALOGUE]
    seen: Counter[str] = Counter()
    results = []
    for finding in verdict.findings:
        if finding.status not in LEVELS:
            continue
        place = anchor(evidence, policy, finding)
        results.append(
            {
                "ruleId": finding.rule,
                "ruleIndex": codes.index(finding.rule),
                "level": LEVELS[finding.status],
                "message": {"text": _message(evidence, finding)},
                "locations": [
                    {
                        "physicalLocation": {
                            "artifactLocation": {"uri": _uri(place.path)},
                            "region": {
                                "startLine": place.line,
                                "startColumn": 1,
                                "endLine": place.line,
                                "endColumn": 2,
                            },
                        }
                    }
                ],
                "partialFingerprints": {"primaryLocationLineHash": fingerprint(evidence, finding, seen[finding.rule])},
            }
        )
        seen[finding.rule] += 1
    return results


def _message(evidence: Evidence, finding: Finding) -> str:
    advice = f" {plain(finding.fix)}" if finding.fix else ""
    return f"{model_name(evidence)}: {plain(finding.message)}.{advice}"


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path)

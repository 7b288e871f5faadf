"""Everything that a report shows, as one JSON document, schema `dpaudit.report/v1`."""

from dataclasses import replace
from typing import Any

from dpaudit import serialize
from dpaudit.evidence import Evidence
from dpaudit.records import Verdict
from dpaudit.reports import document, view
from dpaudit.reports.sentences import Story

SCHEMA = "dpaudit.report/v1"


def payload(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """Return what the document holds besides its schema; how the coins fell stays with the auditor."""
    story = Story(evidence, verdict)
    return {
        **document.payload(evidence, verdict),
        "standing": story.standing.value,
        "headline": story.headline(),
        "odds": [story.odds_lead(), *story.odds()],
        "accounting": evidence.accounting,
        "bounds": [replace(bound, n_member=None, n_non_member=None, details={}) for bound in evidence.bounds],
        "powers": evidence.powers,
        "attacks": evidence.attacks,
        "checks": evidence.checks,
        "training": {
            name: evidence.training[name] for name in (*view.FACTS, "canary_families") if name in evidence.training
        },
        "environment": evidence.environment,
        "created": evidence.created.isoformat(),
    }


def render(evidence: Evidence, verdict: Verdict) -> str:
    """Return the document as text."""
    return serialize.dumps({"schema": SCHEMA, **payload(evidence, verdict)}) + "\n"

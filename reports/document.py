"""The verdict as one JSON document, schema `dpaudit.gate/v1`."""

from typing import Any

from dpaudit import serialize
from dpaudit.evidence import Evidence
from dpaudit.records import Verdict

SCHEMA = "dpaudit.gate/v1"


def payload(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """Return what the document holds besides its schema."""
    return {
        "status": verdict.status,
        "findings": verdict.findings,
        "digests": verdict.digests,
        "date": verdict.date,
        "profile": verdict.profile,
        "claim": evidence.claim,
    }


def render(evidence: Evidence, verdict: Verdict) -> str:
    """Return the document as text."""
    return serialize.dumps({"schema": SCHEMA, **payload(evidence, verdict)}) + "\n"

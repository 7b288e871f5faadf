"""A CycloneDX 1.6 bill of materials of one machine-learning model, with the audit in its model card.

The claim of privacy is a claim of the standard (`declarations`), by whoever made the evidence, with the verdict as
its conformance: 1 passed, 0 failed, left out when inconclusive.
"""

import uuid
from typing import Any

from dpaudit import __version__, serialize
from dpaudit.evidence import Evidence
from dpaudit.exports.summary import best_bound, claim_sentence, result
from dpaudit.records import Status, Verdict

_MODEL, _CLAIM, _EVIDENCE, _ASSESSOR = "model", "claim-privacy", "evidence-bundle", "assessor-dpaudit"
_NAMESPACE = uuid.UUID("5a0f2c1e-6f0d-5c3e-9a57-0d4f6d0b7a11")


def document(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """Return the bill of materials as plain data; the same evidence and verdict give the same document."""
    serial = uuid.uuid5(_NAMESPACE, f"{evidence.digest}|{verdict.digests['policy']}|{verdict.date}")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": f"{verdict.date}T00:00:00Z",
            "tools": {"components": [{"type": "application", "name": "dpaudit", "version": __version__}]},
            "component": _model(evidence, verdict),
        },
        "declarations": _declarations(evidence, verdict),
    }


def _model(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": evidence.claim.model or "model",
        "modelCard": {
            "quantitativeAnalysis": {"performanceMetrics": _metrics(evidence)},
            "considerations": {"technicalLimitations": ["A passed audit is no proof that nothing leaks."]},
            "properties": [{"name": f"dpaudit:{name}", "value": value} for name, value in _facts(evidence, verdict)],
        },
    }
    digest = evidence.training.get("model_sha256")
    if isinstance(digest, str) and len(digest) == 64:
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return component


def _facts(evidence: Evidence, verdict: Verdict) -> list[tuple[str, str]]:
    claim, summary = evidence.claim, evidence.accounting
    facts: dict[str, object] = {
        "verdict": result(verdict),
        "claim.epsilon": claim.epsilon,
        "claim.delta": claim.delta,
        "claim.unit": claim.unit.value,
        "claim.neighbouring": claim.relation.value,
        "accounting.epsilon_pld": summary.epsilon_pld if summary else None,
        "accounting.epsilon_rdp": summary.epsilon_rdp if summary else None,
        "evidence.sha256": evidence.digest,
        "policy.sha256": verdict.digests["policy"],
        "policy.profile": verdict.profile,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _metrics(evidence: Evidence) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = []
    bound = best_bound(evidence)
    if bound is not None and bound.epsilon is not None:
        kind = f"epsilon, lower confidence bound ({bound.label})"
        metrics.append({"type": kind, "value": repr(bound.epsilon), "slice": f"delta {bound.delta:g}"})
    for attack in evidence.attacks:
        for point in attack.tpr_at_fpr:
            if point.tpr is None:
                continue
            metric: dict[str, Any] = {
                "type": f"true-positive rate of {attack.attack}",
                "value": repr(point.tpr),
                "slice": f"false-positive rate {point.fpr:g}",
            }
            if point.ci is not None:
                metric["confidenceInterval"] = {"lowerBound": repr(point.ci[0]), "upperBound": repr(point.ci[1])}
            metrics.append(metric)
    return metrics


def _declarations(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    mapping: dict[str, Any] = {"requirement": "differential-privacy", "claims": [_CLAIM]}
    if verdict.status in (Status.PASS, Status.FAIL):
        mapping["conformance"] = {"score": 1.0 if verdict.status == Status.PASS else 0.0, "rationale": result(verdict)}
    return {
        "assessors": [{"bom-ref": _ASSESSOR, "thirdParty": False, "organization": {"name": "dpaudit gate"}}],
        "attestations": [
            {"summary": claim_sentence(evidence, verdict), "assessor": _ASSESSOR, "map": [mapping]},
        ],
        "claims": [
            {
                "bom-ref": _CLAIM,
                "target": _MODEL,
                "predicate": f"({evidence.claim.epsilon!r}, {evidence.claim.delta!r})-differential privacy",
                "evidence": [_EVIDENCE],
            }
        ],
        "evidence": [
            {
                "bom-ref": _EVIDENCE,
                "propertyName": "dpaudit evidence bundle",
                "description": f"manifest SHA-256 {evidence.digest}",
                "created": evidence.created.isoformat(),
            }
        ],
    }


def render(evidence: Evidence, verdict: Verdict) -> str:
    """Return the bill of materials as JSON text."""
    return serialize.dumps(document(evidence, verdict)) + "\n"

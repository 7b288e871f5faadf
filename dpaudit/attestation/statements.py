"""What is attested: an in-toto statement about a model's digest, with the verdict and what it rests on.

Numbers are decimal strings, because consumers compare text. Raw scores, coins, cohorts and names of clients never
enter. The companion is a Simple Verification Result (in-toto SVR v0.1) for consumers who only ask yes or no.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dpaudit import __version__
from dpaudit.errors import UsageError
from dpaudit.evidence import Evidence
from dpaudit.records import BoundStatus, Direction, Finding, Status, Verdict

STATEMENT = "https://in-toto.io/Statement/v1"
AUDIT = "https://dpaudit.dev/attestation/privacy-audit/v0.1"
SEAL = "https://dpaudit.dev/attestation/evidence-seal/v0.1"
SVR = "https://in-toto.io/attestation/svr/v0.1"
VERIFIER = f"https://dpaudit.dev/verifier/gate/v{__version__}"
RESULTS = {Status.PASS: "PASSED", Status.FAIL: "FAILED", Status.INCONCLUSIVE: "INCONCLUSIVE"}
PROPERTIES: Mapping[str, str] = {
    "DPA001": "DPAUDIT_CLAIM_RECOMPUTED_PLD",
    "DPA003": "DPAUDIT_SAMPLER_VERIFIED",
    "DPA007": "DPAUDIT_NOISE_AND_CLIP_VERIFIED",
    "DPA101": "DPAUDIT_LOWER_BOUND_CONSISTENT",
    "DPA103": "DPAUDIT_POWER_ADEQUATE",
    "DPA105": "DPAUDIT_FIRE_DRILL_CAUGHT",
    "DPA201": "DPAUDIT_MIA_BELOW_CEILING",
    "DPA304": "DPAUDIT_EVIDENCE_SEALED",
}
"""Rules whose PASS becomes a property of the SVR."""
NON_CLAIMS = (
    "A pass is no proof that nothing leaks: it says that the claim follows from the ledger and that tests of limited "
    "strength found nothing against it. It speaks of one release and of the unit of the claim only."
)


def _decimal(value: float | None) -> str | None:
    return None if value is None else repr(float(value))


def _statement(subject: str, sha256: str, kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [{"name": subject, "digest": {"sha256": sha256}}],
        "predicateType": kind,
        "predicate": dict(predicate),
    }


def audited_model(evidence: Evidence) -> str:
    """Return the digest of the audited model; raise UsageError if the evidence records none."""
    digest = evidence.training.get("model_sha256")
    if not isinstance(digest, str) or len(digest) != 64:
        raise UsageError(
            "the evidence records no model_sha256, so that there is nothing an attestation could be about."
        )
    return digest


def _verifier(verdict: Verdict) -> dict[str, Any]:
    policy = {"name": verdict.profile, "digest": {"sha256": verdict.digests["policy"]}}
    return {"id": VERIFIER, "version": {"dpaudit": __version__}, "policy": policy}


def audit_statement(
    evidence: Evidence, verdict: Verdict, *, created: datetime, assurance: str = "self_attested"
) -> dict[str, Any]:
    """Return the detailed statement about the audited model.

    Args:
        evidence: the bundle that was judged.
        verdict: what the gate said; its result is attested as it is, FAILED and INCONCLUSIVE too.
        created: time of the attestation, with a zone.
        assurance: who stands behind it: self_attested, third_party or reproduced.
    """
    predicate = {
        "verifier": _verifier(verdict),
        "timeCreated": created.isoformat(timespec="seconds"),
        "evaluatedAtDate": verdict.date,
        "result": RESULTS[verdict.status],
        "assuranceLevel": assurance,
        "claim": _claim(evidence),
        "accounting": _accounting(evidence),
        "audit": _audit(evidence),
        "attacks": _attacks(evidence),
        "checks": [{"id": c.id, "status": c.status.value, "pValue": _decimal(c.p_value)} for c in evidence.checks],
        "findings": [{"rule": f.rule, "status": f.status.value, "message": f.message} for f in verdict.findings],
        "waivers": [_waived(finding) for finding in verdict.findings if finding.status == Status.WAIVED],
        "evidence": [{"name": name, "digest": {"sha256": digest}} for name, digest in verdict.digests.items()],
        "nonClaims": NON_CLAIMS,
    }
    return _statement(evidence.claim.model or "model", audited_model(evidence), AUDIT, predicate)


def _waived(finding: Finding) -> dict[str, str]:
    return {"rule": finding.rule, "message": finding.message}


def _claim(evidence: Evidence) -> dict[str, Any]:
    claim = evidence.claim
    return {
        "epsilon": _decimal(claim.epsilon),
        "delta": _decimal(claim.delta),
        "privacyUnit": claim.unit.value,
        "neighbouring": claim.relation.value,
    }


def _accounting(evidence: Evidence) -> dict[str, Any] | None:
    summary = evidence.accounting
    if summary is None:
        return None
    rounds = sum(1 for _ in evidence.ledger.events()) if evidence.ledger is not None else None
    return {
        "library": summary.library,
        "epsilonPld": _decimal(summary.epsilon_pld),
        "epsilonRdp": _decimal(summary.epsilon_rdp),
        "gdpMu": _decimal(summary.mu),
        "gdpRegret": _decimal(summary.mu_regret),
        "profile": [{"delta": _decimal(d), "epsilon": _decimal(e)} for d, e in summary.profile],
        "ledger": {"digest": summary.ledger_digest, "rounds": rounds},
        "assumptions": [{"name": a.id, "status": a.status.value, "evidence": a.evidence} for a in summary.assumptions],
    }


def _audit(evidence: Evidence) -> list[dict[str, Any]]:
    """Lower bounds with the power of their method; how the coins fell stays with the auditor."""
    powers = {power.label: power for power in evidence.powers}
    found = []
    for bound in evidence.bounds:
        if bound.direction != Direction.LOWER:
            continue
        power = powers.get(bound.label)
        found.append(
            {
                "method": bound.method,
                **({} if bound.canaries is None else {"canaries": bound.canaries}),
                "family": bound.family.value,
                "status": bound.status.value,
                "epsilonLowerBound": _decimal(bound.epsilon) if bound.status == BoundStatus.OK else None,
                "confidence": _decimal(bound.confidence),
                "power": _decimal(power.power) if power else None,
                "powerAtEpsilon": _decimal(power.alternative_epsilon) if power else None,
            }
        )
    return found


def _attacks(evidence: Evidence) -> list[dict[str, Any]]:
    return [
        {
            "name": attack.attack,
            "threatModel": attack.threat_model,
            "auc": _decimal(attack.auc),
            "members": attack.n_member,
            "nonMembers": attack.n_non_member,
            "tprAtFpr": [
                {
                    "fpr": _decimal(point.fpr),
                    "tpr": _decimal(point.tpr),
                    "ci": [_decimal(end) for end in point.ci] if point.ci else None,
                }
                for point in attack.tpr_at_fpr
            ],
        }
        for attack in evidence.attacks
    ]


def svr_statement(evidence: Evidence, verdict: Verdict, *, created: datetime) -> dict[str, Any]:
    """Return the Simple Verification Result; raise UsageError unless the verdict is PASS.

    SVR lists passing properties only and has no word for a verdict that failed or could not be reached.
    """
    if verdict.status != Status.PASS:
        raise UsageError(f"the verdict is {verdict.status.value}; a Simple Verification Result states passes only.")
    passing = {finding.rule for finding in verdict.findings if finding.status == Status.PASS}
    predicate = {
        "verifier": _verifier(verdict),
        "timeCreated": created.isoformat(timespec="seconds"),
        "properties": ["DPAUDIT_GATE_PASSED", *(name for rule, name in PROPERTIES.items() if rule in passing)],
    }
    return _statement(evidence.claim.model or "model", audited_model(evidence), SVR, predicate)


def seal_statement(evidence: Evidence, *, created: datetime) -> dict[str, Any]:
    """Return the statement by which whoever made the evidence stands for it: its subject is the manifest."""
    predicate = {"timeCreated": created.isoformat(timespec="seconds"), "schema": evidence.schema}
    return _statement("manifest.json", evidence.digest, SEAL, predicate)

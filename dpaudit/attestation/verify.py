"""Verifying an attestation: signature, subject, result and age, each said for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dpaudit import serialize
from dpaudit.attestation.dsse import open_envelope
from dpaudit.attestation.keys import Key, load_public
from dpaudit.attestation.statements import AUDIT, SEAL, SVR
from dpaudit.errors import DataError
from dpaudit.policy_model import Signer
from dpaudit.records import CheckResult, Status
from dpaudit.rules_base import Seal

_CLOCKS = timedelta(minutes=5)
"""How far the clocks of two machines may be apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What became of an attestation: the checks, the statement they are about, and the status of all together."""

    status: Status
    checks: tuple[CheckResult, ...]
    statement: Mapping[str, Any]


def verify(
    data: bytes,
    *,
    model_sha256: str,
    trusted: Mapping[str, Key],
    now: datetime,
    max_age: timedelta | None,
    policy_sha256: str | None = None,
) -> Attested:
    """Verify an attestation of this package (the detailed one or an SVR) for a model.

    Args:
        data: the envelope.
        model_sha256: digest of the model at hand.
        trusted: public keys by name.
        now: the present, with a zone.
        max_age: oldest attestation that counts; None to accept any age.
        policy_sha256: digest of the policy that must have been applied; None accepts every policy but those of
            demonstrations.

    Raises: DataError if the bytes are no envelope around an in-toto statement.
    """
    statement, signer = open_envelope(data, trusted)
    checks = [
        _check(
            "signature", signer is not None, f"signed by {signer}" if signer else "signed by no key that is trusted"
        ),
        _subject(statement, model_sha256),
        _kind(statement),
        _policy(statement, policy_sha256),
        _fresh(statement, now, max_age),
    ]
    order = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS)
    status = next(status for status in order if any(check.status == status for check in checks))
    return Attested(status=status, checks=tuple(checks), statement=statement)


def _check(identity: str, holds: bool, detail: str) -> CheckResult:
    return CheckResult(id=identity, status=Status.PASS if holds else Status.FAIL, detail=detail)


def _subject(statement: Mapping[str, Any], model_sha256: str) -> CheckResult:
    holds = model_sha256 in _subjects(statement)
    word = "is" if holds else "is not"
    return _check("subject", holds, f"the model at hand, SHA-256 {model_sha256[:16]}…, {word} the attested one")


def _subjects(statement: Mapping[str, Any]) -> list[str]:
    listed = statement.get("subject")
    digests = [item.get("digest") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    return [str(digest["sha256"]).lower() for digest in digests if isinstance(digest, dict) and "sha256" in digest]


def _predicate(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    predicate = statement.get("predicate")
    return predicate if isinstance(predicate, dict) else {}


def _kind(statement: Mapping[str, Any]) -> CheckResult:
    """Judge what is attested: PASSED passes, INCONCLUSIVE stays inconclusive, and anything unknown fails."""
    kind, predicate = statement.get("predicateType"), _predicate(statement)
    if kind == SVR:
        properties = predicate.get("properties")
        holds = isinstance(properties, list) and "DPAUDIT_GATE_PASSED" in properties
        return _check("result", holds, "the gate passed" if holds else "it does not say that the gate passed")
    if kind != AUDIT:
        return _check("result", False, f"it is of the type {str(kind)[:100]!r}, which speaks of no privacy audit")
    result = predicate.get("result")
    status = {"PASSED": Status.PASS, "INCONCLUSIVE": Status.INCONCLUSIVE}.get(str(result), Status.FAIL)
    return CheckResult(id="result", status=status, detail=f"the gate said {str(result)[:40]}")


def _policy(statement: Mapping[str, Any], wanted: str | None) -> CheckResult:
    """Judge the policy that was applied: an attestation under a policy that asks little says little."""
    verifier = _predicate(statement).get("verifier")
    policy = verifier.get("policy") if isinstance(verifier, dict) else None
    digest = policy.get("digest") if isinstance(policy, dict) else None
    applied = digest.get("sha256") if isinstance(digest, dict) else None
    if not isinstance(policy, dict) or not isinstance(applied, str):
        return _check("policy", False, "it does not say which policy was applied")
    name = str(policy.get("name"))[:40]
    if wanted is not None:
        return _check(
            "policy", applied == wanted, f"under {name}, policy SHA-256 {applied[:16]}…, asked {wanted[:16]}…"
        )
    return _check("policy", name != "demonstration", f"under a policy of the profile {name}, SHA-256 {applied[:16]}…")


def _fresh(statement: Mapping[str, Any], now: datetime, max_age: timedelta | None) -> CheckResult:
    stated = _predicate(statement).get("timeCreated")
    try:
        created = datetime.fromisoformat(stated) if isinstance(stated, str) else None
    except ValueError:
        created = None
    if created is None or created.tzinfo is None:
        return _check("age", False, "it does not say when it was made")
    age = now - created.astimezone(UTC)
    if age < -_CLOCKS:
        return _check("age", False, f"it is from the future: {stated}")
    if max_age is None:
        return _check("age", True, f"made at {stated}; any age is accepted")
    limit = f"{max_age.total_seconds() / 86_400:g} days"
    return _check("age", age <= max_age, f"made at {stated}, {max(age.days, 0)} days ago, accepted up to {limit}")


def check_seal(data: bytes, *, evidence_digest: str, signers: Sequence[Signer]) -> Seal:
    """Return what a seal says of the evidence with this digest, for the signers of a policy.

    Raises: DataError if the policy names no signer, a key of it cannot be read, or the bytes are no envelope.
    """
    if not signers:
        raise DataError(
            "a seal was given, but the policy names no signer who could have made it ([[evidence.signer]])."
        )
    names = [signer.name for signer in signers]
    if len(set(names)) != len(names):
        raise DataError("two signers of the policy have the same name ([[evidence.signer]]); name each of them apart.")
    statement, signer = open_envelope(data, {signer.name: load_public(signer.public_key) for signer in signers})
    reason = None
    if signer is None:
        reason = "it was signed by no key that the policy names"
    elif statement.get("predicateType") != SEAL:
        reason = f"it is of the type {str(statement.get('predicateType'))[:100]!r}, which is no seal"
    elif evidence_digest not in _subjects(statement):
        reason = "it was made for other evidence"
    return Seal(digest=serialize.sha256_bytes(data), signer=None if reason else signer, reason=reason)

"""`is_differentially_private`: the question of the title, with three answers and the reasons."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from dpaudit import accounting
from dpaudit.errors import Refusal
from dpaudit.evidence import Evidence, read_evidence
from dpaudit.gate import evaluate
from dpaudit.ledger import PrivacyLedger
from dpaudit.policy import load_policy
from dpaudit.records import Claim, Finding, Relation, Status, Unit, Verdict


def is_differentially_private(
    ledger_or_evidence: PrivacyLedger | Evidence | str | Path,
    epsilon: float,
    delta: float,
    *,
    require_audit: bool = True,
    policy: str = "standard",
    today: date | None = None,
) -> Verdict:
    """Judge whether what ran satisfies (epsilon, delta)-differential privacy.

    For evidence (a bundle, or its folder) the gate runs with this claim in place of the bundle's own. For a
    ledger the accountants compose what it recorded: more than `epsilon` is FAIL; otherwise the answer is
    INCONCLUSIVE, because nothing has shown that the mechanism did what its ledger says. `require_audit=False`
    asks the accounting question alone, and then a ledger can PASS.

    Args:
        ledger_or_evidence: a PrivacyLedger, an Evidence record, or the path of a ledger file, evidence folder or .zip.
        epsilon: the claimed epsilon, > 0.
        delta: the claimed delta, in (0, 1).
        require_audit: whether a ledger without any audit may only be INCONCLUSIVE.
        policy: profile or policy file for evidence.
        today: date of the judgement (UTC today by default).

    Returns:
        A Verdict with `status` and `findings`; it refuses to be used as a bare boolean.

    Example:
        >>> from dpaudit import PrivacyLedger
        >>> ledger = PrivacyLedger(unit="client")
        >>> ledger.increment_epsilon(0.5)
        >>> is_differentially_private(ledger, epsilon=1.0, delta=1e-6).status.value
        'inconclusive'
        >>> is_differentially_private(ledger, epsilon=0.3, delta=1e-6).status.value
        'fail'
    """
    when = today or datetime.now(UTC).date()
    subject = _open(ledger_or_evidence)
    if isinstance(subject, PrivacyLedger):
        return _judge_ledger(subject, Claim(epsilon=epsilon, delta=delta), when, require_audit=require_audit)
    claim = replace(subject.claim, epsilon=epsilon, delta=delta)
    recomputed = None
    if subject.ledger is not None:
        recomputed = accounting.summarize(subject.ledger, delta=delta, relation=claim.relation)
    return evaluate(replace(subject, claim=claim), load_policy(policy), today=when, recomputed=recomputed)


def _open(subject: PrivacyLedger | Evidence | str | Path) -> PrivacyLedger | Evidence:
    if isinstance(subject, PrivacyLedger | Evidence):
        return subject
    path = Path(subject)
    return read_evidence(path) if path.is_dir() or path.suffix == ".zip" else PrivacyLedger.open(path)


def _judge_ledger(ledger: PrivacyLedger, claim: Claim, when: date, *, require_audit: bool) -> Verdict:
    findings = [_accounting_finding(ledger, claim)]
    if require_audit:
        findings.append(
            Finding(
                rule="DPA101",
                title="audit",
                status=Status.INCONCLUSIVE,
                message="A ledger alone: no audit has shown that the mechanism did what its ledger says.",
                fix="Judge an evidence bundle, or ask the accounting question alone with require_audit=False.",
            )
        )
    order = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS)
    status = next(s for s in order if any(f.status == s for f in findings))
    return Verdict(status=status, findings=tuple(findings), digests={"ledger": ledger.digest}, date=when.isoformat())


def _accounting_finding(ledger: PrivacyLedger, claim: Claim) -> Finding:
    """Compare the composed epsilon of the ledger with the claim; the relation is the ledger's own."""
    relation = Relation(ledger.facts.get("relation", Relation.ADD_OR_REMOVE_ONE))
    unit = Unit(ledger.facts.get("unit", Unit.EXAMPLE))
    try:
        spent = accounting.epsilon(ledger, claim.delta)
    except Refusal as error:
        return Finding(
            rule="DPA001", title="claim recomputed", status=Status.INCONCLUSIVE, message=f"No bound on epsilon: {error}"
        )
    status = Status.PASS if spent <= claim.epsilon else Status.FAIL
    comparison = "within" if status == Status.PASS else "above"
    return Finding(
        rule="DPA001",
        title="claim recomputed",
        status=status,
        message=f"By its ledger, what ran spent epsilon {spent:.4g} at delta {claim.delta:g} "
        f"({unit.value} level, {relation.value}), {comparison} the claimed {claim.epsilon:g}.",
        measured=spent,
        limit=claim.epsilon,
        fix=None if status == Status.PASS else "Claim what was spent, or train with more noise or fewer rounds.",
    )

"""What every export says: the result in one word, the claim in one sentence, the largest lower bound."""

from dpaudit.evidence import Evidence
from dpaudit.records import Bound, BoundStatus, Direction, Family, Status, Verdict

_WORDS = {Status.PASS: "PASSED", Status.FAIL: "FAILED", Status.INCONCLUSIVE: "INCONCLUSIVE"}
_BOUNDS = frozenset({Family.ASSUMPTION_FREE, Family.INDEPENDENT_CANARIES, Family.GAUSSIAN})
_UNITS = {"example": "record", "client": "client"}


def result(verdict: Verdict) -> str:
    """Return PASSED, FAILED or INCONCLUSIVE."""
    return _WORDS.get(verdict.status, "INCONCLUSIVE")


def claim_sentence(evidence: Evidence, verdict: Verdict) -> str:
    """State the claim with the verdict on it; without a pass it is only what was claimed."""
    claim = evidence.claim
    one = _UNITS[claim.unit.value]
    text = f"(ε {claim.epsilon:g}, δ {claim.delta:g})-differential privacy of one {one} ({claim.relation.value})"
    if verdict.status == Status.PASS:
        return f"the claim of {text} was recomputed from the ledger and no test contradicted it."
    if verdict.status == Status.FAIL:
        return f"the claim of {text} does not meet the policy."
    return f"the evidence cannot tell whether the claim of {text} holds."


def best_bound(evidence: Evidence) -> Bound | None:
    """Return the largest lower bound that is a confidence bound; None if there is none."""
    usable = [
        bound
        for bound in evidence.bounds
        if bound.direction == Direction.LOWER and bound.status == BoundStatus.OK and bound.family in _BOUNDS
    ]
    return max(usable, key=lambda bound: bound.epsilon or 0.0, default=None)

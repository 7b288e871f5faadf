"""Rules about the claim: is it what the ledger gives, for the sampler, unit, relation and delta that were promised?"""

import math
from typing import Any

from dpaudit.records import AccountingSummary
from dpaudit.rules_base import (
    Case,
    Outcome,
    Rule,
    close,
    exceeds,
    failed,
    not_asked,
    number,
    pair,
    passed,
    unclear,
)

_SAME = 1e-3
"""Relative difference between two computations of ε by PLD, and of what accountants may disagree by."""
_SAME_BESIDE = 0.02
"""The same for what only stands beside it in a report: RDP orders and grids differ between releases."""


def claim_recomputed(case: Case) -> Outcome:
    """DPA001."""
    claim, policy, summary = case.claim, case.policy.claim, case.accounting
    if policy.epsilon is not None and exceeds(claim.epsilon, policy.epsilon):
        one, other = pair(claim.epsilon, policy.epsilon)
        return failed(f"claimed ε {one} is above the policy's {other}", measured=claim.epsilon, limit=policy.epsilon)
    if doubt := _no_basis(case):
        return unclear(doubt)
    if summary is None:
        return unclear("the bundle holds no accounting and none was recomputed")
    if case.recomputed is not None and (differing := _differences(case)):
        return failed(
            f"the stored accounting is not what the ledger gives: {differing}",
            fix="The bundle was not made from this ledger; write it again from the run.",
        )
    return _compare_claim(case, summary, "recomputed" if case.recomputed else "stored, as the policy allows")


def _no_basis(case: Case) -> str | None:
    """Say why there is nothing to compare the claim with; None when there is."""
    if case.evidence.ledger is None:
        return "the bundle holds no ledger, so that the claim cannot be recomputed"
    if case.recomputed is None and case.policy.claim.recompute:
        return "the accounting was not recomputed from the ledger"
    return _other_question(case, case.accounting) if case.accounting else None


def _compare_claim(case: Case, summary: AccountingSummary, how: str) -> Outcome:
    claim, name, spent = case.claim, "PLD", summary.epsilon_pld
    if spent is None and case.policy.claim.accept_rdp:
        name, spent = "RDP", summary.epsilon_rdp
    if spent is None:
        reason = summary.reasons.get("epsilon_pld", "no reason given")
        return unclear(f"PLD accounting gives no ε for this ledger: {reason}")
    if not math.isfinite(spent):
        return unclear("the accounting is not a number")
    one, other = pair(spent, claim.epsilon)
    text = f"ε {one} by {name} from the ledger ({how}, δ {number(claim.delta)})"
    if exceeds(spent, claim.epsilon):
        return failed(f"{text}, above the claimed {other}", measured=spent, limit=claim.epsilon)
    return passed(f"{text}, within the claimed {other}", measured=spent, limit=claim.epsilon)


def _other_question(case: Case, summary: AccountingSummary) -> str | None:
    """Say why a summary does not answer for this claim and this ledger."""
    if not close(summary.delta, case.claim.delta):
        return f"the accounting is for δ {number(summary.delta)}, the claim for {number(case.claim.delta)}"
    if summary.relation != case.claim.relation:
        return f"the accounting is for {summary.relation.value}, the claim for {case.claim.relation.value}"
    if case.evidence.ledger is None or summary.ledger_digest != case.evidence.ledger.digest:
        return "the accounting was made from another ledger"
    return None


def _differences(case: Case) -> str | None:
    """Name the fields in which stored and recomputed accounting differ; those at another δ are not compared."""
    stored, fresh = case.evidence.accounting, case.recomputed
    if stored is None or fresh is None:
        return None
    names = ["trade_off", "tpr_ceilings"]
    if close(stored.delta, fresh.delta):
        names += ["epsilon_pld", "epsilon_rdp", "epsilon_no_amplification", "mu", "profile", "epsilon_over_rounds"]
    slack = {"epsilon_pld": _SAME}
    found = [
        name
        for name in names
        if _differs(getattr(stored, name), getattr(fresh, name), slack=slack.get(name, _SAME_BESIDE))
    ]
    if stored.ledger_digest != fresh.ledger_digest:
        found.insert(0, "ledger digest")
    if stored.relation != fresh.relation:
        found.insert(0, "relation")
    return ", ".join(found) or None


def _differs(one: Any, other: Any, *, slack: float) -> bool:
    """Compare numbers and tables of numbers; an empty table was not computed and differs from nothing."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        if not one or not other:
            return False
        return len(one) != len(other) or any(_differs(a, b, slack=slack) for a, b in zip(one, other, strict=True))
    if one is None or other is None:
        return one is not other
    return not math.isclose(one, other, rel_tol=slack, abs_tol=1e-6)


def accountants_agree(case: Case) -> Outcome:
    """DPA002."""
    summary = case.accounting
    if summary is None:
        return unclear("the bundle holds no accounting")
    if summary.epsilon_rdp is None or summary.epsilon_pld is None:
        missing = "epsilon_rdp" if summary.epsilon_rdp is None else "epsilon_pld"
        reason = f"{missing} is not available: {summary.reasons.get(missing, 'no reason given')}"
        return unclear(reason) if case.policy.claim.require_two_accountants else not_asked(reason)
    one, other = pair(summary.epsilon_rdp, summary.epsilon_pld)
    text = f"RDP ε {one}, PLD ε {other}"
    if summary.epsilon_rdp < summary.epsilon_pld * (1 - _SAME) - 1e-6:
        message = f"{text}: the looser accountant gives less than the tighter, so one of them is wrong"
        return failed(message, measured=summary.epsilon_rdp, limit=summary.epsilon_pld)
    return passed(text, measured=summary.epsilon_rdp, limit=summary.epsilon_pld)


def protected_units(case: Case) -> int | None:
    """Return N, the number of protected units: the larger of what training facts and ledger say."""
    stated = [case.evidence.training.get("units")]
    if case.evidence.ledger is not None:
        stated.append(case.evidence.ledger.facts.get("units"))
    known = [units for units in stated if isinstance(units, int) and not isinstance(units, bool) and units >= 1]
    return max(known, default=None)


def delta_small(case: Case) -> Outcome:
    """DPA004."""
    delta, limit, units = case.claim.delta, case.policy.claim.delta, protected_units(case)
    if limit is not None and exceeds(delta, limit):
        return failed(f"δ {number(delta)} is above the policy's {number(limit)}", measured=delta, limit=limit)
    if units is None:
        text = "neither training facts nor ledger say how many units were protected, so that 1/N is unknown"
        return unclear(text, measured=delta)
    one, other = pair(delta, 1 / units)
    if delta * units >= 1:
        message = f"δ {one} is not below 1/N = {other}: it allows publishing a whole record"
        return failed(message, measured=delta, limit=1 / units)
    return passed(f"δ {one} is below 1/N = {other}", measured=delta, limit=1 / units)


def unit_and_relation(case: Case) -> Outcome:
    """DPA005."""
    claim, policy, ledger = case.claim, case.policy.claim, case.evidence.ledger
    stated = f"{claim.unit.value}, {claim.relation.value}"
    if policy.unit is not None and policy.unit != claim.unit:
        return failed(f"the claim is for one {claim.unit.value}, the policy asks for one {policy.unit.value}")
    if policy.neighbouring is not None and policy.neighbouring != claim.relation:
        return failed(f"the claim is for {claim.relation.value}, the policy asks for {policy.neighbouring.value}")
    if ledger is None:
        return unclear("the bundle holds no ledger, which would say what was protected")
    for fact, claimed in (("unit", claim.unit.value), ("relation", claim.relation.value)):
        recorded = ledger.facts.get(fact)
        if recorded is None:
            return unclear(f"the ledger does not record the {fact}; the claim says {claimed}", measured=stated)
        if recorded != claimed:
            return failed(
                f"the claim is for {claimed}, the ledger for {recorded}", measured=claimed, limit=str(recorded)
            )
    return passed(f"one {claim.unit.value}, {claim.relation.value}, in claim and ledger", measured=stated)


RULES = (
    Rule(
        code="DPA001",
        title="claim recomputed",
        question="Is the claimed ε what the ledger gives by PLD accounting, and what the bundle says it gives?",
        fails="ε by PLD from the ledger exceeds the claim, the claim exceeds the policy, or stored accounting differs.",
        inconclusive="there is no ledger, PLD cannot account for it, or nothing was recomputed.",
        why="A claim that is copied from a configuration says what was planned. Only the ledger says what ran.",
        fix="Claim what was spent, or train with more noise or fewer rounds.",
        judge=claim_recomputed,
    ),
    Rule(
        code="DPA002",
        title="accountants agree",
        question="Do two accountants give ε in the only possible order?",
        fails="RDP, which can only be looser, gives less than PLD.",
        inconclusive="one of the two is not available and the policy asks for both.",
        why="Accountants have had errors; an impossible order shows one without knowing the true value.",
        fix="Upgrade dp-accounting, and report the ledger that shows it.",
        judge=accountants_agree,
    ),
    Rule(
        code="DPA004",
        title="delta small",
        question="Is δ below 1/N and below the policy's limit?",
        fails="δ is at least 1/N, or above the policy's limit.",
        inconclusive="the number of protected units N is not recorded.",
        why="A mechanism that publishes one random record in full is (0, 1/N)-differentially private.",
        fix="Choose a smaller δ, and account again.",
        judge=delta_small,
    ),
    Rule(
        code="DPA005",
        title="unit and relation",
        question="Are the unit of privacy and the neighbouring relation the same in claim, ledger and policy?",
        fails="they differ.",
        inconclusive="the ledger does not record them.",
        why="ε for one example says little about a person or device with many; replacing differs from adding.",
        fix="Record unit and relation in the ledger, and claim for those.",
        judge=unit_and_relation,
    ),
)

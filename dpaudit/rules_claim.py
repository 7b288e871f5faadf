"""Rules about the claim: is it what the ledger gives, for the sampler, unit, relation and delta that were promised?"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpaudit import events as ev
from dpaudit.ledger import PrivacyLedger
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
"""Relative difference between stored and recomputed accounting that a change of library may explain."""


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
    found = [name for name in names if _differs(getattr(stored, name), getattr(fresh, name))]
    if stored.ledger_digest != fresh.ledger_digest:
        found.insert(0, "ledger digest")
    if stored.relation != fresh.relation:
        found.insert(0, "relation")
    return ", ".join(found) or None


def _differs(one: Any, other: Any) -> bool:
    """Compare numbers and tables of numbers; an empty table was not computed and differs from nothing."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        if not one or not other:
            return False
        return len(one) != len(other) or any(_differs(a, b) for a, b in zip(one, other, strict=True))
    if one is None or other is None:
        return one is not other
    return not math.isclose(one, other, rel_tol=_SAME, abs_tol=1e-6)


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


_ALLOWED = {
    "poisson": {"poisson"},
    "truncated-poisson": {"truncated-poisson"},
    "without-replacement": {"without-replacement"},
    "shuffle": {"shuffle"},
    "once-per-tree": {"once-per-tree", "shuffle"},
}
_SAMPLED = ev.PoissonSampled | ev.PubliclySampled | ev.TruncatedPoissonGaussian
_OWN_SAMPLER: dict[type, str] = {
    ev.TruncatedPoissonGaussian: "truncated-poisson",
    ev.SampledWithoutReplacement: "without-replacement",
    ev.ShuffledBatches: "shuffle",
    ev.TreeAggregation: "once-per-tree",
}


def credited_samplers(event: ev.Event) -> set[str]:
    """Return the samplers that the accounting of an event relies on."""
    found = {_OWN_SAMPLER[type(event)]} if type(event) in _OWN_SAMPLER else set()
    if isinstance(event, ev.PoissonSampled | ev.PubliclySampled) and event.sampling_rate < 1:
        found.add("poisson")
    if isinstance(event, ev.Composed):
        return found.union(*(credited_samplers(item) for item in event.events))
    inner = getattr(event, "event", None)
    return found | credited_samplers(inner) if inner is not None else found


def recorded_samplers(facts: Mapping[str, Any]) -> set[str]:
    """Return the samplers that the facts of a ledger line say ran: a word, a table with `kind`, or a word per level."""
    stated = facts.get("sampler")
    if isinstance(stated, Mapping):
        values = [stated["kind"]] if "kind" in stated else list(stated.values())
    else:
        values = [stated]
    return {value.casefold().replace("_", "-") for value in values if isinstance(value, str)}


def recorded_rates(facts: Mapping[str, Any]) -> list[float] | None:
    """Return the sampling rates in the sampler's table (keys that end in `rate`); None where it holds none."""
    stated = facts.get("sampler")
    if not isinstance(stated, Mapping):
        return None
    rates = [
        float(value)
        for key, value in stated.items()
        if str(key).endswith("rate") and key != "dropout_rate" and isinstance(value, int | float)
    ]
    return rates or None


def credited_rates(event: ev.Event) -> set[float]:
    """Return the sampling rates below 1 that an event is accounted with."""
    found = {event.sampling_rate} if isinstance(event, _SAMPLED) and event.sampling_rate < 1 else set()
    if isinstance(event, ev.Composed):
        return found.union(*(credited_rates(item) for item in event.events))
    inner = getattr(event, "event", None)
    return found | credited_rates(inner) if inner is not None else found


def sampler_matches(case: Case) -> Outcome:
    """DPA003."""
    ledger, wanted = case.evidence.ledger, case.policy.claim.sampler
    if ledger is None:
        return unclear("the bundle holds no ledger")
    if contradiction := _sampler_contradiction(ledger):
        return contradiction
    ran = recorded_samplers(ledger.facts)
    credited: set[str] = set().union(*(credited_samplers(entry.event) for entry in ledger.events() if entry.event))
    if wanted and ran and wanted not in ran:
        return failed(f"{_words(ran)} ran, the policy asks for {wanted}", measured=_words(ran), limit=wanted)
    covered: set[str] = set().union(*(_ALLOWED[name] for name in credited))
    if not ran and (credited or wanted):
        needed = _words(credited) if credited else f"nothing, but the policy asks for {wanted}"
        outcome = unclear(f"the ledger does not say which sampler ran; the accounting assumes {needed}")
    elif credited and (extra := ran - covered - {"none"}):
        outcome = unclear(f"{_words(extra)} ran too, and the accounting does not say where", measured=_words(ran))
    elif not credited:
        outcome = passed("the accounting takes no credit for sampling", measured=_words(ran) or "not recorded")
    else:
        outcome = passed(f"{_words(ran)} ran, as accounted", measured=_words(ran), limit=_words(credited))
    return outcome


def _sampler_contradiction(ledger: PrivacyLedger) -> Outcome | None:
    """Compare every event with the sampler that its line, or the header, says ran."""
    header, header_rates = recorded_samplers(ledger.facts), recorded_rates(ledger.facts)
    for entry in ledger.events():
        if entry.event is None:
            continue
        where = f"ledger line {entry.seq + 1}"
        ran = recorded_samplers(entry.facts) or header
        if ran and (wrong := sorted(name for name in credited_samplers(entry.event) if not ran & _ALLOWED[name])):
            text = f"{where}: {_words(ran)} ran, the accounting assumes {wrong[0]}"
            return failed(text, measured=_words(ran), limit=wrong[0])
        rates = recorded_rates(entry.facts) or header_rates
        if rates is None:
            continue
        for rate in sorted(credited_rates(entry.event)):
            if not any(close(rate, known) for known in rates):
                known_rates = " and ".join(number(known) for known in rates)
                text = f"{where} is accounted with the sampling rate {number(rate)}, recorded is {known_rates}"
                return failed(text, measured=rate, limit=known_rates)
    return None


def _words(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


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
        code="DPA003",
        title="sampler matches",
        question="Did the sampler that ran match the one that the accounting assumes?",
        fails="the ledger records another sampler than its events are accounted with.",
        inconclusive="the ledger does not say which sampler ran although the accounting relies on one.",
        why="Accounting for Poisson sampling while batches are shuffled or fixed makes ε wrong, often by a factor.",
        fix="Sample as accounted (Poisson), or account for the sampler that ran.",
        judge=sampler_matches,
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

"""The rule about sampling: did the sampler that ran match the one that the events of the ledger are accounted with?"""

from collections.abc import Iterable

from dpaudit.ledger import PrivacyLedger
from dpaudit.rules_base import Case, Outcome, Rule, close, failed, number, passed, unclear
from dpaudit.samplers import (
    COVERED,
    credited_rates,
    credited_samplers,
    recorded_rates,
    recorded_samplers,
    uncovered_samplers,
)


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
    covered: set[str] = set().union(*(COVERED[name] for name in credited))
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
        if wrong := uncovered_samplers(entry.event, ran):
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


RULES = (
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
)

"""Rules about the evidence itself: is it fresh and complete?"""

from datetime import UTC

from dpaudit.ledger import PrivacyLedger
from dpaudit.rules_base import Case, Outcome, Rule, failed, passed, unclear


def fresh(case: Case) -> Outcome:
    """DPA301."""
    created, limit = case.evidence.created.astimezone(UTC).date(), case.policy.evidence.max_age_days
    age = (case.today - created).days
    if age < -1:
        return failed(
            f"the evidence is from {created}, after the date of the judgement, {case.today}", measured=age, limit=limit
        )
    if age > limit:
        return failed(
            f"the evidence is {age} days old ({created}), the policy allows {limit}", measured=age, limit=limit
        )
    return passed(f"made on {created}, {max(age, 0)} days ago, the policy allows {limit}", measured=age, limit=limit)


def recorded_rounds(ledger: PrivacyLedger) -> list[int] | None:
    """Return the round numbers that the events of a ledger carry; None when one carries none."""
    rounds = [entry.facts.get("round") for entry in ledger.events()]
    if not rounds or any(isinstance(number, bool) or not isinstance(number, int) for number in rounds):
        return None
    return [number for number in rounds if isinstance(number, int)]


def _repeated(ledger: PrivacyLedger) -> bool:
    """Say whether a round is recorded twice as the same attempt; a further attempt is fresh noise, honestly counted."""
    seen = [(entry.facts.get("round"), entry.facts.get("attempt", 0)) for entry in ledger.events()]
    return len(set(seen)) != len(seen)


_SAME_FACTS = ("noise_multiplier", "clip_norm", "units", "clients", "canaries", "rounds")


def _stranger(case: Case, ledger: PrivacyLedger) -> str | None:
    """Return where training facts and ledger contradict each other: then they are not of one run."""
    stated = case.evidence.training.get("ledger_digest")
    if stated is not None and stated != ledger.digest:
        return "the training facts were written beside another ledger: the digests differ"
    for name in _SAME_FACTS:
        one, other = case.evidence.training.get(name), ledger.facts.get(name)
        if one is not None and other is not None and one != other:
            return f"the training facts say {name} {one}, the ledger's header {other}"
    return None


def complete(case: Case) -> Outcome:
    """DPA306."""
    ledger, ran = case.evidence.ledger, case.evidence.training.get("rounds")
    if ledger is None:
        return unclear("the bundle holds no ledger")
    if ledger.torn_bytes:
        return unclear(f"the ledger ends in an unfinished line of {ledger.torn_bytes} bytes")
    if isinstance(ran, bool) or not isinstance(ran, int) or ran < 1:
        return unclear("the training facts do not say how many rounds ran")
    rounds = recorded_rounds(ledger)
    if rounds is None:
        return unclear("not every event of the ledger says which round it belongs to", limit=ran)
    if _repeated(ledger):
        return failed("the ledger records a round more than once", measured=len(rounds), limit=ran)
    if stranger := _stranger(case, ledger):
        return failed(stranger)
    return _compare_rounds(sorted(set(rounds)), ran)


def _compare_rounds(rounds: list[int], ran: int) -> Outcome:
    found = len(rounds)
    if found != ran:
        return failed(f"{ran} rounds ran, the ledger records {found}", measured=found, limit=ran)
    if min(rounds) not in (0, 1) or max(rounds) - min(rounds) != ran - 1:
        text = f"the ledger leaves out rounds between 0 and {max(rounds)}"
        return failed(text, measured=found, limit=ran)
    return passed(f"{found} of {ran} rounds are in the ledger", measured=found, limit=ran)


RULES = (
    Rule(
        code="DPA301",
        title="fresh",
        question="Is the evidence recent enough?",
        fails="it is older than the policy allows, or from the future.",
        inconclusive="never.",
        why="Code, data and libraries change; an old audit speaks of an old pipeline.",
        fix="Run the audit again.",
        judge=fresh,
    ),
    Rule(
        code="DPA306",
        title="complete",
        question="Does the ledger record every round that ran, once?",
        fails="the number of rounds differs from the training's own, or a round is missing or repeated.",
        inconclusive="rounds are not recorded, or the ledger ends in an unfinished line.",
        why="A round that is not in the ledger spent privacy that nobody accounted for.",
        fix="Record the event of each round before its result is used; resume with the ledger of the first part.",
        judge=complete,
    ),
)

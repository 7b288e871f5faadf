"""Rules about the evidence itself: is it fresh and complete?"""

from datetime import UTC, date, datetime

from dpaudit.ledger import PrivacyLedger
from dpaudit.rules_base import Case, Outcome, Rule, failed, not_asked, passed, unclear


def fresh(case: Case) -> Outcome:
    """DPA301."""
    limit, made = case.policy.evidence.max_age_days, case.evidence.created.astimezone(UTC).date()
    stated = case.evidence.training.get("trained_at")
    trained = _day(stated)
    if stated is not None and trained is None:
        return unclear(f"the training facts give {stated!r} as the time of the training, which is no time")
    if trained is not None and (trained - made).days > 1:
        return failed(f"the evidence is from {made}, before the training ended on {trained}")
    ages = [_age(case, "evidence", made), *([_age(case, "training", trained)] if trained else [])]
    for what, day, age in ages:
        if age < -1:
            text = f"the {what} is from {day}, after the date of the judgement, {case.today}"
            return failed(text, measured=age, limit=limit)
    what, day, age = max(ages, key=lambda item: item[2])
    if age > limit:
        return failed(f"the {what} is {age} days old ({day}), the policy allows {limit}", measured=age, limit=limit)
    if trained is None and case.policy.evidence.require_training_date:
        return unclear("the evidence does not say when the training ended", limit=limit)
    since = f"trained on {trained}, " if trained else ""
    text = f"{since}evidence made on {made}, at most {max(age, 0)} days ago, the policy allows {limit}"
    return passed(text, measured=age, limit=limit)


def _age(case: Case, what: str, day: date) -> tuple[str, date, int]:
    return what, day, (case.today - day).days


def _day(stated: object) -> date | None:
    """Return the UTC day of an ISO time with a zone; None for anything else."""
    if not isinstance(stated, str):
        return None
    try:
        when = datetime.fromisoformat(stated)
        return when.astimezone(UTC).date() if when.tzinfo else None
    except (ValueError, OverflowError):
        return None


def model_shown(case: Case) -> Outcome:
    """DPA302."""
    shown, audited = case.beside.model_sha256, case.evidence.training.get("model_sha256")
    if shown is None:
        text = "the gate was not shown the model that is released (--model FILE)"
        return unclear(text) if case.policy.evidence.require_model else not_asked(text)
    if not isinstance(audited, str):
        return unclear("the evidence does not say which model was audited", measured=shown)
    if shown != audited:
        text = f"the model to be released has SHA-256 {shown[:16]}…, audited was {audited[:16]}…"
        return failed(text, measured=shown, limit=audited)
    return passed(f"the model to be released is the audited one, SHA-256 {shown[:16]}…", measured=shown, limit=audited)


def signature(case: Case) -> Outcome:
    """DPA304."""
    seal = case.beside.seal
    if seal is None:
        text = "the gate was shown no seal over the evidence (--seal FILE)"
        return unclear(text) if case.policy.evidence.require_signature else not_asked(text)
    if seal.signer is None:
        return failed(f"the seal over the evidence does not hold: {seal.reason or 'no reason given'}")
    return passed(f"the evidence is sealed by {seal.signer}", measured=seal.signer)


def predictable(case: Case) -> Outcome:
    """DPA307."""
    origin, allowed = case.evidence.training.get("seed_origin"), case.policy.evidence.allow_configured_seed
    if origin == "os-entropy":
        return passed("seeds came from the operating system's generator", measured="os-entropy")
    if allowed:
        stated = "a configured seed" if origin == "configured" else "seeds of unknown origin"
        return not_asked(f"the noise came from {stated}, which this policy accepts: for demonstrations, not releases")
    if origin == "configured":
        text = "the noise came from a seed that stands in the configuration: whoever reads it can subtract the noise"
        return failed(text, measured="configured", limit="os-entropy")
    return unclear("the evidence does not say where the seeds of the noise came from", limit="os-entropy")


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


_SAME_FACTS = ("noise_multiplier", "clip_norm", "units", "clients", "canaries", "canary_families", "rounds")


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
        question="Are the evidence and the training recent enough?",
        fails="one is older than the policy allows, from the future, or the evidence is older than the training.",
        inconclusive="the policy asks when the training ended and the evidence does not say.",
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
    Rule(
        code="DPA302",
        title="model digest",
        question="Is the model that is about to be released the one that was audited?",
        fails="its SHA-256 is not the one in the evidence.",
        inconclusive="the evidence records no model, or the policy asks for one and the gate was shown none.",
        why="An audit says nothing about another model, however similar.",
        fix="Show the gate the audited file, `dpaudit gate EVIDENCE --model FILE`, or audit the one to be released.",
        judge=model_shown,
    ),
    Rule(
        code="DPA304",
        title="signature",
        question="Is the evidence sealed by somebody whom the policy names?",
        fails="the seal is not valid, is over other evidence, or is by a key that the policy does not name.",
        inconclusive="the policy asks for a seal and the gate was shown none.",
        why="Digests show that files belong together; only a signature shows who made them.",
        fix="Seal evidence where it is made: `dpaudit attest EVIDENCE --seal-evidence --key KEY`; name the signer.",
        judge=signature,
    ),
    Rule(
        code="DPA307",
        title="unpredictable noise",
        question="Did the seeds of the noise come from a source that nobody can predict?",
        fails="the seed stands in the configuration and the policy does not accept that.",
        inconclusive="the evidence does not say where the seeds came from.",
        why="Noise that can be computed again can be subtracted, and then nothing is private.",
        fix='Train with `seed = "os-entropy"`; for demonstrations, use the policy profile "demonstration".',
        judge=predictable,
    ),
)

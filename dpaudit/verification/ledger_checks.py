"""The ledger against what ran: rounds, draws of noise, noise per round, denominators. Exact checks, no probability."""

import math
from collections.abc import Sequence

from dpaudit import events as ev
from dpaudit.ledger import LedgerEntry, PrivacyLedger
from dpaudit.records import CheckResult, Status

_NOISY = ev.Gaussian | ev.TruncatedPoissonGaussian | ev.TreeAggregation | ev.DistributedDiscreteGaussian | ev.Skellam
TOLERANCE = 1e-6
"""Relative: noise and clip pass through float32 in some aggregators."""


def check_ledger(
    ledger: PrivacyLedger, *, rounds_run: int | None = None, noise_draws: int | None = None
) -> list[CheckResult]:
    """Check a training ledger for gaps and against what is known of the run.

    * `ledger.rounds`: rounds are numbered without gaps, attempts within a round too, and there are `rounds_run`;
    * `ledger.draws`: one event for each draw of noise (left out when `noise_draws` is None);
    * `ledger.noise`: every round's `noise_stddev` is the header's noise multiplier of the sum times the round's clip
      norm, and no event counts on more noise than that;
    * `ledger.denominator`: every round was divided by the same public number.

    Events without a `round` (releases accounted for elsewhere) are not rounds and are left alone. What the ledger
    does not say is INCONCLUSIVE.

    Args:
        ledger: an intact ledger.
        rounds_run: rounds that the trainer says it ran.
        noise_draws: different draws of noise that the trainer made.
    """
    rounds = [entry for entry in ledger.events() if "round" in entry.facts]
    if not rounds:
        return [
            _result("ledger.rounds", None, "the ledger records no round: nothing ran, or it ran without recording.")
        ]
    results = [_rounds(rounds, rounds_run)]
    released = [entry for entry in rounds if not _withheld(entry)]
    if noise_draws is not None:
        results.append(_draws(released, noise_draws))
    return [*results, _noise(ledger, released), _denominator(ledger, rounds)]


def _withheld(entry: LedgerEntry) -> bool:
    """Return whether a round says that it released nothing: no event, no noise, no digest of a release."""
    silent = entry.facts.get("release_sha256") is None and entry.facts.get("noise_stddev") is None
    return bool(entry.facts.get("withheld")) and isinstance(entry.event, ev.NoOp) and silent


def _result(
    check: str, holds: bool | None, detail: str, *, refuted: str = "the ledger says what ran", n: int = 0
) -> CheckResult:
    status = Status.INCONCLUSIVE if holds is None else Status.PASS if holds else Status.FAIL
    return CheckResult(id=check, status=status, detail=detail, refuted=refuted if status == Status.FAIL else None, n=n)


def _rounds(entries: Sequence[LedgerEntry], rounds_run: int | None) -> CheckResult:
    check = "ledger.rounds"
    attempts: dict[int, list[object]] = {}
    for entry in entries:
        number = entry.facts["round"]
        if isinstance(number, bool) or not isinstance(number, int):
            return _result(check, False, f"ledger line {entry.seq + 1}: round {number!r} is not a whole number.")
        attempts.setdefault(number, []).append(entry.facts.get("attempt", 0))
    first, last = min(attempts), max(attempts)
    missing = [number for number in range(first, last + 1) if number not in attempts]
    twice = [number for number, made in attempts.items() if made != list(range(len(made)))]
    n = len(attempts)
    if missing:
        return _result(
            check,
            False,
            f"{len(missing)} rounds between {first} and {last} are missing, the first is {missing[0]}.",
            n=n,
        )
    if twice:
        return _result(check, False, f"round {twice[0]} is recorded twice without being a further attempt.", n=n)
    if first not in (0, 1):
        return _result(check, False, f"the first recorded round is {first}; the ones before it are missing.", n=n)
    if rounds_run is not None and rounds_run != n:
        return _result(check, False, f"the trainer ran {rounds_run} rounds, the ledger holds {n}.", n=n)
    return _result(check, True, f"rounds {first} to {last} without gaps.", n=n)


def _draws(entries: Sequence[LedgerEntry], noise_draws: int) -> CheckResult:
    events = len(entries)
    detail = f"{noise_draws} draws of noise, {events} recorded events."
    return _result("ledger.draws", noise_draws == events, detail, n=events)


def gaussian_noise(event: ev.Event | None) -> list[float]:
    """Return the noise multipliers of every Gaussian inside an event, those of the nodes of trees included.

    Integer noise counts as Gaussian of its noise multiplier.
    """
    if isinstance(event, _NOISY):
        return [event.noise_multiplier]
    if isinstance(event, ev.Composed):
        return [z for item in event.events for z in gaussian_noise(item)]
    inner = getattr(event, "event", None)
    return gaussian_noise(inner) if inner is not None else []


def _effective(multipliers: Sequence[float]) -> float:
    """Return the noise multiplier of the one Gaussian that Gaussians on the same units compose to."""
    return 0.0 if min(multipliers) <= 0 else 1 / math.sqrt(sum(z**-2 for z in multipliers))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _covered(entry: LedgerEntry, entries: Sequence[LedgerEntry]) -> ev.Event | str:
    """Return the event that pays for a round: its own, or that of the pass or tree which covers it; or what is wrong.

    A round without an event of its own (NoOp) must say by which earlier round it is covered, and that one's event must
    reach so far.
    """
    number, first = entry.facts["round"], entry.facts.get("covered_by_round")
    if first is None or not isinstance(entry.event, ev.NoOp):
        return entry.event if entry.event is not None else "has no event"
    for other in entries:
        if other.facts["round"] != first or other.seq >= entry.seq:
            continue
        covers = other.event
        if isinstance(covers, ev.ShuffledBatches) and number < first + covers.batches:
            return covers
        if isinstance(covers, ev.TreeAggregation) and len(covers.steps) == 1 and number < first + covers.steps[0]:
            return covers
    return f"says that round {first} covers it, whose events do not"


def _noise(ledger: PrivacyLedger, entries: Sequence[LedgerEntry]) -> CheckResult:
    check = "ledger.noise"
    if not entries:
        return _result(check, None, "no round released anything.")
    multiplier = _number(ledger.facts.get("sum_noise_multiplier", ledger.facts.get("noise_multiplier")))
    first_clip = _number(ledger.facts.get("clip_norm"))
    if multiplier is None or first_clip is None or first_clip <= 0:
        return _result(check, None, "the ledger's header does not give noise_multiplier and clip_norm.")
    for entry in entries:
        line, stddev = entry.seq + 1, _number(entry.facts.get("noise_stddev"))
        covering = _covered(entry, entries)
        if isinstance(covering, str):
            return _result(check, False, f"ledger line {line} {covering}.", n=len(entries))
        counted = gaussian_noise(covering)
        clip = _number(entry.facts.get("clip_norm", first_clip))
        if stddev is None or clip is None or clip <= 0 or not counted:
            return _result(check, None, f"ledger line {line} lacks noise_stddev, clip_norm or a Gaussian event.")
        if abs(stddev - multiplier * clip) > TOLERANCE * multiplier * clip:
            detail = f"ledger line {line}: noise_stddev {stddev:.6g}, but {multiplier:.6g} x {clip:.6g} was promised."
            return _result(check, False, detail, n=len(entries))
        if _effective(counted) * clip > stddev * (1 + TOLERANCE):
            detail = (
                f"ledger line {line} counts on noise multiplier {_effective(counted):.6g}; "
                f"{stddev / clip:.6g} was added."
            )
            return _result(check, False, detail, n=len(entries))
    return _result(
        check, True, f"noise of {multiplier:.6g} clip norms in each of {len(entries)} events.", n=len(entries)
    )


def _denominator(ledger: PrivacyLedger, entries: Sequence[LedgerEntry]) -> CheckResult:
    check, n = "ledger.denominator", len(entries)
    recorded = [_number(entry.facts.get("expected")) for entry in entries]
    promised = _number(ledger.facts.get("denominator"))
    known = [value for value in recorded if value is not None]
    if len(known) < n:
        return _result(check, None, f"{n - len(known)} of {n} rounds do not say what they divided by ('expected').")
    wanted = known[0] if promised is None else promised
    for entry, value in zip(entries, known, strict=True):
        if abs(value - wanted) > TOLERANCE * abs(wanted):
            detail = f"ledger line {entry.seq + 1} divided by {value:.6g}, not by {wanted:.6g}."
            return _result(check, False, detail, refuted="a fixed, public denominator", n=n)
    return _result(check, True, f"every round divided by {wanted:.6g}.", n=n)

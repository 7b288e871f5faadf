"""Everything the accountants say of a ledger, in one record, with what it rests on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from dpaudit import __version__, _validate
from dpaudit import events as ev
from dpaudit.accounting._source import Source, digest_of, event_of, facts_of, ledgers_of, relation_of
from dpaudit.accounting.agreement import check_agreement
from dpaudit.accounting.assumptions import assumptions_of, without_amplification
from dpaudit.accounting.bounds import epsilon, pld_that_fits
from dpaudit.accounting.curves import PrivacyCurve, pairs
from dpaudit.accounting.group import event_at, group_event
from dpaudit.accounting.pld import flattened
from dpaudit.accounting.recorded import contradicted_lines, contradictions, no_bound
from dpaudit.accounting.running import RunningEpsilon
from dpaudit.errors import Refusal, UnsupportedEvent
from dpaudit.records import AccountingSummary, Assumption, Relation, Unit

_DELTAS = tuple(sorted({*(round(float(d), 20) for d in np.geomspace(1e-10, 0.1, 37)), 1e-4, 1e-5, 1e-6, 1e-7, 1e-8}))
_RATES = (0.001, 0.01, 0.05, 0.1)
_ALPHAS = np.unique(np.concatenate([[0.0, 1.0], np.geomspace(1e-5, 0.1, 25), np.linspace(0.1, 0.99, 35)]))
_POINTS = 40
_KINDS = 6
_COARSE = 1e-3


def _or_reason(name: str, reasons: dict[str, str], compute: Callable[[], float]) -> float | None:
    try:
        return compute()
    except Refusal as refusal:
        reasons[name] = str(refusal)
        return None


def rounds_over(source: Source, delta: float, relation: Relation) -> tuple[tuple[int, float], ...]:
    """Return (round, epsilon) at about 40 rounds spread over the run, on a coarse grid (upper bounds all the same).

    A round is one event of a ledger, or one step of a self-composed event. Runs with more than a few kinds of event, or
    of several ledgers (whose order is not known), give no curve.
    """
    whole, ledgers = event_of(source), ledgers_of(source)
    kinds = flattened(whole)
    entries = [entry.event for ledger in ledgers for entry in ledger.events() if entry.event is not None]
    if len(kinds) == 1 and (len(entries) <= 1 or len(set(entries)) == 1):
        only, count = next(iter(kinds.items()))
        per_round = count // max(1, len(entries)) if len(entries) > 1 else 1
        spent = RunningEpsilon(only, delta, relation=relation)
        return tuple((mark, spent.after(mark * per_round)) for mark in _marks(count // per_round))
    if len(ledgers) != 1 or not 1 <= len(kinds) <= _KINDS:
        return ()
    return tuple(
        (mark, epsilon(ev.Composed(events=tuple(entries[:mark])), delta, relation=relation, discretization=_COARSE))
        for mark in _marks(len(entries))
    )


def _marks(total: int) -> list[int]:
    return sorted({round(mark) for mark in np.linspace(1, total, min(_POINTS, total))} | {total})


def summarize(
    ledger_or_event: Source,
    *,
    delta: float,
    relation: Relation | str | None = None,
    unit: Unit | str | None = None,
    group_size: int = 1,
    max_examples_per_client: int | None = None,
    rounds: bool = True,
    witness: bool = True,
    facts: Mapping[str, Any] | None = None,
    false_positive_rates: Sequence[float] = (),
) -> AccountingSummary:
    """Return what the accountants say at `delta`: epsilons, mu, profile, trade-off curve, ceilings, assumptions.

    Numbers that do not exist are None, with the reason in `reasons`; so are all of a ledger whose facts contradict its
    events (where only the sampler is contradicted, `epsilon_no_amplification` remains). The last point of
    `epsilon_over_rounds` may lie a little over `epsilon_pld` (0.04 % for q = 0.01, 1000 rounds), for it is computed on
    a coarser grid.

    Args:
        ledger_or_event: a ledger, several ledgers on the same people, or an event.
        delta: strictly between 0 and 1.
        relation: None takes that of the ledger, or add-or-remove-one.
        unit: unit of privacy that is asked for; None takes the ledger's.
        group_size: how many such units come or go together.
        max_examples_per_client: cap that the training enforced; None takes the ledger's.
        rounds: whether to compute epsilon over the rounds.
        witness: whether to ask dp-accounting too (imports it, and takes about half a second).
        facts: what is declared of the run beside or in place of the ledger's header.
        false_positive_rates: where ceilings on the true-positive rate are wanted, beside 0.1, 1, 5 and 10 %.

    Raises:
        UsageError: for arguments out of range, and conversions between units that are not valid.
        UnsupportedEvent: for events without a bound for groups.
        AccountantsDisagree: if the accountants contradict each other; the message names the one at fault.
    """
    _validate.open_unit_interval(delta=delta)
    for rate in false_positive_rates:
        _validate.open_unit_interval(fpr=rate)
    rates = sorted({*_RATES, *false_positive_rates})
    chosen, ledgers = relation_of(ledger_or_event, relation), ledgers_of(ledger_or_event)
    event = event_at(ledger_or_event, unit=unit, max_examples_per_client=max_examples_per_client)
    event = group_event(event, group_size)
    known = {**facts_of(ledger_or_event), **(facts or {}), **({} if unit is None else {"unit": str(Unit(unit))})}
    refuted = contradicted_lines(ledgers, chosen) or contradictions(event, facts or {}, chosen)
    reasons: dict[str, str] = {}
    numbers = _numbers(event, delta, chosen, reasons, refuted, witness=witness)
    source = "ledger header" if ledgers else "argument"
    assumed = assumptions_of(event, known, chosen, source=source, refuted=refuted)
    of_rounds = rounds and numbers.pld is not None and len(ledgers) < 2 and event == event_of(ledger_or_event)
    return AccountingSummary(
        delta=delta,
        relation=chosen,
        epsilon_rdp=numbers.rdp,
        epsilon_pld=numbers.pld,
        epsilon_no_amplification=numbers.plain,
        epsilon_over_rounds=rounds_over(ledger_or_event, delta, chosen) if of_rounds else (),
        assumptions=(*assumed, numbers.agreement),
        reasons=reasons,
        ledger_digest=digest_of(ledger_or_event),
        library=f"dpaudit {__version__}, dp-accounting {version('dp-accounting')}",
        **(_curves(event, delta, chosen, rates) if numbers.pld is not None else {}),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """The bounds on one event, and what comparing them showed."""

    rdp: float | None
    pld: float | None
    plain: float | None
    agreement: Assumption


def _numbers(
    event: ev.Event,
    delta: float,
    relation: Relation,
    reasons: dict[str, str],
    refuted: Mapping[str, str],
    *,
    witness: bool,
) -> _Numbers:
    """Return the bounds that exist; `reasons` gets why others do not."""

    def asked(name: str, compute: Callable[[], float], *, of_sampler: bool) -> float | None:
        if refuted and (of_sampler or set(refuted) != {"sampler"}):
            reasons[name] = no_bound(refuted)
            return None
        return _or_reason(name, reasons, compute)

    rdp = asked("epsilon_rdp", lambda: epsilon(event, delta, "rdp", relation=relation), of_sampler=True)
    pld = asked("epsilon_pld", lambda: epsilon(event, delta, "pld", relation=relation), of_sampler=True)
    plain = asked("epsilon_no_amplification", lambda: _plain_epsilon(event, delta, relation), of_sampler=False)
    agreement = check_agreement(event, delta, relation=relation, epsilon_rdp=rdp, epsilon_pld=pld, witness=witness)
    if pld is None:
        reasons["mu"] = f"no privacy loss distribution: {reasons['epsilon_pld']}"
    return _Numbers(rdp=rdp, pld=pld, plain=plain, agreement=agreement)


def _curves(event: ev.Event, delta: float, relation: Relation, rates: Sequence[float]) -> dict[str, Any]:
    """Return the fields of a summary that come from one privacy loss distribution."""
    curve = PrivacyCurve(pld_that_fits(event, relation=relation))
    mu, regret = curve.mu(delta)
    deltas = sorted({*_DELTAS, delta})
    return {
        "mu": mu,
        "mu_regret": regret,
        "profile": pairs(deltas, curve.epsilon(deltas)),
        "trade_off": pairs(_ALPHAS, curve.false_negative_rate(_ALPHAS)),
        "tpr_ceilings": pairs(rates, curve.true_positive_rate(rates)),
    }


def _plain_epsilon(event: ev.Event, delta: float, relation: Relation) -> float:
    """Return epsilon with every sampler replaced by "always present": what is left when amplification is not."""
    plain = without_amplification(event)
    try:
        return epsilon(plain, delta, "pld", relation=relation)
    except UnsupportedEvent:
        return epsilon(plain, delta, "rdp", relation=relation)

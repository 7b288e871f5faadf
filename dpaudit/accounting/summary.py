"""Everything the accountants say of a ledger, in one record, with what it rests on."""

from collections.abc import Callable, Mapping
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
from dpaudit.accounting.pld import flattened
from dpaudit.accounting.running import RunningEpsilon
from dpaudit.errors import Refusal, UnsupportedEvent
from dpaudit.records import AccountingSummary, Relation

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
    rounds: bool = True,
    witness: bool = True,
    facts: Mapping[str, Any] | None = None,
    facts_source: str = "argument",
) -> AccountingSummary:
    """Return what the accountants say at `delta`: epsilons, mu, profile, trade-off curve, ceilings, assumptions.

    Numbers that do not exist are None, with the reason in `reasons`. The last point of `epsilon_over_rounds` may lie
    a little over `epsilon_pld` (0.04 % for q = 0.01, 1000 rounds), for it is computed on a coarser grid.

    Args:
        ledger_or_event: a ledger, several ledgers on the same people, or an event.
        delta: strictly between 0 and 1.
        relation: None takes that of the ledger, or add-or-remove-one.
        rounds: whether to compute epsilon over the rounds.
        witness: whether to ask dp-accounting too (imports it, and takes about half a second).
        facts: what is declared of the run (unit, sampler, clip_norm, ...), in place of the ledger's header.
        facts_source: where `facts` were declared.

    Raises:
        UsageError: for arguments out of range.
        AccountantsDisagree: if the accountants contradict each other; the message names the one at fault.
    """
    _validate.open_unit_interval(delta=delta)
    event, chosen = event_of(ledger_or_event), relation_of(ledger_or_event, relation)
    if facts is None:
        facts, facts_source = facts_of(ledger_or_event), "ledger header"
    reasons: dict[str, str] = {}
    rdp = _or_reason("epsilon_rdp", reasons, lambda: epsilon(event, delta, "rdp", relation=chosen))
    pld = _or_reason("epsilon_pld", reasons, lambda: epsilon(event, delta, "pld", relation=chosen))
    plain = _or_reason("epsilon_no_amplification", reasons, lambda: _plain_epsilon(event, delta, chosen))
    agreement = check_agreement(event, delta, relation=chosen, epsilon_rdp=rdp, epsilon_pld=pld, witness=witness)
    if pld is None:
        reasons["mu"] = f"no privacy loss distribution: {reasons['epsilon_pld']}"
    return AccountingSummary(
        delta=delta,
        relation=chosen,
        epsilon_rdp=rdp,
        epsilon_pld=pld,
        epsilon_no_amplification=plain,
        epsilon_over_rounds=rounds_over(ledger_or_event, delta, chosen) if rounds and pld is not None else (),
        assumptions=(*assumptions_of(event, facts, chosen, source=facts_source), agreement),
        reasons=reasons,
        ledger_digest=digest_of(ledger_or_event),
        library=f"dpaudit {__version__}, dp-accounting {version('dp-accounting')}",
        **(_curves(event, delta, chosen) if pld is not None else {}),
    )


def _curves(event: ev.Event, delta: float, relation: Relation) -> dict[str, Any]:
    """Return the fields of a summary that come from one privacy loss distribution."""
    curve = PrivacyCurve(pld_that_fits(event, relation=relation))
    mu, regret = curve.mu(delta)
    deltas = sorted({*_DELTAS, delta})
    return {
        "mu": mu,
        "mu_regret": regret,
        "profile": pairs(deltas, curve.epsilon(deltas)),
        "trade_off": pairs(_ALPHAS, curve.false_negative_rate(_ALPHAS)),
        "tpr_ceilings": pairs(_RATES, curve.true_positive_rate(_RATES)),
    }


def _plain_epsilon(event: ev.Event, delta: float, relation: Relation) -> float:
    """Return epsilon with every sampler replaced by "always present": what is left when amplification is not."""
    plain = without_amplification(event)
    try:
        return epsilon(plain, delta, "pld", relation=relation)
    except UnsupportedEvent:
        return epsilon(plain, delta, "rdp", relation=relation)

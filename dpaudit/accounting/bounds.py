"""Upper bounds on epsilon: one door to all accountants."""

import math
from typing import Literal, get_args

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting._pmf import Pld, TooFine
from dpaudit.accounting._source import Source, event_of, relation_of
from dpaudit.accounting.pld import DISCRETIZATION, effective_gaussian, pld_of
from dpaudit.accounting.rdp import rdp_of
from dpaudit.errors import Refusal
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Relation

Accountant = Literal["pld", "rdp"]
_COARSER = 4.0
_COARSEST = 1.0


def pld_that_fits(event: ev.Event, *, relation: Relation, discretization: float | None = None) -> Pld:
    """Return the privacy loss distribution on the default grid, or a coarser one (still a bound) if it would not fit.

    Raises: Refusal if epsilon is so large that no grid serves, and what `pld_of` raises.
    """
    step = discretization or DISCRETIZATION
    while step <= _COARSEST:
        try:
            return pld_of(event, relation=relation, step=step)
        except TooFine:
            step *= _COARSER
    raise Refusal(
        "epsilon is astronomically large: the privacy losses do not fit a grid. Add noise or run fewer steps."
    )


def exact_gaussian(event: ev.Event, relation: Relation) -> float | None:
    """Return mu where the event is a composition of Gaussians and so exactly mu-GDP, else None."""
    multiplier = effective_gaussian(event)
    if multiplier is None or multiplier == 0:
        return None
    return (2 if relation == Relation.REPLACE_ONE else 1) / multiplier


def epsilon_of(
    event: ev.Event, delta: float, accountant: str, relation: Relation, discretization: float | None = None
) -> float:
    """Return the bound of one accountant, infinity included; raise for events it does not know."""
    if accountant == "rdp":
        return rdp_of(event, relation=relation).epsilon(delta)
    mu = exact_gaussian(event, relation)
    if mu is not None and discretization is None:
        return gdp_epsilon(mu, delta)
    return pld_that_fits(event, relation=relation, discretization=discretization).epsilon(delta)


def epsilon(
    ledger_or_event: Source,
    delta: float,
    accountant: str = "pld",
    *,
    relation: Relation | str | None = None,
    discretization: float | None = None,
) -> float:
    """Return an upper bound on epsilon at `delta` of everything that a ledger (or ledgers, or an event) holds.

    Args:
        ledger_or_event: a PrivacyLedger, several ledgers on the same people, or a privacy event.
        delta: strictly between 0 and 1.
        accountant: "pld" (tight; exact where everything is Gaussian) or "rdp".
        relation: neighbouring relation; None takes that of the ledger, or add-or-remove-one.
        discretization: width of the PLD grid; None takes 1e-4, coarser where that would not fit.

    Raises:
        UsageError: for arguments out of range.
        UnsupportedEvent: for an event that this accountant cannot bound.
        Refusal: where epsilon is infinite.
    """
    _validate.open_unit_interval(delta=delta)
    _validate.one_of(get_args(Accountant), accountant=accountant)
    if discretization is not None:
        _validate.positive(discretization=discretization)
    event, chosen = event_of(ledger_or_event), relation_of(ledger_or_event, relation)
    result = epsilon_of(event, delta, accountant, chosen, discretization)
    if math.isinf(result):
        raise Refusal(
            f"epsilon is infinite at delta = {delta:g}: the releases have a larger probability of total failure. "
            "Choose a larger delta, or leave out black-box releases with large deltas."
        )
    return result

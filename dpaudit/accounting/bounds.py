"""Upper bounds on epsilon: one door to all accountants."""

import math
from typing import Literal, get_args

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting._pmf import Pld, TooFine
from dpaudit.accounting._renyi import ORDERS
from dpaudit.accounting._source import Source, event_of, ledgers_of, relation_of
from dpaudit.accounting.pld import DISCRETIZATION, effective_gaussian, flattened, pld_of
from dpaudit.accounting.rdp import rdp_of
from dpaudit.accounting.recorded import contradicted_lines, no_bound
from dpaudit.errors import Refusal
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Relation

Accountant = Literal["pld", "rdp"]
_COARSER = 4.0
_COARSEST = 1.0
_SHARE = 0.005  # of the variance, and so about half of it of epsilon
_RESOLUTION = 1e-12
_RARE = 0.1


def _variance(event: ev.Event, relation: Relation) -> float:
    """Estimate the variance of one step's loss; only the width of a grid depends on it.

    Where a batch hardly ever tells that a unit is in it, that of a sampled Gaussian is q^2 (e^(1/z^2) - 1), and
    4 q^2 sinh(1/z^2) if the unit is replaced. Elsewhere a divergence of order near 1 is about half the variance.
    """
    if isinstance(event, ev.PubliclySampled):
        inner = flattened(event.event)
        return event.sampling_rate * sum(n * _variance(part, relation) for part, n in inner.items())
    multiplier = effective_gaussian(event.event) if isinstance(event, ev.PoissonSampled) else None
    if isinstance(event, ev.PoissonSampled) and multiplier:
        growth = min(multiplier**-2, 700.0)
        if event.sampling_rate * math.exp(growth) <= _RARE:
            told = 4 * math.sinh(growth) if relation == Relation.REPLACE_ONE else math.expm1(growth)
            return event.sampling_rate**2 * told
    return 2 * float(rdp_of(event, relation=relation).values[0]) / float(ORDERS[0])


def grid_width(event: ev.Event, relation: Relation, *, widest: float, share: float) -> float:
    """Return a grid width at which rounding adds at most `share` to the variance of the losses, `widest` if that does.

    Splitting a loss between the ends of its cell adds width^2 / 6 to its variance, in every step. Where a step loses
    less than the usual width, as with sampling rates of 1e-5 and millions of steps, that would be most of epsilon.
    """
    parts = flattened(event)
    try:
        variance = sum(count * _variance(part, relation) for part, count in parts.items())
    except Refusal:
        return widest
    if not 0 < variance < math.inf:
        return widest
    return min(widest, math.sqrt(6 * share * variance / sum(parts.values())))


def pld_that_fits(event: ev.Event, *, relation: Relation, discretization: float | None = None) -> Pld:
    """Return the privacy loss distribution on a grid that serves: coarser than asked for (still a bound) if need be.

    Without `discretization` the width is 1e-4, dp-accounting's, or finer where steps lose very little.

    Raises: Refusal if epsilon is so large that no grid serves, and what `pld_of` raises.
    """
    step = discretization or grid_width(event, relation, widest=DISCRETIZATION, share=_SHARE)
    while step <= _COARSEST:
        try:
            return pld_of(event, relation=relation, step=step)
        except TooFine:
            step *= _COARSER
    raise Refusal(
        "epsilon is astronomically large: the privacy losses do not fit a grid. Add noise or run fewer steps."
    )


def exact_gaussian(event: ev.Event, relation: Relation) -> float | None:
    """Return mu where the event is a composition of Gaussians (and trees) and so exactly mu-GDP, else None."""
    multiplier = effective_gaussian(event, with_trees=True)
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
        discretization: width of the PLD grid; None takes 1e-4, finer where steps lose very little.

    Raises:
        UsageError: for arguments out of range, and ledgers on different units.
        UnsupportedEvent: for an event that this accountant cannot bound.
        Refusal: where epsilon is infinite, or the facts of a ledger contradict its events.
    """
    _validate.open_unit_interval(delta=delta)
    _validate.one_of(get_args(Accountant), accountant=accountant)
    if discretization is not None:
        _validate.positive(discretization=discretization)
    event, chosen = event_of(ledger_or_event), relation_of(ledger_or_event, relation)
    if against := contradicted_lines(ledgers_of(ledger_or_event), chosen):
        raise Refusal(no_bound(against))
    result = epsilon_of(event, delta, accountant, chosen, discretization)
    if math.isinf(result):
        raise Refusal(_why_infinite(delta, accountant))
    return result


def _why_infinite(delta: float, accountant: str) -> str:
    if accountant == "pld" and delta < _RESOLUTION:
        return (
            f"no finite epsilon at delta = {delta:g} by PLD: its FFTs resolve deltas down to about {_RESOLUTION:g}. "
            "Choose a larger delta, or the accountant 'rdp'."
        )
    return (
        f"epsilon is infinite at delta = {delta:g}: the releases have a larger probability of total failure. "
        "Choose a larger delta, or leave out black-box releases with large deltas."
    )

"""Accountants must not contradict each other: RDP is never under PLD, and ours agrees with dp-accounting's."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from dpaudit import events as ev
from dpaudit.accounting.bounds import epsilon_of, grid_width
from dpaudit.accounting.exporters import to_dp_accounting
from dpaudit.accounting.pld import DISCRETIZATION, flattened
from dpaudit.accounting.witness import WITNESS_UP_TO, witness_epsilon
from dpaudit.errors import AccountantsDisagree, Refusal, UsageError
from dpaudit.records import Assumption, AssumptionStatus, Relation

_TOLERANCE = 1e-3
_PER_STEP = 1e-9  # dp-accounting loses digits with every step under replace-one: 6e-5 in a million (benchmarks)
_SLACK, _FINE_SHARE = 1e-6, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What each accountant says of one event (None: it has no bound), and which contradict the others."""

    epsilons: dict[str, float | None]
    at_fault: tuple[str, ...]
    explanation: str


def _library_rdp(event: ev.Event, delta: float, relation: Relation) -> float | None:
    """Return epsilon by dp-accounting's RDP accountant, right or wrong."""
    import dp_accounting as dp

    quiet = logging.getLogger("absl")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it warns of orders that did not converge; those it leaves out
    try:
        accountant = dp.rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation[relation.name])
        converted = to_dp_accounting(event)
        return float(accountant.compose(converted).get_epsilon(delta)) if accountant.supports(converted) else None
    except UsageError:
        return None
    finally:
        quiet.setLevel(level)


def _own(event: ev.Event, delta: float, accountant: str, relation: Relation) -> float | None:
    try:
        return epsilon_of(event, delta, accountant, relation)
    except Refusal:
        return None


def compare_accountants(event: ev.Event, delta: float, *, relation: Relation) -> Comparison:
    """Ask all accountants, ours and dp-accounting's, and name those that contradict the others.

    A PLD is exact up to its grid, so that any bound under it by more than a rounding is wrong. dp-accounting 0.6
    under-reports Gaussians and sampling without replacement by RDP under replace-one (its issue #378).
    """
    epsilons = {
        "rdp": _own(event, delta, "rdp", relation),
        "pld": _own(event, delta, "pld", relation),
        "dp-accounting rdp": _library_rdp(event, delta, relation),
        "dp-accounting pld": witness_epsilon(event, delta, relation=relation),
    }
    pld = epsilons["pld"]
    if pld is None or math.isinf(pld):
        return Comparison(epsilons=epsilons, at_fault=(), explanation="there is no PLD bound to compare with")
    floor = pld * (1 - _TOLERANCE) - _SLACK
    faults = tuple(name for name, value in epsilons.items() if value is not None and value < floor)
    told = "; ".join(f"{name} gives {epsilons[name]:.6g}, under {pld:.6g} by PLD" for name in faults)
    return Comparison(epsilons=epsilons, at_fault=faults, explanation=told or "no accountant is under the PLD bound")


def _accuse_rdp(event: ev.Event, delta: float, relation: Relation, rdp: float) -> None:
    """Raise AccountantsDisagree if RDP is under PLD on a much finer grid too, where rounding is no excuse."""
    fine = grid_width(event, relation, widest=DISCRETIZATION, share=_FINE_SHARE) / 4
    pld = epsilon_of(event, delta, "pld", relation, fine)
    if rdp < pld * (1 - _SLACK) - _SLACK:
        raise AccountantsDisagree(
            f"epsilon at delta = {delta:g} is {rdp:.6g} by the RDP accountant, under {pld:.6g} by PLD: the RDP "
            "accountant is at fault, for a Renyi bound can never be the smaller one. Use the PLD bound."
        )


def _compare_with(witness: float, event: ev.Event, delta: float, relation: Relation) -> None:
    """Raise AccountantsDisagree if our PLD on dp-accounting's grid is not what dp-accounting gives."""
    ours = epsilon_of(event, delta, "pld", relation, DISCRETIZATION)
    steps = max(flattened(event).values(), default=0)
    if abs(witness - ours) > (_TOLERANCE + _PER_STEP * steps) * max(ours, 0.01):
        raise AccountantsDisagree(
            f"epsilon at delta = {delta:g} is {ours:.6g} by our PLD accountant and {witness:.6g} by dp-accounting's "
            f"(both on a grid of {DISCRETIZATION:g}). Use the larger, and report the event to dpaudit."
        )


def check_agreement(
    event: ev.Event,
    delta: float,
    *,
    relation: Relation,
    epsilon_rdp: float | None,
    epsilon_pld: float | None,
    witness: bool = True,
) -> Assumption:
    """Compare our bounds with each other and with dp-accounting's PLD; return what was found as an assumption.

    Raises: AccountantsDisagree, which names the accountant at fault.
    """
    if epsilon_pld is None:
        return Assumption(id="accountants-agree", text="accountants agree: there is no PLD bound to compare with")
    if epsilon_rdp is not None and epsilon_rdp < epsilon_pld * (1 - _SLACK) - _SLACK:
        _accuse_rdp(event, delta, relation, epsilon_rdp)
    asked: Any = None
    if witness and epsilon_pld < WITNESS_UP_TO:
        asked = witness_epsilon(event, delta, relation=relation)
    if asked is not None:
        _compare_with(asked, event, delta, relation)
    if asked is None and epsilon_rdp is None:
        return Assumption(id="accountants-agree", text="accountants agree: there is no second bound to compare with")
    heard = "RDP is not under PLD"
    if asked is not None:
        heard = "dp-accounting's own PLD gives the same epsilon, " + heard
    return Assumption(
        id="accountants-agree",
        text=f"accountants agree: {heard}",
        status=AssumptionStatus.VERIFIED,
        evidence="dpaudit.accounting.agreement",
    )

"""Epsilon round by round, for progress lines and curves over time: one spectrum, many powers."""

import math

import numpy as np

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting._powers import Powers
from dpaudit.accounting._source import as_relation
from dpaudit.accounting.assumptions import kinds_of
from dpaudit.accounting.bounds import exact_gaussian, grid_width, pld_that_fits
from dpaudit.accounting.rdp import NOTHING, rdp_of
from dpaudit.errors import Refusal
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Relation

_BY_RDP = {ev.DistributedDiscreteGaussian, ev.Skellam}  # no privacy loss distribution is known
_STEP, _SHARE = 1e-3, 0.02  # coarser than the final number: an upper bound all the same, up to 1 % larger
_COARSE, _FAITHFUL = 0.05, 2e-4  # coarser still where losses are so large that it adds next to nothing


class RunningEpsilon:
    """An upper bound on epsilon at `delta` after any number of rounds of the same event.

    Example:
        >>> spent = RunningEpsilon(ev.Gaussian(noise_multiplier=10.0), 1e-5)
        >>> round(spent.after(4), 2)
        0.73
    """

    def __init__(
        self,
        event: ev.Event,
        delta: float,
        *,
        relation: Relation | str = Relation.ADD_OR_REMOVE_ONE,
        discretization: float | None = None,
    ) -> None:
        """Prepare the event; raise what `dpaudit.accounting.epsilon` raises."""
        _validate.open_unit_interval(delta=delta)
        self.delta = delta
        chosen = as_relation(relation)
        self._mu = exact_gaussian(event, chosen)
        self._powers: tuple[Powers, ...] = ()
        self._rdp = rdp_of(event, relation=chosen) if kinds_of(event) & _BY_RDP else None
        if self._mu is None and self._rdp is None:
            width = discretization or max(
                grid_width(event, chosen, widest=_STEP, share=_SHARE),
                grid_width(event, chosen, widest=_COARSE, share=_FAITHFUL),
            )
            pld = pld_that_fits(event, relation=chosen, discretization=width)
            self._powers = tuple(Powers(pmf) for pmf in (pld.remove, pld.add) if pmf is not None)

    def after(self, rounds: int) -> float:
        """Return the bound after `rounds` rounds; raise Refusal if it is infinite."""
        _validate.non_negative(rounds=rounds)
        if rounds == 0:
            return 0.0
        if self._mu is not None:
            return gdp_epsilon(self._mu * math.sqrt(rounds), self.delta)
        if self._rdp is not None:
            return NOTHING.plus(self._rdp, rounds).epsilon(self.delta)
        wanted = np.asarray(self.delta)
        result = max(float(powers.after(rounds).profile().epsilon(wanted)) for powers in self._powers)
        if math.isinf(result):
            raise Refusal(
                f"epsilon is infinite at delta = {self.delta:g} after {rounds} rounds. Choose a larger delta."
            )
        return result

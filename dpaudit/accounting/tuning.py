"""Searches of hyper-parameters as what they cost: the best of a random number of runs, or all runs together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting._source import SEARCH
from dpaudit.accounting.rdp import rdp_of
from dpaudit.errors import Refusal, UsageError
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Relation

Cost = Literal["repeat-and-select", "plain-composition"]
SHAPES = {"geometric": 1.0, "logarithmic": 0.0, "poisson": math.inf}
"""Distributions of the number of runs: the shape of the truncated negative binomial (Poisson is its limit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperparameterSearch:
    """What a search of hyper-parameters costs; `reason` says why it is accounted for in this way."""

    event: ev.Event
    cost: Cost
    runs: int | None
    reason: str

    def facts(self) -> dict[str, Any]:
        """Return what a ledger records of the search."""
        return {SEARCH: {"cost": self.cost, "runs": self.runs, "reason": self.reason}}


def _why_not(runs: Sequence[ev.Event], distribution: str | None, released: str) -> str | None:
    """Return which condition of arXiv:2110.03620, Theorem 2 does not hold; None if all are declared to."""
    if distribution is None:
        return "the number of runs was not drawn from a distribution that is known beforehand"
    if released != "best":
        return "more than the best run is released"
    if len(set(runs)) > 1:
        return "the runs are not all the same mechanism"
    try:
        spent = rdp_of(runs[0], relation=Relation.ADD_OR_REMOVE_ONE).spent
    except Refusal as refusal:
        return f"a run has no Renyi bound ({refusal})"
    return "a run holds a black-box release with a delta" if spent > 0 else None


def search_event(
    runs: Sequence[ev.Event],
    *,
    drawn_from: str | None = None,
    mean: float | None = None,
    released: Literal["best", "all"] = "all",
) -> HyperparameterSearch:
    """Return what trying several runs on the same people costs.

    The best of a random number of runs costs two to three times as much as one run, however many there were, where the
    number was drawn from a truncated negative binomial or Poisson distribution, independently of the data, every run
    was the same mechanism (its choice of hyper-parameters and its score included), and nothing but the best run is
    shown to anybody (Papernot, Steinke, arXiv:2110.03620, Theorems 2 and 6). Elsewhere all runs compose.

    Args:
        runs: the event of every run that was started, the released one included.
        drawn_from: "geometric", "logarithmic" or "poisson": what the number of runs was drawn from; None if it was not.
        mean: expected number of runs of that distribution.
        released: "best" if nobody saw anything of the other runs.

    Raises: UsageError.
    """
    if not runs:
        raise UsageError("a search needs the events of its runs; got none.")
    if (drawn_from is None) != (mean is None):
        raise UsageError("name both the distribution of the number of runs (drawn_from) and its mean, or neither.")
    if drawn_from is not None:
        _validate.one_of(tuple(SHAPES), drawn_from=drawn_from)
    _validate.one_of(("best", "all"), released=released)
    against = _why_not(runs, drawn_from, released)
    if against is None and drawn_from is not None and mean is not None:
        event = ev.RepeatAndSelect(event=runs[0], mean=mean, shape=SHAPES[drawn_from])
        reason = f"the best of a number of runs drawn from a {drawn_from} distribution of mean {mean:g}"
        return HyperparameterSearch(event=event, cost="repeat-and-select", runs=None, reason=reason)
    together = ev.SelfComposed(event=runs[0], count=len(runs)) if len(set(runs)) == 1 else ev.Composed(events=(*runs,))
    reason = f"all {len(runs)} runs compose: {against}"
    return HyperparameterSearch(event=together, cost="plain-composition", runs=len(runs), reason=reason)


def record_search(ledger: PrivacyLedger, search: HyperparameterSearch, **facts: Any) -> None:
    """Record a search, the released run included, as one event of a ledger, in place of the events of its runs."""
    ledger.record(search.event, **search.facts(), **facts)

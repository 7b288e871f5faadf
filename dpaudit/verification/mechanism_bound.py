"""Lower bounds on what a mechanism spends, from one fixed sample: Clopper-Pearson limits on the rates of few events.

Events are learned on a third of the outputs; the rest, fresh, gives a lower limit p for the rate of each under one
data set and an upper limit q under its neighbour. All these limits hold together with the stated confidence, and
then so does everything that follows from them: epsilon at every delta, delta at every epsilon, Renyi divergence of
every order (data processing). Searching over these is free (Delta-Siege, CCS 2023, makes the same use of it).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from dpaudit import _rng, _validate
from dpaudit.errors import UsageError
from dpaudit.estimation.binomial import lower_limit, upper_limit
from dpaudit.fanout import Executor
from dpaudit.records import CheckResult, Status
from dpaudit.verification._learn import Candidates, Event, candidates
from dpaudit.verification._results import DETECTION, check_level
from dpaudit.verification.claims import PrivacyClaim, renyi_divergence, twice_as_bad
from dpaudit.verification.draws import Draws, Mechanism, Order
from dpaudit.verification.mechanism import CHECK_ID, DRAWN_PAIRS
from dpaudit.verification.neighbours import Neighbours, Pairs, given_pairs

Floats = NDArray[np.float64]
Target = Callable[[Floats, Floats], Floats]
"""What an event is chosen for: a score of rates (p, q), the larger the better."""

DELTAS = (0.0, 1e-5, 1e-2)
_Z_HALF = float(ndtri((1 + DETECTION) / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class RateBound:
    """An event whose rate is at least `p` under one data set and at most `q` under its neighbour."""

    p: float
    q: float
    outputs: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismBound:
    """What a mechanism spends at least; everything it says holds together with probability `confidence`."""

    rates: tuple[RateBound, ...]
    confidence: float
    outputs: int

    def epsilon(self, delta: float = 0.0) -> float:
        """Return a lower bound on epsilon at `delta`; 0 when nothing was seen."""
        _validate.probability(delta=delta)
        return max([0.0, *(math.log((rate.p - delta) / rate.q) for rate in self.rates if rate.p > delta)])

    def delta(self, epsilon: float) -> float:
        """Return a lower bound on delta at `epsilon`; 0 when nothing was seen."""
        _validate.non_negative(epsilon=epsilon)
        return max([0.0, *(rate.p - math.exp(epsilon) * rate.q for rate in self.rates)])

    def renyi(self, order: float) -> float:
        """Return a lower bound on the Renyi divergence of an order above 1, by data processing."""
        if not order > 1:
            raise UsageError(f"order must be greater than 1; got {order!r}.")
        return max([0.0, *(renyi_divergence(rate.p, rate.q, order) for rate in self.rates if rate.p > rate.q)])

    def refuted_points(self, claim: PrivacyClaim) -> list[tuple[float, float]]:
        """Return the points of a claim that the mechanism cannot respect."""
        return [(epsilon, delta) for epsilon, delta in claim.points if self.delta(epsilon) > delta]


def bound_mechanism(
    mechanism: Mechanism,
    pairs: Pairs,
    *,
    deltas: Sequence[float] = DELTAS,
    orders: Sequence[float] = (2.0,),
    claim: PrivacyClaim | None = None,
    significance: float = 0.05,
    outputs: int = 20_000,
    search: int = DRAWN_PAIRS,
    float_bits: bool = False,
    seed: int = 0,
    executor: Executor | None = None,
) -> MechanismBound:
    """Return lower bounds on a mechanism's epsilon, delta and Renyi divergence, from a fixed number of outputs.

    Args:
        mechanism: as for `check_mechanism`.
        pairs: as for `check_mechanism`.
        deltas: for which the events are chosen; the bound may be asked at any other.
        orders: Renyi orders for which events are chosen.
        claim: a claim whose points events are chosen for, too.
        significance: probability that anything the result says is wrong.
        outputs: outputs drawn on each side, over all pairs of data sets.
        search: pairs of data sets to draw from a strategy.
        float_bits: also look at the bits of floating-point outputs.
        seed: of sampling and learning.
        executor: as for `check_mechanism`.

    Raises:
        UsageError: arguments out of range.  Whatever the mechanism raises goes through.
    """
    check_level(significance)
    _validate.positive_integer(outputs=outputs, search=search, seed_plus_one=seed + 1)
    neighbours, draws = given_pairs(pairs, search=search, seed=seed), Draws(mechanism, executor)
    if outputs < 6 * len(neighbours):
        raise UsageError(f"{len(neighbours)} pairs of data sets need at least {6 * len(neighbours)} outputs.")
    size = outputs // (3 * len(neighbours))
    pilots = []
    planned = [_orders(pair, size, seed, "pilot", number) for number, pair in enumerate(neighbours)]
    draws.prefetch([order for sides in planned for order in sides])
    for number, sides in enumerate(planned):
        x, y = map(draws, sides)
        found = candidates(x, y, seed=_rng.seed_of(seed, "learning", number), float_bits=float_bits)
        pilots.append(found)
    chosen = _choose(pilots, _targets(deltas, orders, claim))
    rates = _fresh_rates(chosen, neighbours, draws, outputs - size * len(neighbours), significance, seed)
    return MechanismBound(rates=rates, confidence=1 - significance, outputs=outputs)


def check_mechanism_fixed(
    mechanism: Mechanism,
    pairs: Pairs,
    claim: PrivacyClaim,
    *,
    significance: float = 0.01,
    outputs: int = 20_000,
    search: int = DRAWN_PAIRS,
    float_bits: bool = False,
    seed: int = 0,
    executor: Executor | None = None,
) -> tuple[CheckResult, MechanismBound | None]:
    """Test a claim with a fixed number of outputs; return the result and the bounds, None when the mechanism failed.

    `check_mechanism` stops earlier; this one says how bad it is. `statistic` is the largest excess
    p - e^epsilon q - delta over all points of the claim, by Clopper-Pearson limits; it fails above 0.

    Args as `bound_mechanism`.  Raises: UsageError for arguments out of range.
    """
    options = {"search": search, "float_bits": float_bits, "seed": seed, "outputs": outputs, "executor": executor}
    try:
        bound = bound_mechanism(mechanism, pairs, claim=claim, significance=significance, **options)  # type: ignore[arg-type]
    except UsageError:
        raise
    except Exception as error:
        detail = f"the mechanism failed: {type(error).__name__}: {error}"
        return CheckResult(id=CHECK_ID, status=Status.INCONCLUSIVE, detail=detail, significance=significance), None
    return _result(bound, claim, significance), bound


def _orders(pair: Neighbours, size: int, seed: int, name: str, number: int) -> list[Order]:
    root = _rng.seed_of(seed, name, number)
    sides = (("first", pair.first), ("second", pair.second))
    return [Order(dataset=dataset, size=size, root=root, side=side) for side, dataset in sides]


def _targets(deltas: Sequence[float], orders: Sequence[float], claim: PrivacyClaim | None) -> list[Target]:
    targets: list[Target] = [
        lambda p, q, d=delta: np.log(np.maximum(p - d, 1e-300) / q)  # type: ignore[misc]
        for delta in deltas
    ]
    targets += [
        lambda p, q, a=order: np.where(p > q, a * np.log(np.maximum(p, 1e-300) / q) + np.log(q), -np.inf)  # type: ignore[misc]
        for order in orders
    ]
    points = claim.points if claim is not None else ()
    targets += [lambda p, q, e=epsilon, d=delta: p - math.exp(e) * q - d for epsilon, delta in points]  # type: ignore[misc]
    return targets


def _choose(pilots: Sequence[Candidates], targets: Sequence[Target]) -> list[tuple[int, bool, Event]]:
    """Return, for each target, the best (pair, direction, event) by limits on the pilot's rates; each once."""
    chosen: dict[tuple[int, bool, str], tuple[int, bool, Event]] = {}
    for target in targets:
        best: tuple[float, int, bool, Event] | None = None
        for number, pilot in enumerate(pilots):
            for reverse in (False, True):
                found = pilot.best_for(target, reverse=reverse)
                if found is not None and (best is None or found[0] > best[0]):
                    best = (found[0], number, reverse, found[1])
        if best is not None and math.isfinite(best[0]):
            chosen.setdefault((best[1], best[2], str(best[3])), best[1:])
    return list(chosen.values())


def _fresh_rates(
    chosen: Sequence[tuple[int, bool, Event]],
    neighbours: Sequence[Neighbours],
    draws: Draws,
    outputs: int,
    significance: float,
    seed: int,
) -> tuple[RateBound, ...]:
    """Count each event on fresh outputs; two limits per event share the significance."""
    rates = []
    wanted = sorted({number for number, _, _ in chosen})
    error = significance / max(1, 2 * len(chosen))
    size = outputs // max(1, len(wanted))
    planned = {number: _orders(neighbours[number], size, seed, "fresh", number) for number in wanted}
    draws.prefetch([order for sides in planned.values() for order in sides])
    for number, sides in planned.items():
        x, y = map(draws, sides)
        for _, reverse, event in (one for one in chosen if one[0] == number):
            first, second = (y, x) if reverse else (x, y)
            p = lower_limit(int(event(first).sum()), size, error)
            q = upper_limit(int(event(second).sum()), size, error)
            side = "second over first" if reverse else "first over second"
            where = f"{neighbours[number].name} ({side}), event {event}"
            rates.append(RateBound(p=p, q=q, outputs=size, where=where))
    return tuple(rates)


def _result(bound: MechanismBound, claim: PrivacyClaim, significance: float) -> CheckResult:
    excess = [
        (rate.p - math.exp(epsilon) * rate.q - delta, rate) for epsilon, delta in claim.points for rate in bound.rates
    ]
    best: tuple[float, Any] = max(excess, key=lambda item: item[0], default=(-math.inf, None))
    refuted = bound.refuted_points(claim)
    detectable = _detectable(bound, claim, significance)
    status = Status.FAIL if refuted else Status.PASS
    delta = next((d for _, d in claim.points if d > 0), 0.0)
    text = f"{bound.outputs} outputs on each side: epsilon at least {bound.epsilon(0.0):.4g} at delta 0"
    text += f" and {bound.epsilon(delta):.4g} at delta {delta:.4g}" if delta > 0 else ""
    text += f", with confidence {bound.confidence:.4g}"
    text += f"; most telling: {best[1].where}" if best[1] is not None else "; both sides gave the same outputs"
    if refuted and claim.points[0] not in refuted:
        text += " (the profile is refuted, not its first point)"
    if status == Status.PASS and (detectable is None or detectable > twice_as_bad(claim).excess):
        status, text = Status.INCONCLUSIVE, f"a mechanism twice as bad might not have been seen: {text}"
    return CheckResult(
        id=CHECK_ID,
        status=status,
        statistic=best[0] if best[1] is not None else None,
        threshold=0.0,
        detail=f"{text}; minimum_detectable is an excess P(S) - e^epsilon Q(S) - delta.",
        minimum_detectable=detectable,
        refuted=claim.text if refuted else None,
        significance=significance,
        n=bound.outputs,
    )


def _detectable(bound: MechanismBound, claim: PrivacyClaim, significance: float) -> float | None:
    """Return the excess that an event would have shown with probability 0.99; None where even certainty would not.

    Both counts at their 0.5 % quantiles (normal approximation) must still show an excess. The rate of the event under
    the second data set is that of a mechanism twice as bad as claimed.
    """
    if not bound.rates:
        return None
    (epsilon, delta), q = claim.points[0], twice_as_bad(claim).q
    n, error = min(rate.outputs for rate in bound.rates), significance / (2 * len(bound.rates))
    high = upper_limit(min(n, math.ceil(n * q + _Z_HALF * math.sqrt(n * q * (1 - q)))), n, error)
    least = math.exp(epsilon) * high + delta
    for p in np.linspace(min(least, 1.0), 1.0, 400):
        count = math.floor(n * p - _Z_HALF * math.sqrt(n * p * (1 - p)))
        if count > 0 and lower_limit(count, n, error) > least:
            return float(p) - math.exp(epsilon) * q - delta
    return None

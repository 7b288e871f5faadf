"""Is a black-box mechanism as private as it claims? Sequential tests on pairs of neighbouring data sets.

For every pair of data sets, both directions and every claimed (epsilon, delta) point, an event is learned on samples
already seen, and a bet is placed on new ones: under the claim, P[M(D) in S] <= e^epsilon P[M(D') in S] + delta, so no
bet can be expected to win (`dpaudit.estimation.PairTest`). The average of all wealths is one e-value for everything
that was tried; it reaches 1/alpha with probability at most alpha, however often one looks.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from dpaudit import _rng, _validate
from dpaudit.errors import UsageError
from dpaudit.gdp import gdp_delta
from dpaudit.records import CheckResult, Status
from dpaudit.verification._betting import Contest, Floats
from dpaudit.verification._learn import STAKES
from dpaudit.verification._results import Z_DETECTION, check_level

Mechanism = Callable[..., Any]
"""`mechanism(dataset, n)` or `mechanism(dataset, n, rng=generator)`: n independent outputs, numbers of any shape."""

CHECK_ID = "mechanism.privacy"
PROFILE = tuple(np.linspace(0.0, 2.0, 9).tolist())
"""Epsilons at which a claimed profile is tested."""

_PILOT, _GROWTH = 40, 1.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Two neighbouring data sets."""

    first: Any
    second: Any
    name: str = "the given pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismSubject:
    """A mechanism together with the pairs of data sets to try it on: what `dpaudit check mechanism` is given."""

    mechanism: Mechanism
    pairs: tuple[Neighbours, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyClaim:
    """What is claimed of a mechanism: points (epsilon, delta), the first of which is the headline; and its name."""

    points: tuple[tuple[float, float], ...]
    text: str

    @classmethod
    def approximate(cls, epsilon: float, delta: float = 0.0) -> "PrivacyClaim":
        """(epsilon, delta)-differential privacy; delta 0 is pure."""
        _validate.non_negative(epsilon=epsilon)
        _validate.probability(delta=delta)
        name = f"{epsilon:g}-DP" if delta == 0 else f"({epsilon:g}, {delta:g})-DP"
        return cls(points=((epsilon, delta),), text=name)

    @classmethod
    def gaussian(cls, mu: float) -> "PrivacyClaim":
        """mu-Gaussian differential privacy, tested at its whole profile."""
        _validate.positive(mu=mu)
        return cls.profile(lambda epsilon: float(gdp_delta(epsilon, mu)), text=f"{mu:g}-GDP")

    @classmethod
    def profile(cls, delta_of: Callable[[float], float], *, text: str = "the claimed profile") -> "PrivacyClaim":
        """A whole privacy profile delta(epsilon), tested at epsilons from 0 to 2."""
        return cls(points=tuple((epsilon, float(delta_of(epsilon))) for epsilon in PROFILE), text=text)

    @classmethod
    def renyi(cls, order: float, epsilon: float) -> "PrivacyClaim":
        """(order, epsilon)-Renyi differential privacy, tested at the profile that it implies.

        delta(e) = exp((order - 1) (epsilon - e)) (1 - 1/order)^(order - 1) / order (Canonne, Kamath and Steinke,
        arXiv:2004.00010, proposition 12), and never more than the total variation that Pinsker's inequality allows
        an order of at least 1 at e = 0.
        """
        if not order > 1:
            raise UsageError(f"order must be greater than 1; got {order!r}.")
        _validate.positive(epsilon=epsilon)

        def delta_of(e: float) -> float:
            log = (order - 1) * (epsilon - e) + (order - 1) * math.log1p(-1 / order) - math.log(order)
            return min(1.0, math.exp(min(log, 0.0)), math.sqrt(epsilon / 2))

        grid = (*PROFILE, *(epsilon + k / (order - 1) for k in range(1, 6)))
        return cls(points=tuple((e, delta_of(e)) for e in grid), text=f"({order:g}, {epsilon:g})-Renyi DP")


def check_mechanism(
    mechanism: Mechanism,
    pairs: Iterable[Neighbours] | Neighbours,
    epsilon: float | None = None,
    delta: float = 0.0,
    *,
    claim: PrivacyClaim | None = None,
    significance: float = 0.01,
    max_pairs: int = 20_000,
    float_bits: bool = False,
    seed: int = 0,
) -> CheckResult:
    """Test a mechanism's claim on the given pairs of neighbouring data sets; stop as soon as it is refuted.

    Args:
        mechanism: draws n outputs on a data set, `mechanism(dataset, n)`; it is given `rng=` if it has such a
            parameter, and then the whole test is reproducible.
        pairs: neighbouring data sets to try; the error probability covers all of them together.
        epsilon: claimed epsilon (or give `claim`).
        delta: claimed delta.
        claim: another claim: a profile, mu-GDP, Renyi DP.
        significance: false-alarm probability of the whole test.
        max_pairs: outputs drawn on each side, over all pairs of data sets.
        float_bits: also look at the last bits of floating-point outputs. Nearly every textbook sampler is refuted
            by them: a finding of principle, seldom of practice, and so a question of its own.
        seed: of sampling and learning.

    Returns:
        FAIL with the refuted claim, PASS, or INCONCLUSIVE when a mechanism twice as bad as the claim could have
        stayed unseen, or when the mechanism crashed. `statistic` is the e-value, `threshold` 1/significance;
        `minimum_detectable` is the excess P(S) - e^epsilon Q(S) - delta of an event like the last one that was
        tried, on the data sets that were drawn from least.

    Raises:
        UsageError: no claim, no pairs, or arguments out of range.
    """
    check_level(significance)
    _validate.positive_integer(max_pairs=max_pairs, seed_plus_one=seed + 1)
    wanted = _claim(epsilon, delta, claim)
    neighbours = [pairs] if isinstance(pairs, Neighbours) else list(pairs)
    if not neighbours:
        raise UsageError("check_mechanism needs at least one pair of neighbouring data sets.")
    draw = _sampler(mechanism)
    contests = [
        Contest(pair, wanted.points, draw, root=_rng.seed_of(seed, "mechanism", number), float_bits=float_bits)
        for number, pair in enumerate(neighbours)
    ]
    try:
        used = _play(contests, significance, max_pairs)
    except Exception as error:
        detail = f"the mechanism failed: {type(error).__name__}: {error}"
        return CheckResult(id=CHECK_ID, status=Status.INCONCLUSIVE, detail=detail, significance=significance)
    return _result(contests, wanted, significance, used)


def _claim(epsilon: float | None, delta: float, claim: PrivacyClaim | None) -> PrivacyClaim:
    if (epsilon is None) == (claim is None):
        raise UsageError("give either epsilon (and delta), or claim.")
    return claim if claim is not None else PrivacyClaim.approximate(float(epsilon or 0.0), delta)


def _sampler(mechanism: Mechanism) -> Callable[[Any, int, np.random.Generator], Any]:
    if not callable(mechanism):
        raise UsageError(f"a mechanism must be callable; got {type(mechanism).__name__}.")
    try:
        takes_rng = "rng" in inspect.signature(mechanism).parameters
    except (TypeError, ValueError):
        takes_rng = False
    if takes_rng:
        return lambda dataset, n, rng: mechanism(dataset, n, rng=rng)
    return lambda dataset, n, rng: mechanism(dataset, n)  # noqa: ARG005


def _log_wealth(contests: Sequence[Contest]) -> float:
    return float(logsumexp([contest.log_e_value for contest in contests])) - math.log(len(contests))


def _play(contests: Sequence[Contest], significance: float, max_pairs: int) -> int:
    """Draw in growing blocks until the claim is refuted or the budget is used; return the outputs drawn per side.

    The most promising data sets get half of each round, the others share the rest. Which ones those are depends on
    the past alone, so that the average wealth stays a fair bet.
    """
    used, block = 0, float(_PILOT)
    while used < max_pairs:
        for contest, wanted in _allotted(contests, block):
            size = min(wanted, max_pairs - used)
            if size < 1:
                return used
            contest.play(size)
            used += size
            if _log_wealth(contests) >= -math.log(significance):
                return used
        block = _PILOT / 2 if used <= _PILOT * len(contests) else block * _GROWTH
    return used


def _allotted(contests: Sequence[Contest], block: float) -> list[tuple[Contest, int]]:
    """Return how many outputs each pair of data sets gets in a round of `block` outputs per pair on average."""
    count = len(contests)
    if count == 1 or not all(contest.rounds for contest in contests):
        return [(contest, int(block)) for contest in contests]
    leader = max(contests, key=lambda contest: contest.promise)
    half = block * count / 2
    return [(contest, int(half if contest is leader else half / (count - 1)) or 1) for contest in contests]


def _result(contests: Sequence[Contest], claim: PrivacyClaim, significance: float, used: int) -> CheckResult:
    log_wealth = _log_wealth(contests)
    refuted = log_wealth >= -math.log(significance)
    best = max(contests, key=lambda contest: contest.log_e_value)
    least = min(contests, key=lambda contest: contest.bets)
    detectable = _detectable(least, claim, significance, len(contests))
    status = Status.FAIL if refuted else Status.PASS
    text = f"{used} outputs on each side, {len(contests)} pair(s) of data sets; most telling: {best.describe()}"
    if refuted:
        points = best.refuted_points(significance / len(contests))
        only = "" if not points or claim.points[0] in points else " (the profile is refuted, not its first point)"
        text += only
    elif detectable is None or detectable > _twice_as_bad(claim):
        status, text = Status.INCONCLUSIVE, f"a mechanism twice as bad might not have been seen: {text}"
    return CheckResult(
        id=CHECK_ID,
        status=status,
        statistic=math.exp(min(log_wealth, 700.0)),
        threshold=1 / significance,
        p_value=min(1.0, math.exp(-log_wealth)),
        detail=f"{text}; minimum_detectable is an excess P(S) - e^epsilon Q(S) - delta.",
        minimum_detectable=detectable,
        refuted=claim.text if refuted else None,
        significance=significance,
        n=used,
    )


def _detectable(contest: Contest, claim: PrivacyClaim, significance: float, count: int) -> float | None:
    """Return the excess that an event as likely as the last one would have shown with probability 0.99; None if none.

    For the rate q of the event under the second data set and a rate p under the first, the best bet's logarithm of
    the wealth on n pairs of outputs is about normal, with a mean and variance that follow from p and q exactly; it
    must reach log(1/significance) from its share of the starting wealth.
    """
    (epsilon, delta), event, n = claim.points[0], contest.headline_event, contest.bets
    if n == 0:
        return None
    q = max(event.q if event is not None else 0.0, 0.5 / n)
    least = math.exp(epsilon) * q + delta
    needed = math.log(4 * count / significance)  # headline or profile, direction, data set
    rates = np.linspace(least, 1.0, 400) if least < 1 else np.zeros(0)
    reached = rates[_reach(rates, q, epsilon, delta, n) >= needed]
    return float(reached[0]) - least if len(reached) else None


def _reach(p: Floats, q: float, epsilon: float, delta: float, n: int) -> Floats:
    """Return the logarithm of the wealth that the best stake exceeds with probability 0.99 (normal approximation)."""
    grow = math.exp(epsilon)
    stakes = (STAKES / (grow + delta))[:, None]
    chances = np.stack([p * (1 - q), p * q, (1 - p) * q, (1 - p) * (1 - q)])
    logs = [np.log1p(stakes * gain) for gain in (1 - delta, 1 - grow - delta, -grow - delta, -delta)]
    mean = sum(chance * log for chance, log in zip(chances, logs, strict=True))
    square = sum(chance * log**2 for chance, log in zip(chances, logs, strict=True))
    low = n * mean - Z_DETECTION * np.sqrt(n * np.maximum(square - mean**2, 0.0))
    return np.asarray(low.max(axis=0) - math.log(2))  # half of a bet's wealth follows the learned stake


def _twice_as_bad(claim: PrivacyClaim) -> float:
    """Return the excess at the claimed point of randomised response with twice the epsilon (0.5 more for epsilon 0)."""
    epsilon, delta = claim.points[0]
    worse = 2 * epsilon if epsilon > 0 else 0.5
    return max((math.exp(worse) - math.exp(epsilon)) / (1 + math.exp(worse)), delta)

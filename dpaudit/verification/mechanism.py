"""Is a black-box mechanism as private as it claims? Sequential tests on pairs of neighbouring data sets.

For every pair of data sets, both directions and every claimed (epsilon, delta) point, an event is learned on samples
already seen, and a bet is placed on new ones: under the claim, P[M(D) in S] <= e^epsilon P[M(D') in S] + delta, so no
bet can be expected to win (`dpaudit.estimation.PairTest`). The average of all wealths is one e-value for everything
that was tried; it reaches 1/alpha with probability at most alpha, however often one looks.
"""

import math
from dataclasses import dataclass

import numpy as np

from dpaudit import _rng, _validate
from dpaudit.errors import UsageError
from dpaudit.fanout import Executor
from dpaudit.records import CheckResult, Status
from dpaudit.verification._betting import Contest, Floats
from dpaudit.verification._learn import STAKES
from dpaudit.verification._results import Z_DETECTION, check_level
from dpaudit.verification._search import Search
from dpaudit.verification.claims import PrivacyClaim, twice_as_bad
from dpaudit.verification.draws import Draws, Mechanism
from dpaudit.verification.neighbours import Neighbours, Pairs, given_pairs

CHECK_ID = "mechanism.privacy"
DRAWN_PAIRS = 24
"""Pairs of data sets that are drawn from a strategy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismSubject:
    """A mechanism together with the pairs of data sets to try it on: what `dpaudit check mechanism` is given."""

    mechanism: Mechanism
    pairs: tuple[Neighbours, ...]


def check_mechanism(
    mechanism: Mechanism,
    pairs: Pairs,
    epsilon: float | None = None,
    delta: float = 0.0,
    *,
    claim: PrivacyClaim | None = None,
    significance: float = 0.01,
    max_pairs: int = 20_000,
    search: int = DRAWN_PAIRS,
    float_bits: bool = False,
    seed: int = 0,
    executor: Executor | None = None,
) -> CheckResult:
    """Test a mechanism's claim on pairs of neighbouring data sets; stop as soon as it is refuted.

    Args:
        mechanism: draws n outputs on a data set, `mechanism(dataset, n)`; it is given `rng=` if it has such a
            parameter, and then the whole test is reproducible.
        pairs: neighbouring data sets to try, or a strategy that draws them (`dpaudit.verification.neighbours`, or
            one of Hypothesis); the error probability covers all of them together.
        epsilon: claimed epsilon (or give `claim`).
        delta: claimed delta.
        claim: another claim: a profile, mu-GDP, Renyi DP.
        significance: false-alarm probability of the whole test.
        max_pairs: outputs drawn on each side, over all pairs of data sets.
        search: pairs of data sets to draw from a strategy.
        float_bits: also look at the 64 bits of floating-point outputs. Nearly every textbook sampler is refuted
            by them: a finding of principle, seldom of practice, and so a question of its own.
        seed: of sampling and learning.
        executor: where outputs are drawn (`dpaudit.fanout`), for a mechanism that is slow and takes `rng`; None for
            here. The result is the same: each side of each pair has a stream of its own, and bets are placed in the
            same order.

    Returns:
        FAIL with the refuted claim, PASS, or INCONCLUSIVE when a mechanism twice as bad as the claim could have
        stayed unseen, or when the mechanism crashed. `statistic` is the e-value, `threshold` 1/significance;
        `minimum_detectable` is the excess P(S) - e^epsilon Q(S) - delta at which an event would have shown, with
        Q(S) as in a mechanism twice as bad, on the data sets where the least can be seen.

    Raises:
        UsageError: no claim, no pairs, or arguments out of range.
    """
    check_level(significance)
    _validate.positive_integer(max_pairs=max_pairs, search=search, seed_plus_one=seed + 1)
    wanted = as_claim(epsilon, delta, claim)
    draws = Draws(mechanism, executor)
    neighbours = given_pairs(pairs, search=search, seed=seed)
    contests = [
        Contest(pair, wanted.points, draws, root=_rng.seed_of(seed, "mechanism", number), float_bits=float_bits)
        for number, pair in enumerate(neighbours)
    ]
    found = Search(contests, draws.prefetch)
    try:
        found.play(significance, max_pairs)
    except Exception as error:
        detail = f"the mechanism failed: {type(error).__name__}: {error}"
        return CheckResult(id=CHECK_ID, status=Status.INCONCLUSIVE, detail=detail, significance=significance)
    return _result(found, wanted, significance)


def as_claim(epsilon: float | None, delta: float, claim: PrivacyClaim | None) -> PrivacyClaim:
    """Return the one claim that was given; raise UsageError unless it is one."""
    if (epsilon is None) == (claim is None):
        raise UsageError("give either epsilon (and delta), or claim.")
    return claim if claim is not None else PrivacyClaim.approximate(float(epsilon or 0.0), delta)


def _result(found: Search, claim: PrivacyClaim, significance: float) -> CheckResult:
    log_wealth, contests = found.log_wealth, found.contests
    refuted = log_wealth >= -math.log(significance)
    best = max(range(len(contests)), key=lambda i: math.log(found.shares[i]) + contests[i].log_e_value)
    shares = found.shares * significance
    limits = [_detectable(one, claim, float(share)) for one, share in zip(contests, shares, strict=True)]
    detectable = None if None in limits else max(limit for limit in limits if limit is not None)
    status = Status.FAIL if refuted else Status.PASS
    text = f"{found.used} outputs on each side, {len(contests)} pair(s) of data sets; most telling: "
    text += contests[best].describe()
    if refuted:
        points = contests[best].refuted_points(float(shares[best]))
        if points and claim.points[0] not in points:
            text += " (the profile is refuted, not its first point)"
    elif detectable is None or detectable > twice_as_bad(claim).excess:
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
        n=found.used,
    )


def _detectable(contest: Contest, claim: PrivacyClaim, share: float) -> float | None:
    """Return the excess that an event would have shown with probability 0.99; None where even certainty would not.

    For a rate q of the event under the second data set and a rate p under the first, the best bet's logarithm of the
    wealth on n pairs of outputs is about normal, with a mean and variance that follow from p and q exactly; it must
    reach log(1/share) from its own share of the contest's wealth. q is that of a mechanism twice as bad.
    """
    (epsilon, delta), n = claim.points[0], contest.bets
    if n == 0:
        return None
    q = twice_as_bad(claim).q
    least = math.exp(epsilon) * q + delta
    needed = -math.log(share * contest.headline_share)
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

"""Rules that fix the number of guesses, or the rank of a threshold, before any score is seen.

A rule is a function of the numbers of canaries, delta, the error and an epsilon of interest E: it imagines a
Gaussian mechanism of exactly (E, delta)-DP, asks which choice would give the best bound on average, and takes it.
Since no score enters, the choice needs no correction; when the mechanism is another one, the bound stays valid and only
loses some tightness.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaln, ndtr, ndtri, xlog1py, xlogy

from dpaudit.estimation import fdp, steinke
from dpaudit.estimation.bayes import credible_lower_bound
from dpaudit.estimation.curves import gaussian_family
from dpaudit.gdp import gdp_epsilon, gdp_mu

FALLBACK_DELTA = 1e-5  # for the imagined mechanism when delta = 0, where no Gaussian mechanism has a finite epsilon
LARGEST_INTEREST = 60.0  # beyond it every canary is guessed right, and the choice no longer changes
_QUANTILES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
_FEW = np.array([0.2, 0.5, 0.8])
_FEW_GUESSES = 150
_TOLERANCE = 1e-3
_DRAWS = 128

Floats = NDArray[np.float64]
CountBound = Callable[[int, int, int], float]  # canaries, guesses, correct -> bound


def imagined_mu(interest: float, delta: float) -> float:
    """Return the mu of the Gaussian mechanism that is exactly (interest, delta)-DP."""
    return float(gdp_mu(min(interest, LARGEST_INTEREST), delta if delta > 0 else FALLBACK_DELTA))


def interest_of_group(interest: float, delta: float, size: int) -> float:
    """Return the epsilon of a group of `size` under the imagined mechanism: what its scores will look like."""
    if size == 1:
        return interest
    total = gdp_epsilon(size * imagined_mu(interest, delta), delta if delta > 0 else FALLBACK_DELTA)
    return min(float(total), LARGEST_INTEREST)


def expected_accuracy(share: float, mu: float) -> float:
    """Return the accuracy of two-sided guesses on the most extreme `share` of canaries, scores N(+-mu/2, 1)."""
    low, high = 0.0, mu / 2 + 40.0
    for _ in range(80):
        edge = (low + high) / 2
        released = float(ndtr(mu / 2 - edge) + ndtr(-mu / 2 - edge))
        low, high = (edge, high) if released > share else (low, edge)
    right, wrong = float(ndtr(mu / 2 - low)), float(ndtr(-mu / 2 - low))
    return right / (right + wrong)


def _mean_bound(bound: CountBound, canaries: int, guesses: int, mu: float) -> float:
    """Return the mean bound over the number of right guesses: exactly for few guesses, else over a few quantiles."""
    accuracy = expected_accuracy(guesses / canaries, mu)
    middle, spread = guesses * accuracy, math.sqrt(guesses * accuracy * (1 - accuracy))
    if guesses <= _FEW_GUESSES:
        low, high = max(0, math.floor(middle - 3.5 * spread)), min(guesses, math.ceil(middle + 3.5 * spread))
        counts = np.arange(low, high + 1)
        logs = -gammaln(counts + 1) - gammaln(guesses - counts + 1) + xlogy(counts, accuracy)
        weights = np.exp(logs + xlog1py(guesses - counts, -accuracy) + float(gammaln(guesses + 1)))
    else:
        levels = _QUANTILES if guesses < 5_000 else _FEW
        counts = np.clip(np.round(middle + spread * ndtri(levels)), 0, guesses).astype(int)
        weights = np.full(counts.size, 1 / counts.size)
    return float(weights @ [bound(canaries, guesses, int(v)) for v in counts])


def guess_grid(canaries: int, count: int) -> list[int]:
    """Return at most `count` numbers of guesses, geometric from 10 (or all, if fewer) to the number of canaries."""
    grid = np.geomspace(min(10, canaries), canaries, count)
    return sorted({round(r) for r in grid})


def best_guesses(bound: CountBound, canaries: int, mu: float) -> int:
    """Return the number of guesses with the best mean bound under the imagined mechanism."""
    values = {r: _mean_bound(bound, canaries, r, mu) for r in guess_grid(canaries, 15)}
    best = max(values, key=lambda r: values[r])
    for step in (1.3, 1.12):
        near = {round(best * step**k) for k in (-1, 1)}
        values |= {r: _mean_bound(bound, canaries, r, mu) for r in near if 1 <= r <= canaries and r not in values}
        best = max(values, key=lambda r: values[r])
    return best


def _independent_share(interest: float) -> float:
    """Return the share of canaries to guess when they are independent: flat around its best value, so tabulated."""
    return 0.6 + 0.3 * min(1.0, max(0.0, (interest - 4) / 12))


@lru_cache(maxsize=256)
def planned_guesses(method: str, canaries: int, *, delta: float, error: float, interest: float) -> int:
    """Return the number of guesses for a one-run method, from the design alone.

    Args:
        method: "one-run", "one-run-fdp:gaussian", "one-run-fdp:eps-delta", "one-run-max" or "independent-canaries".
        canaries: Number m of canaries, abstained ones included.
        delta: Of the bound.
        error: One-sided error probability of the bound.
        interest: The epsilon at which the audit should be tight.
    """
    if method == "independent-canaries":
        return max(1, round(canaries * _independent_share(interest)))
    family = gaussian_family()
    bounds: dict[str, CountBound] = {
        "one-run": lambda m, r, v: steinke.epsilon_lower_bound(
            canaries=m, guesses=r, correct=v, delta=delta, error=error, tolerance=_TOLERANCE
        ),
        "one-run-fdp:eps-delta": lambda m, r, v: fdp.epsilon_lower_bound(
            canaries=m, guesses=r, correct=v, delta=delta, error=error, tolerance=_TOLERANCE
        ),
        "one-run-max": lambda m, r, v: fdp.combined_lower_bound(
            canaries=m, guesses=r, correct=v, delta=delta, error=error, tolerance=_TOLERANCE
        ),
        "one-run-fdp:gaussian": lambda m, r, v: fdp.largest_refuted_parameter(
            family, canaries=m, guesses=r, correct=v, error=error, tolerance=_TOLERANCE
        ),
    }
    return best_guesses(bounds[method], canaries, imagined_mu(interest, delta))


def rank_grid(non_members: int, count: int, method: str = "clopper-pearson") -> list[int]:
    """Return at most `count` ranks in 1..non_members, fixed by the method alone.

    Dense at both ends, where bounds on epsilon are tightest; for gdp, even in the probit of the false-positive rate
    between Phi(-3.3) and one half, where the best threshold for every mu up to 6.6 lies.
    """
    if method == "gdp":
        rates = ndtr(np.linspace(-3.3, 0.0, count)) if count > 1 else np.array([0.5])
        return sorted({min(non_members, max(1, round(non_members * float(rate)))) for rate in rates})
    half = np.geomspace(1, max(1, non_members / 2), max(1, (count + 1) // 2))
    low = {round(r) for r in half}
    high = {non_members + 1 - r for r in low}
    ranks = sorted(low | high) if count > 1 else [max(1, round(non_members / 2))]
    return [ranks[i] for i in np.unique(np.linspace(0, len(ranks) - 1, min(count, len(ranks))).round().astype(int))]


@lru_cache(maxsize=256)
def planned_rank(method: str, members: int, non_members: int, *, delta: float, error: float, interest: float) -> int:
    """Return the rank of the non-member score that serves as threshold, from the design alone.

    Simulates the imagined mechanism with a fixed seed: threshold = the score of that rank, false negatives binomial.

    Args:
        method: "clopper-pearson", "bayes" or "gdp".
        members: Number of member scores.
        non_members: Number of non-member scores.
        delta: Of the bound.
        error: One-sided error probability of the bound.
        interest: The epsilon at which the audit should be tight.
    """
    mu, rng = imagined_mu(interest, delta), np.random.default_rng(20230515)
    draws = _DRAWS if method != "bayes" else 16
    uniform, noise = (rng.permutation((np.arange(draws) + 0.5) / draws) for _ in range(2))
    best, best_value = 1, -1.0
    for rank in rank_grid(non_members, 60 if method != "bayes" else 24):
        fpr = betaincinv(rank, non_members - rank + 1.0, uniform)
        miss = ndtr(-ndtri(fpr) - mu)
        spread = np.sqrt(members * miss * (1 - miss))
        missed = np.clip(np.round(members * miss + spread * ndtri(noise)), 0, members)
        value = _mean_rate_bound(method, rank, missed, (members, non_members), delta, error)
        if value > best_value:
            best, best_value = rank, value
    return best


def _mean_rate_bound(
    method: str, rank: int, missed: Floats, sizes: tuple[int, int], delta: float, error: float
) -> float:
    """Return the mean bound (mean mu for gdp) over the numbers of missed members, at a threshold of that rank."""
    members, non_members = sizes
    if method == "bayes":
        fp, fn = rank - 1, missed.astype(int)
        return float(
            np.mean(
                [
                    credible_lower_bound(
                        tp=members - int(k), fn=int(k), fp=fp, tn=non_members - fp, delta=delta, error=error, nodes=64
                    )
                    for k in fn
                ]
            )
        )
    fpr = float(betaincinv(rank, non_members - rank + 1.0, 1 - error / 2))
    caught = np.maximum(members - missed, 1)
    fnr = np.where(missed < members, betaincinv(missed + 1, caught, 1 - error / 2), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if method == "gdp":
            return float(np.mean(np.maximum(0.0, -ndtri(fpr) - np.where(fnr < 1, ndtri(fnr), np.inf))))
        first = np.where(1 - delta - fnr > 0, np.log(np.maximum(1 - delta - fnr, 1e-300) / fpr), 0.0)
        second = np.where(1 - delta - fpr > 0, np.log(np.maximum(1 - delta - fpr, 1e-300) / fnr), 0.0)
        return float(np.mean(np.maximum(0.0, np.maximum(first, second))))

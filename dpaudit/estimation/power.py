"""The power of an audit, by simulation of the very estimator that will judge it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from dpaudit import _validate
from dpaudit._rng import stream
from dpaudit.estimation.binomial import lower_limit, upper_limit
from dpaudit.estimation.estimate import estimate
from dpaudit.estimation.per_step import per_step_bound
from dpaudit.estimation.thresholds import MULTI_RUN
from dpaudit.records import Bound, BoundStatus, Family, PowerResult, ScoreSet

COUNT_METHODS = (*MULTI_RUN, "one-run", "one-run-fdp", "one-run-max", "independent-canaries")


def simulated_power(
    simulate: Callable[[np.random.Generator], ScoreSet],
    *,
    claim_epsilon: float,
    factor: float,
    alternative_epsilon: float | None,
    method: str,
    delta: float,
    confidence: float = 0.95,
    trials: int = 200,
    seed: int,
    **estimate_options: Any,
) -> PowerResult:
    """Return how often the audit would refute `claim_epsilon` if the mechanism had `alternative_epsilon`.

    Args:
        simulate: Draws the scores that the audit would see under that mechanism, with all its canaries.
        claim_epsilon: The claim that the bound must exceed.
        factor: How many times worse than the claim the simulated mechanism is; copied to the result.
        alternative_epsilon: Epsilon of the simulated mechanism at `delta`; copied to the result.
        method: Estimation method, as for `estimate`.
        delta: Of the claim and the bound.
        confidence: Of each bound.
        trials: Number of simulated audits.
        seed: Root of the streams of the trials.
        **estimate_options: Passed to `estimate`, the same as in the audit.

    Raises: UsageError for an impossible request.
    """
    _validate.positive(claim_epsilon=claim_epsilon, factor=factor)
    _validate.positive_integer(trials=trials)
    hits, bound = 0, None
    first = simulate(stream(seed, "estimation/power", 0))
    for trial in range(trials):
        scores = first if trial == 0 else simulate(stream(seed, "estimation/power", trial))
        bound = estimate(
            scores.member, scores.non_member, method=method, delta=delta, confidence=confidence, **estimate_options
        )
        hits += bound.epsilon is not None and bound.epsilon > claim_epsilon
    if bound is None:
        raise RuntimeError("unreachable: trials >= 1")
    best = perfect_attack(
        first.member.size, first.non_member.size, method=method, delta=delta, confidence=confidence, **estimate_options
    )
    return PowerResult(
        method=method,
        family=bound.family,
        claim_epsilon=claim_epsilon,
        factor=factor,
        alternative_epsilon=alternative_epsilon,
        power=hits / trials,
        power_ci=(lower_limit(hits, trials, 0.025), upper_limit(hits, trials, 0.025)),
        trials=trials,
        largest_certifiable_epsilon=best.epsilon,
        reason=best.reason if best.epsilon is None else None,
    )


def per_step_power(
    observations: int,
    *,
    claimed_noise_multiplier: float,
    actual_noise_multiplier: float,
    claim_epsilon: float,
    factor: float,
    delta: float,
    confidence: float = 0.95,
    method: str = "mean-shift",
    trials: int = 200,
    seed: int,
) -> PowerResult:
    """Return how often the per-step audit would refute `claim_epsilon` if the noise really were the actual one.

    The bound on epsilon exceeds the claim exactly when the bound on 1/sigma exceeds that of the claimed noise, because
    the accountant's epsilon falls with the noise; so the trials need no accountant.

    Args:
        observations: Pairs (step, canary), each with a coin of its own.
        claimed_noise_multiplier: With which the accountant gives `claim_epsilon`.
        actual_noise_multiplier: With which it gives `factor` times `claim_epsilon`.
        claim_epsilon: The claim; copied to the result.
        factor: How many times worse; copied to the result.
        delta: Of the claim.
        confidence: Of each bound.
        method: As for `per_step_bound`.
        trials: Number of simulated audits.
        seed: Root of the streams of the trials.

    Raises: UsageError for an impossible request.
    """
    _validate.positive(claimed_noise_multiplier=claimed_noise_multiplier, claim_epsilon=claim_epsilon)
    _validate.positive(actual_noise_multiplier=actual_noise_multiplier, factor=factor)
    _validate.positive_integer(trials=trials, observations=observations)
    hits, low = 0, -1.0 if method == "mean-shift-signed" else 0.0
    for trial in range(trials):
        rng = stream(seed, "estimation/power/per-step", trial)
        coins = rng.random(observations) < 0.5
        scores = np.where(coins, 1.0, low) + actual_noise_multiplier * rng.normal(size=observations)
        bound = per_step_bound(
            scores[coins], scores[~coins], compose=lambda _: 0.0, delta=delta, confidence=confidence, method=method,
            claimed_noise_multiplier=claimed_noise_multiplier,
        )  # fmt: skip
        hits += bound.mu is not None and bound.mu * claimed_noise_multiplier > 1
    return PowerResult(
        method="per-step",
        family=Family.INDEPENDENT_CANARIES,
        claim_epsilon=claim_epsilon,
        factor=factor,
        alternative_epsilon=factor * claim_epsilon,
        power=hits / trials,
        power_ci=(lower_limit(hits, trials, 0.025), upper_limit(hits, trials, 0.025)),
        trials=trials,
        reason="per-step reads the distances of the scores, which a perfect attack can make as large as it likes",
    )


def perfect_attack(
    members: int, non_members: int, *, method: str, delta: float, confidence: float = 0.95, **estimate_options: Any
) -> Bound:
    """Return the bound that a perfect attack would give: every member above every non-member.

    For methods that fit a distribution to the scores there is no largest value, and `epsilon` is None with the reason.
    """
    member, other = (
        np.arange(members, dtype=np.float64) + members + non_members,
        np.arange(non_members, dtype=np.float64),
    )
    bound = estimate(member, other, method=method, delta=delta, confidence=confidence, **estimate_options)
    if method not in COUNT_METHODS:
        reason = f"{method} reads the distances of the scores, which a perfect attack can make as large as it likes"
        return replace(bound, epsilon=None, mu=None, reason=reason)
    if bound.status is BoundStatus.ASSUMPTION_REFUTED:  # these scores are no draw from the assumed distribution
        assumed = bound.details["epsilon_if_assumed"]
        return replace(bound, epsilon=None if assumed is None else float(assumed), status=BoundStatus.OK)
    return bound

"""The power of an audit, by simulation of the very estimator that will judge it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpaudit import _validate
from dpaudit._rng import stream
from dpaudit.estimation.binomial import lower_limit, upper_limit
from dpaudit.estimation.estimate import estimate
from dpaudit.estimation.per_step import per_step_bound
from dpaudit.estimation.thresholds import MULTI_RUN
from dpaudit.fanout import Executor, Task, run_campaign
from dpaudit.records import Bound, BoundStatus, Family, PowerResult, ScoreSet

TRIALS_PER_TASK = 10
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
    executor: Executor | None = None,
    cache: Path | None = None,
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
        seed: Root of the streams of the trials; each has its own, so that the result is the same wherever they run.
        executor: Where trials run (`dpaudit.fanout`), ten to a task; None for here.
        cache: Folder from which an interrupted simulation goes on; `simulate` must then have a digest.
        **estimate_options: Passed to `estimate`, the same as in the audit.

    Raises: UsageError for an impossible request.
    """
    _validate.positive(claim_epsilon=claim_epsilon, factor=factor)
    _validate.positive_integer(trials=trials)
    audit = {"method": method, "delta": delta, "confidence": confidence, **estimate_options}
    shared = {"simulate": simulate, "audit": audit, "claim_epsilon": claim_epsilon, "root": seed}
    blocks = over_blocks(_audits, trials, shared=shared, executor=executor, cache=cache)
    hits, sizes = sum(block["hits"] for block in blocks), blocks[0]["sizes"]
    best = perfect_attack(*sizes, **audit)
    return PowerResult(
        method=method,
        family=Family(blocks[-1]["family"]),
        claim_epsilon=claim_epsilon,
        factor=factor,
        alternative_epsilon=alternative_epsilon,
        power=hits / trials,
        power_ci=(lower_limit(hits, trials, 0.025), upper_limit(hits, trials, 0.025)),
        trials=trials,
        largest_certifiable_epsilon=best.epsilon,
        reason=best.reason if best.epsilon is None else None,
    )


def over_blocks(
    function: Callable[..., Any],
    trials: int,
    *,
    shared: Mapping[str, Any],
    executor: Executor | None = None,
    cache: Path | None = None,
) -> list[Any]:
    """Return what `function(**shared, block=range)` returns for every block of ten trials, in order."""
    blocks = [range(at, min(at + TRIALS_PER_TASK, trials)) for at in range(0, trials, TRIALS_PER_TASK)]
    tasks = [Task(name=f"trials from {b.start}", function=function, arguments={"block": b}) for b in blocks]
    return list(run_campaign(tasks, executor=executor, shared=shared, cache=cache).values())


def _audits(
    simulate: Callable[[np.random.Generator], ScoreSet],
    audit: Mapping[str, Any],
    claim_epsilon: float,
    root: int,
    block: range,
) -> dict[str, Any]:
    """Run a block of simulated audits; return how many refute the claim, sizes of the first, family of the last."""
    hits = 0
    for trial in block:
        scores = simulate(stream(root, "estimation/power", trial))
        bound = estimate(scores.member, scores.non_member, **audit)
        hits += bound.epsilon is not None and bound.epsilon > claim_epsilon
        if trial == block[0]:
            sizes = (scores.member.size, scores.non_member.size)
    return {"hits": int(hits), "sizes": sizes, "family": bound.family.value}


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
    executor: Executor | None = None,
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
        executor: Where trials run; None for here.

    Raises: UsageError for an impossible request.
    """
    _validate.positive(claimed_noise_multiplier=claimed_noise_multiplier, claim_epsilon=claim_epsilon)
    _validate.positive(actual_noise_multiplier=actual_noise_multiplier, factor=factor)
    _validate.positive_integer(trials=trials, observations=observations)
    audit = {
        "delta": delta, "confidence": confidence, "method": method,
        "claimed_noise_multiplier": claimed_noise_multiplier,
    }  # fmt: skip
    shared = {"observations": observations, "noise": actual_noise_multiplier, "audit": audit, "root": seed}
    hits = sum(over_blocks(_per_step_audits, trials, shared=shared, executor=executor))
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


def _per_step_audits(observations: int, noise: float, audit: Mapping[str, Any], root: int, block: range) -> int:
    """Run a block of simulated per-step audits; return how many refute the claim."""
    hits, low = 0, -1.0 if audit["method"] == "mean-shift-signed" else 0.0
    for trial in block:
        rng = stream(root, "estimation/power/per-step", trial)
        coins = rng.random(observations) < 0.5
        scores = np.where(coins, 1.0, low) + noise * rng.normal(size=observations)
        bound = per_step_bound(scores[coins], scores[~coins], compose=lambda _: 0.0, **audit)
        hits += bound.mu is not None and bound.mu * audit["claimed_noise_multiplier"] > 1
    return int(hits)


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

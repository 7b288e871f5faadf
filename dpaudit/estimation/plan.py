"""How many canaries (or models) an audit needs, by simulation of the very estimator that will judge it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.estimation.assumptions import INDEPENDENT_RUNS
from dpaudit.estimation.estimate import METHODS
from dpaudit.estimation.power import per_step_power, simulated_power
from dpaudit.estimation.reference import Mechanism, gaussian
from dpaudit.estimation.rules import interest_of_group, planned_guesses
from dpaudit.estimation.thresholds import MULTI_RUN
from dpaudit.fanout import Executor
from dpaudit.gdp import gdp_mu
from dpaudit.records import PowerResult

_SMALLEST = 16
_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The smallest audit that reaches the wanted power; `canaries` None with a reason when none up to the limit does.

    For the multi-run methods a "canary" is a model: `canaries` models, each trained with or without the target by
    a coin.
    """

    method: str
    canaries: int | None
    guesses: int | None
    interest_epsilon: float
    result: PowerResult
    reason: str | None = None


def plan_audit(
    *,
    claim_epsilon: float,
    delta: float,
    method: str,
    power: float = 0.8,
    factor: float = 2.0,
    confidence: float = 0.95,
    curve: str = "eps-delta",
    group_size: int = 1,
    mechanism: Mechanism | None = None,
    max_canaries: int = 200_000,
    trials: int = 200,
    seed: int = 0,
    executor: Executor | None = None,
) -> Plan:
    """Return the number of canaries with which `method` refutes the claim with probability `power`.

    Simulates a mechanism that is `factor` times worse than claimed (by default the Gaussian mechanism of exactly
    factor * claim_epsilon at `delta`), draws coins and scores, and runs `estimate` as the audit would, planned for that
    epsilon. The number found is within 10 % of the smallest, up to the noise of `trials` simulations.

    Args:
        claim_epsilon: The claim to be refuted.
        delta: Of claim and bound.
        method: As for `estimate`.
        power: Wanted probability of a refutation, in (0, 1).
        factor: How many times worse the mechanism is, > 1.
        confidence: Of the bound.
        curve: For one-run-fdp.
        group_size: Copies of each canary (or of the target); the Gaussian mechanism tells groups of k by k mu.
        mechanism: What to simulate instead of the Gaussian mechanism; with `group_size`, of the whole group.
        max_canaries: Where the search ends.
        trials: Simulated audits per number of canaries.
        seed: Root of all streams.
        executor: Where the simulated audits run (`dpaudit.fanout`); None for here.

    Raises: UsageError for an impossible request.
    """
    _validate.one_of(tuple(METHODS), method=method)
    _validate.positive(claim_epsilon=claim_epsilon)
    _validate.open_unit_interval(power=power, delta=delta)
    _validate.positive_integer(max_canaries=max_canaries, trials=trials, group_size=group_size)
    _check_factor(factor)
    alternative = factor * claim_epsilon
    worse = mechanism or gaussian(group_size * float(gdp_mu(alternative, delta)))
    audit: dict[str, Any] = {
        "claim_epsilon": claim_epsilon,
        "factor": factor,
        "alternative_epsilon": alternative,
        "method": method,
        "delta": delta,
        "confidence": confidence,
        "trials": trials,
        "seed": seed,
        "curve": curve,
        "group_size": group_size,
        "interest_epsilon": alternative,
        "declared": (INDEPENDENT_RUNS,) if method in MULTI_RUN else (),
        "executor": executor,
    }

    def at(canaries: int) -> PowerResult:
        return simulated_power(partial(worse.draw, canaries), **audit)

    canaries, result = _search(at, power, max_canaries)
    reason = None if canaries else _out_of_reach(max_canaries, result.power, power)
    interest = interest_of_group(alternative, delta, group_size)
    return Plan(
        method=method,
        canaries=canaries,
        guesses=_guesses(method, curve, canaries or max_canaries, delta, 1 - confidence, interest),
        interest_epsilon=alternative,
        result=result,
        reason=reason,
    )


def plan_per_step(
    *,
    claim_epsilon: float,
    delta: float,
    claimed_noise_multiplier: float,
    actual_noise_multiplier: float,
    power: float = 0.8,
    factor: float = 2.0,
    confidence: float = 0.95,
    max_observations: int = 2_000_000,
    trials: int = 200,
    seed: int = 0,
    executor: Executor | None = None,
) -> Plan:
    """Return the number of (step, canary) pairs with which the per-step audit refutes the claim with that `power`.

    The two noise multipliers are those for which the accountant gives `claim_epsilon` and `factor` times it, with the
    sampler and the steps of the run. `canaries` of the plan counts pairs: divide by the number of steps.

    Raises: UsageError for an impossible request.
    """
    _validate.open_unit_interval(power=power, delta=delta)
    _validate.positive_integer(max_observations=max_observations)
    _check_factor(factor)

    def at(observations: int) -> PowerResult:
        return per_step_power(
            observations, claimed_noise_multiplier=claimed_noise_multiplier,
            actual_noise_multiplier=actual_noise_multiplier, claim_epsilon=claim_epsilon, factor=factor, delta=delta,
            confidence=confidence, trials=trials, seed=seed, executor=executor,
        )  # fmt: skip

    found, result = _search(at, power, max_observations)
    reason = None if found else _out_of_reach(max_observations, result.power, power)
    return Plan(
        method="per-step", canaries=found, guesses=None, interest_epsilon=factor * claim_epsilon, result=result,
        reason=reason,
    )  # fmt: skip


def _check_factor(factor: float) -> None:
    if not factor > 1:
        raise UsageError(f"factor must exceed 1: what is no worse than claimed is not refuted; got {factor!r}.")


def _out_of_reach(canaries: int, found: float | None, wanted: float) -> str:
    remedy = "Use a tighter method, a larger factor, or several runs."
    return f"{canaries} canaries give power {found or 0.0:.2f}, and {wanted:g} is wanted. {remedy}"


def _search(at: Callable[[int], PowerResult], wanted: float, limit: int) -> tuple[int | None, PowerResult]:
    """Double until the power is reached, then narrow on the logarithmic scale."""
    low, high = 0, min(_SMALLEST, limit)
    result = at(high)
    while (result.power or 0.0) < wanted:
        if high >= limit:
            return None, result
        low, high = high, min(2 * high, limit)
        result = at(high)
    for _ in range(_STEPS):
        if not low or high <= 1.1 * low:
            break
        middle = _round(math.sqrt(low * high))
        if not low < middle < high:
            break
        found = at(middle)
        if (found.power or 0.0) >= wanted:
            high, result = middle, found
        else:
            low = middle
    return high, result


def _round(value: float) -> int:
    """Round up to two significant digits."""
    step = int(10 ** max(0, math.floor(math.log10(value)) - 1))
    return math.ceil(value / step) * step


def _guesses(method: str, curve: str, canaries: int, delta: float, error: float, interest: float) -> int | None:
    names = {
        "one-run": "one-run",
        "one-run-max": "one-run-max",
        "one-run-fdp": f"one-run-fdp:{curve}",
        "independent-canaries": "independent-canaries",
    }
    if method not in names:
        return None
    return planned_guesses(names[method], canaries, delta=delta, error=error, interest=interest)

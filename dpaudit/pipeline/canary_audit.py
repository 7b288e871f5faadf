"""The canary audit: scores from observations, joined with the coins, turned into lower bounds and their power."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, estimation
from dpaudit.attacks import canary
from dpaudit.config import RunConfig
from dpaudit.errors import CannotCalibrate
from dpaudit.fanout import Executor
from dpaudit.pipeline.design import Design, noise_for, secret_sampling_rate
from dpaudit.records import Bound, Family, PowerResult, ScoreSet

FAMILIES = {
    "one-run": Family.ASSUMPTION_FREE,
    "one-run-fdp": Family.ASSUMPTION_FREE,
    "one-run-max": Family.ASSUMPTION_FREE,
    "mean-shift": Family.INDEPENDENT_CANARIES,
}


def score_methods(config: RunConfig) -> tuple[str, ...]:
    """Return the configured methods that work on one score per canary."""
    return tuple(method for method in config.audit.methods if method in FAMILIES)


def sharing_error(config: RunConfig, *, among: int) -> RunConfig:
    """Return the configuration with the error of its bounds shared among so many: each holds with more confidence.

    The gate fails a run for the largest of all bounds. Were each of k sets of canaries to err in 5 % of honest runs,
    up to k times 5 % of honest runs would fail.
    """
    if among <= 1:
        return config
    confidence = 1 - (1 - config.audit.confidence) / among
    return config.model_copy(update={"audit": config.audit.model_copy(update={"confidence": confidence})})


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryView:
    """What the auditor sees of the canaries, coins apart: noisy sums and who could take part, both (rounds, m)."""

    observations: NDArray[np.float32]
    eligible: NDArray[np.bool_]


def score_canaries(config: RunConfig, design: Design, view: CanaryView) -> NDArray[np.float64]:
    """Return one log-likelihood-ratio score per canary; the coins are not an input."""
    return canary.llr_scores(
        view.observations,
        view.eligible,
        noise_multiplier=design.noise_multiplier,
        secret_sampling_rate=secret_sampling_rate(config),
    )


def join(scores: NDArray[np.float64], coins: NDArray[np.bool_]) -> ScoreSet:
    """Split the scores by the coins; only here do the two meet."""
    return ScoreSet(member=scores[coins], non_member=scores[~coins])


def _options(config: RunConfig, method: str) -> dict[str, Any]:
    """Return how `method` is run: the same for the audit and for the simulation of its power.

    The number of guesses is fixed by the configuration, or by the planning rule for the claim: never by scores.
    """
    return {
        "method": method,
        "delta": config.claim.delta,
        "confidence": config.audit.confidence,
        "guesses": config.audit.guesses if method.startswith("one-run") else None,
        "interest_epsilon": config.claim.epsilon,
        "relation": config.claim.relation,
        "declared": ("fair-coins",),
    }


def lower_bounds(config: RunConfig, scores: ScoreSet, *, root: int) -> tuple[Bound, ...]:
    """Return one lower bound on epsilon per configured method on scores."""
    return bounds_of(config, score_methods(config), scores, seed=_rng.seed_of(root, "estimation"))


def bounds_of(config: RunConfig, methods: tuple[str, ...], scores: ScoreSet, *, seed: int) -> tuple[Bound, ...]:
    """Return one lower bound on epsilon per method."""
    return tuple(
        estimation.estimate(scores.member, scores.non_member, seed=seed, **_options(config, method))
        for method in methods
    )


def _simulated_scores(
    rng: np.random.Generator, config: RunConfig, design: Design, view: CanaryView, noise_multiplier: float
) -> ScoreSet:
    """Draw the scores that this audit would see if the noise really were `noise_multiplier`."""
    coins = np.asarray(rng.random(view.eligible.shape[1]) < 0.5)
    takes_part = (
        view.eligible & coins & (rng.random(view.eligible.shape, dtype=np.float32) < secret_sampling_rate(config))
    )
    noise = rng.standard_normal(view.eligible.shape, dtype=np.float32) * np.float32(noise_multiplier)
    simulated = CanaryView(observations=takes_part + noise, eligible=view.eligible)
    return join(score_canaries(config, design, simulated), coins)


def power(
    config: RunConfig,
    design: Design,
    view: CanaryView,
    *,
    root: int,
    inflation: float = 1.0,
    executor: Executor | None = None,
    cache: Path | None = None,
) -> tuple[PowerResult, ...]:
    """Return, per method, how often this very audit would refute the claim if epsilon were `detect_factor` times it.

    `inflation` is the noise of the sum over that of the whole round (above 1 with adaptive clipping). The simulated
    audits run on `executor`, and `cache` keeps those that are done.
    """
    return powers_of(
        config, design, score_methods(config), partial(_simulated_scores, config=config, design=design, view=view),
        seed=_rng.seed_of(root, "power"), inflation=inflation, executor=executor, cache=cache,
    )  # fmt: skip


def powers_of(
    config: RunConfig,
    design: Design,
    methods: tuple[str, ...],
    simulate: Callable[..., ScoreSet],
    *,
    seed: int,
    inflation: float,
    executor: Executor | None = None,
    cache: Path | None = None,
) -> tuple[PowerResult, ...]:
    """Return the power of each method; `simulate(rng, noise_multiplier=z)` draws scores. See `power`."""
    claim, factor = config.claim.epsilon, config.audit.detect_factor
    if not methods:
        return ()
    try:
        weaker_noise = inflation * noise_for(config, factor * claim, slots=design.slots)
    except CannotCalibrate as error:
        return tuple(no_power(config, method, str(error)) for method in methods)
    return tuple(
        estimation.simulated_power(
            partial(simulate, noise_multiplier=weaker_noise),
            claim_epsilon=claim,
            factor=factor,
            alternative_epsilon=factor * claim,
            trials=config.audit.power_trials,
            seed=seed,
            executor=executor,
            cache=cache,
            **_options(config, method),
        )
        for method in methods
    )


def no_power(config: RunConfig, method: str, reason: str) -> PowerResult:
    """Return that the power of a method is not known, and why."""
    return PowerResult(
        method=method, family=FAMILIES[method], claim_epsilon=config.claim.epsilon, factor=config.audit.detect_factor,
        alternative_epsilon=None, power=None, reason=reason,
    )  # fmt: skip

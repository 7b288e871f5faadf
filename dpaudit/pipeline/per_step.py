"""The per-step audit: one coin per (round, canary) gives a bound on the noise of a step, composed by the accountant.

In every round each canary takes part or not by a coin of its own. Given the coins, the noised sums on the canaries'
coordinates are Gaussian with means 1 and 0 (in clip norms) and one variance, so the noncentral t gives a lower
confidence bound on mu = clip norm / noise of one step (Nasr et al. 2023, arXiv:2302.07956, with a t statistic in place
of a threshold). The accountant then says what epsilon a run of such steps has, with the sampler of the ledger.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, accounting, estimation
from dpaudit.config import DISTRIBUTED_NOISE, RunConfig
from dpaudit.errors import CannotCalibrate
from dpaudit.estimation.binomial import lower_limit, upper_limit
from dpaudit.estimation.power import over_blocks
from dpaudit.fanout import Executor
from dpaudit.pipeline.design import attained_event, noise_for
from dpaudit.records import Bound, Family, PowerResult

METHOD = "per-step"


def _bound(
    config: RunConfig,
    inside: NDArray[np.floating],
    outside: NDArray[np.floating],
    compose: Callable[[float], float],
    seed: int,
) -> Bound:
    return estimation.per_step_bound(
        inside,
        outside,
        compose=compose,
        delta=config.claim.delta,
        confidence=config.audit.confidence,
        relation=config.claim.relation,
        declared=("iid-steps",),
        seed=seed,
    )


def _attaining(config: RunConfig, epsilon: float, slots: int) -> float:
    """Return the noise multiplier below which the bound of this audit exceeds `epsilon`."""
    if config.training.sampler != "poisson-padded" and config.training.aggregator not in DISTRIBUTED_NOISE:
        return noise_for(config, epsilon, slots=slots)
    return accounting.calibrate_event(
        epsilon,
        config.claim.delta,
        lambda z: attained_event(config, z, slots=slots),
        accountant="pld",
        relation=config.claim.relation,
    )


def lower_bound(
    config: RunConfig,
    observations: NDArray[np.floating],
    participation: NDArray[np.bool_],
    *,
    root: int,
    slots: int = 0,
) -> Bound:
    """Return a lower bound on the epsilon of the run from noised sums (rounds, m) and who took part (rounds, m)."""
    values = np.asarray(observations)

    def compose(noise_multiplier: float) -> float:
        return accounting.epsilon(attained_event(config, noise_multiplier, slots=slots), config.claim.delta)

    seed = _rng.seed_of(root, "estimation/per-step")
    return _bound(config, values[participation], values[~participation], compose, seed)


def power(
    config: RunConfig,
    participation: NDArray[np.bool_],
    *,
    root: int,
    inflation: float = 1.0,
    slots: int = 0,
    executor: Executor | None = None,
    cache: Path | None = None,
) -> PowerResult:
    """Return how often this audit would refute the claim if epsilon were `detect_factor` times it, by simulation.

    The bound on epsilon exceeds the claim exactly when the bound on mu exceeds that of the claim, because epsilon
    grows with mu; so the trials need no accountant. `inflation` is the noise of the sum over that of the whole round.
    The trials run on `executor`, and `cache` keeps those that are done.
    """
    claim, factor = config.claim.epsilon, config.audit.detect_factor
    result = PowerResult(
        method=METHOD, family=Family.INDEPENDENT_CANARIES, claim_epsilon=claim, factor=factor,
        alternative_epsilon=None, power=None, reason="not simulated",
    )  # fmt: skip
    try:
        claimed = _attaining(config, claim, slots)
        weaker = inflation * noise_for(config, factor * claim, slots=slots)
    except CannotCalibrate as error:
        return replace(result, reason=str(error))
    inside = int(np.count_nonzero(participation))
    sizes, trials = (inside, participation.size - inside), config.audit.power_trials
    shared = {"config": config, "sizes": sizes, "noise": weaker, "claimed": claimed, "root": root}
    hits = sum(over_blocks(_audits, trials, shared=shared, executor=executor, cache=cache))
    return replace(
        result,
        alternative_epsilon=factor * claim,
        power=hits / trials,
        power_ci=(lower_limit(hits, trials, 0.025), upper_limit(hits, trials, 0.025)),
        trials=trials,
        reason=None,
    )


def _audits(config: RunConfig, sizes: tuple[int, int], noise: float, claimed: float, root: int, block: range) -> int:
    """Run a block of simulated audits with `sizes` pairs inside and outside; return how many refute the claim."""
    hits, inside = 0, sizes[0]
    for trial in block:
        rng = _rng.stream(root, "power/per-step", trial)
        drawn = rng.standard_normal(sum(sizes), dtype=np.float32) * np.float32(noise)
        bound = _bound(config, 1 + drawn[:inside], drawn[inside:], lambda _: 0.0, trial)
        hits += bound.mu is not None and bound.mu * claimed > 1
    return int(hits)

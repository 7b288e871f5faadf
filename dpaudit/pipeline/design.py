"""What a run will do, decided before training: the event of one round and the noise that reaches the claim."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy.special import bdtrc

from dpaudit import accounting, events
from dpaudit.config import DISTRIBUTED_NOISE, RunConfig
from dpaudit.errors import UsageError
from dpaudit.federated import mechanism

_AS_GAUSSIAN = 1.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The mechanism of a run: `noise_multiplier`, and the event of `rounds_per_event` rounds.

    `slots` are the units and canaries that samplers choose among (0: not known; Poisson sampling does without).
    """

    noise_multiplier: float
    round_event: events.Event
    rounds_per_event: int = 1
    slots: int = 0


def whole_event(config: RunConfig, noise_multiplier: float, *, slots: int = 0) -> events.Event:
    """Return the event of all rounds with the given noise multiplier."""
    return mechanism.whole_event(config.training, noise_multiplier, slots=slots)


def attained_event(config: RunConfig, noise_multiplier: float, *, slots: int = 0) -> events.Event:
    """Return an event that the run's mechanism attains on some data, for lower bounds: never more than it leaks.

    That of the accountant, but for what the accountant has an upper bound for only. In cut Poisson samples a unit is in
    with some probability, and then shifts a coordinate of its own by one clip norm: Poisson sampling at that
    probability. Integer noise of a hundred steps or more hides a whole number of steps on one coordinate as Gaussian
    noise does, to within a few parts in ten thousand: Gaussian noise that is a thousandth larger stands for it.
    """
    training = config.training
    if training.aggregator in DISTRIBUTED_NOISE:
        gaussian = events.Gaussian(noise_multiplier=noise_multiplier * _AS_GAUSSIAN)
        return mechanism.repeated(training, mechanism.sampled(training, gaussian, slots=slots))
    event = mechanism.round_event(training, noise_multiplier, slots=slots)
    if not isinstance(event, events.TruncatedPoissonGaussian):
        return whole_event(config, noise_multiplier, slots=slots)
    n, q, limit = event.dataset_size, event.sampling_rate, event.max_batch_size
    kept = sum(bdtrc(size, n, q) for size in range(limit)) / n  # E[min(size of the sample, limit)] / n
    inner = events.Gaussian(noise_multiplier=noise_multiplier)
    step = events.PoissonSampled(sampling_rate=float(min(q, kept)), event=inner)
    return events.SelfComposed(event=step, count=training.rounds)


def noise_for(config: RunConfig, epsilon: float, *, slots: int = 0) -> float:
    """Return the smallest noise multiplier (safe side) with which the run's mechanism reaches `epsilon`.

    By PLD, or by RDP for integer noise, for which no privacy loss distribution is known.

    Raises: CannotCalibrate when no noise multiplier reaches it.
    """
    return accounting.calibrate_event(
        epsilon,
        config.claim.delta,
        lambda z: whole_event(config, z, slots=slots),
        accountant="rdp" if config.training.aggregator in DISTRIBUTED_NOISE else "pld",
        relation=config.claim.relation,
    )


def make_design(config: RunConfig, *, slots: int = 0) -> Design:
    """Fix the noise multiplier: the configured one, or the one calibrated to the claim."""
    wanted = config.training.noise_multiplier
    noise = noise_for(config, config.claim.epsilon, slots=slots) if wanted == "calibrate" else wanted
    return Design(
        noise_multiplier=noise,
        round_event=mechanism.round_event(config.training, noise, slots=slots),
        rounds_per_event=mechanism.rounds_per_event(config.training),
        slots=slots,
    )


def epsilon_after(design: Design, delta: float) -> Callable[[int], float]:
    """Return a function from rounds done to epsilon so far; a pass or tree that has begun counts as a whole one."""
    running = accounting.RunningEpsilon(design.round_event, delta)
    return lambda done: running.after(-(-done // design.rounds_per_event))


def check_delta(config: RunConfig, units: int) -> None:
    """Raise UsageError unless delta < 1 / (number of protected units): a larger one allows publishing a record."""
    if config.claim.delta * units >= 1:
        raise UsageError(
            f"claim.delta must be smaller than 1/N = {1 / units:.2e} (N = {units} {config.claim.unit.value}s); "
            f"got {config.claim.delta:g}. A larger delta allows a mechanism that publishes a whole record."
        )


def secret_sampling_rate(config: RunConfig) -> float:
    """Return the rate of the coin that an adversary cannot see: per example, or per client for client-level privacy.

    1 where cohorts are accounted for as if everybody knew them.
    """
    return 1.0 if config.training.public_cohort else config.training.unit_rate


def ledger_facts(config: RunConfig, design: Design) -> dict[str, Any]:
    """Return what the header of the ledger says about the plan beyond what the trainer knows."""
    return {
        "claimed_epsilon": config.claim.epsilon,
        "claimed_delta": config.claim.delta,
        "relation": config.claim.relation,
        "calibrated": config.training.noise_multiplier == "calibrate",
        "noise_multiplier": design.noise_multiplier,
    }

"""What a run will do, decided before training: the event of one round and the noise that reaches the claim."""

from dataclasses import dataclass
from typing import Any

from dpaudit import accounting, events
from dpaudit.config import RunConfig
from dpaudit.errors import UsageError
from dpaudit.federated.mechanism import round_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The mechanism of a run: `noise_multiplier` and the event of one round."""

    noise_multiplier: float
    round_event: events.Event


def whole_event(config: RunConfig, noise_multiplier: float) -> events.Event:
    """Return the event of all rounds with the given noise multiplier."""
    event = round_event(config.training, noise_multiplier)
    return events.SelfComposed(event=event, count=config.training.rounds)


def noise_for(config: RunConfig, epsilon: float) -> float:
    """Return the smallest noise multiplier (safe side) with which the run's mechanism reaches `epsilon` by PLD.

    Raises: CannotCalibrate when no noise multiplier reaches it.
    """
    return accounting.calibrate_event(
        epsilon,
        config.claim.delta,
        lambda z: whole_event(config, z),
        accountant="pld",
        relation=config.claim.relation,
    )


def make_design(config: RunConfig) -> Design:
    """Fix the noise multiplier: the configured one, or the one calibrated to the claim."""
    wanted = config.training.noise_multiplier
    noise = noise_for(config, config.claim.epsilon) if wanted == "calibrate" else wanted
    return Design(noise_multiplier=noise, round_event=round_event(config.training, noise))


def check_delta(config: RunConfig, units: int) -> None:
    """Raise UsageError unless delta < 1 / (number of protected units): a larger one allows publishing a record."""
    if config.claim.delta * units >= 1:
        raise UsageError(
            f"claim.delta must be smaller than 1/N = {1 / units:.2e} (N = {units} {config.claim.unit.value}s); "
            f"got {config.claim.delta:g}. A larger delta allows a mechanism that publishes a whole record."
        )


def secret_sampling_rate(config: RunConfig) -> float:
    """Return the rate of the coin that an adversary cannot see: per example, or per client for client-level privacy."""
    training = config.training
    return training.example_sampling_rate if training.algorithm == "dp-fedsgd" else training.client_sampling_rate


def ledger_facts(config: RunConfig, design: Design) -> dict[str, Any]:
    """Return what the header of the ledger says about the plan beyond what the trainer knows."""
    return {
        "claimed_epsilon": config.claim.epsilon,
        "claimed_delta": config.claim.delta,
        "relation": config.claim.relation,
        "calibrated": config.training.noise_multiplier == "calibrate",
        "noise_multiplier": design.noise_multiplier,
    }

"""Our own federated server as a step under test: screening, clipping, summing and noising as they really run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpaudit import config
from dpaudit.federated.aggregation import Aggregator, aggregator_of
from dpaudit.federated.canaries import NO_CANARIES
from dpaudit.federated.clipping import Block
from dpaudit.federated.distributed_noise import SharesNoise
from dpaudit.federated.optimizers import Sgd
from dpaudit.federated.rounds import Plan
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Server
from dpaudit.ledger import PrivacyLedger
from dpaudit.verification._step_types import Batch, Step

_ROOM = 4
"""Size of the population in batches: the test adds units and doubles the batch, and strangers would be rejected."""


def adapts_its_clip(aggregator: Aggregator, *, width: int) -> bool:
    """Say whether the clip norm of an aggregator is another one after a round (of nobody)."""
    if isinstance(aggregator, SharesNoise):  # nobody brings no noise, so that nothing is released
        return False
    state = aggregator.start(width=width, root=0)
    total = aggregator.clipped_sum(np.zeros((0, width), np.float32), width=width, state=state)
    after = aggregator.noised(total, state=state, root=0, number=0, attempt=0).state
    return aggregator.clip_norm_of(after) != aggregator.clip_norm_of(state)


def server_step(
    *,
    noise_multiplier: float = 1.0,
    clip_norm: float = 1.0,
    algorithm: config.Algorithm = "dp-fedavg",
    aggregator: config.Aggregator = "gaussian",
    noise_factor: float = 1.0,
    dimension: int = 8000,
    units: int = 24,
) -> Step:
    """Return one round of our server as a step; the release is the vector that the model is updated with.

    Args:
        noise_multiplier: what the aggregator is set to.
        clip_norm: what contributions are clipped to.
        algorithm: `dp-fedavg`, or `dp-ftrl` for the noise of trees.
        aggregator: `gaussian`, or one of tensorflow-privacy (`tfp-gaussian`, `tfp-adaptive-clip`, `tfp-tree`). With
            adaptive clipping the next clip norm is under test, too, and nothing is said about what one round leaves
            for the next: the clip norm depends on it by design, and that is paid for.
        noise_factor: planted fault: scales the noise behind the server's back.
        dimension: parameters of the model.
        units: clients of the ordinary batch.
    """
    training = config.TrainingSection.model_validate(
        {"algorithm": algorithm, "rounds": 4, "client_sampling_rate": 1.0, "clip_norm": clip_norm,
         "aggregator": aggregator}
    )  # fmt: skip
    rows = np.random.default_rng(0).normal(0, 2 * clip_norm / np.sqrt(dimension), (units, dimension))
    population = Population(clients=_ROOM * units, client_of=None)  # fixed and public, whoever comes
    noise = aggregator_of(
        training, noise_multiplier=noise_multiplier, noise_factor=noise_factor, expected=float(units)
    )  # fmt: skip

    def server_of(seed: int) -> Server:
        return Server(
            Plan(training=training, population=population, canaries=NO_CANARIES, root=seed, direction=-1.0),
            aggregator=noise,
            optimizer=Sgd(1.0),
            weights=np.zeros(dimension),
            ledger=PrivacyLedger(),
        )

    def rounds(batches: Sequence[Batch], seed: int) -> Server:
        """Run rounds 0, 1, ... on these batches, each from the initial weights; only the aggregator's state goes on."""
        server = server_of(seed)
        for number, batch in enumerate(batches):
            server.weights, server.optimizer = np.zeros(dimension), Sgd(1.0)
            block = Block(units=np.arange(len(batch[0])), rows=batch[0])
            server.apply(server.release(server.collect(server.cohort(number), [block])))
        return server

    def run(batch: Batch, seed: int, number: int = 0) -> list[Any]:
        return [rounds([batch] * (number + 1), seed).weights]

    def next_clip(batch: Batch, seed: int) -> float:
        server = rounds([batch], seed)
        return noise.clip_norm_of(server.aggregator_state)

    adaptive = adapts_its_clip(noise, width=dimension)
    return Step(
        run=run,
        batch=(rows.astype(np.float32),),
        clip_norm=clip_norm,
        replays=lambda batch, seed: {f"round {number}": run(batch, seed, number) for number in range(3)},
        second=None if adaptive else lambda first, second, seed: [rounds([first, second], seed).weights],
        next_clip=next_clip if adaptive else None,
    )

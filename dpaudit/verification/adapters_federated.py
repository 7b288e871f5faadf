"""Our own federated server as a step under test: screening, clipping, summing and noising as they really run."""

from typing import Any

import numpy as np

from dpaudit.config import Aggregator, TrainingSection
from dpaudit.federated.aggregation import make_aggregator
from dpaudit.federated.canaries import NO_CANARIES
from dpaudit.federated.clipping import Block
from dpaudit.federated.optimizers import Sgd
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Plan, Server
from dpaudit.ledger import PrivacyLedger
from dpaudit.verification._step_types import Batch, Step


def server_step(
    *,
    noise_multiplier: float = 1.0,
    clip_norm: float = 1.0,
    aggregator: Aggregator = "gaussian",
    noise_factor: float = 1.0,
    dimension: int = 8000,
    units: int = 24,
) -> Step:
    """Return one round of our server as a step; the release is the vector that the model is updated with.

    Args:
        noise_multiplier: what the aggregator is set to.
        clip_norm: what contributions are clipped to.
        aggregator: `gaussian`, or `tfp-gaussian` (needs tensorflow-privacy).
        noise_factor: planted fault: scales the noise behind the server's back.
        dimension: parameters of the model.
        units: clients of the ordinary batch.
    """
    training = TrainingSection(algorithm="dp-fedavg", rounds=4, client_sampling_rate=1.0, clip_norm=clip_norm)
    rows = np.random.default_rng(0).normal(0, 2 * clip_norm / np.sqrt(dimension), (units, dimension))

    def run(batch: Batch, seed: int, number: int = 0) -> list[Any]:
        plan = Plan(
            training=training,
            population=Population(clients=units, client_of=None),  # fixed and public, whoever comes
            canaries=NO_CANARIES,
            root=seed,
            direction=-1.0,
        )
        server = Server(
            plan,
            aggregator=make_aggregator(
                aggregator, clip_norm=clip_norm, noise_multiplier=noise_multiplier, noise_factor=noise_factor
            ),
            optimizer=Sgd(1.0),
            weights=np.zeros(dimension),
            ledger=PrivacyLedger(),
        )
        block = Block(units=np.arange(len(batch[0])), rows=batch[0])
        server.apply(server.release(server.collect(server.cohort(number), [block])))
        return [server.weights]

    return Step(
        run=run,
        batch=(rows.astype(np.float32),),
        clip_norm=clip_norm,
        replays=lambda batch, seed: {f"round {number}": run(batch, seed, number) for number in range(3)},
    )

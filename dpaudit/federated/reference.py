"""Reference models: what an attacker who knows the algorithm trains on data of their own, to calibrate scores.

Each is trained by the same client and server code as the run itself (same clip, noise and rounds, without canaries
and without files), on a random half of the pool of candidates, and evaluated on the whole pool (Carlini et al.,
arXiv:2112.03570: "likelihood ratio attack").
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate
from dpaudit.config import RunConfig
from dpaudit.errors import UsageError
from dpaudit.federated import clients, engine, models
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.canaries import NO_CANARIES
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.partition import renumber
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Plan, Server
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Unit

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def balanced_masks(rng: np.random.Generator, *, models_count: int, units: int) -> Bools:
    """Return (models, units): every unit is in half of the models, which half is random; odd counts round by coin."""
    order = np.argsort(rng.random((models_count, units)), axis=0)
    spare = rng.random(units) < 0.5
    inside = models_count // 2 + (models_count % 2) * spare
    return np.asarray(order < inside)


def make_pool(config: RunConfig, data: FederatedData, *, root: int) -> tuple[Dataset, NDArray[np.int64], int]:
    """Stack training and hold-out data; return them with the unit of each example and the number of units.

    Example level: a hold-out example is given a random client, as if it had been dealt out with the others.
    Client level: hold-out devices follow the training devices.
    """
    train, holdout = data.train, data.holdout
    if train.client is None:
        raise UsageError("the training data must say which client holds each example.")
    if config.claim.unit == Unit.EXAMPLE:
        dealt = _rng.stream(root, "reference-clients").integers(data.clients, size=holdout.y.size)
        client = np.concatenate([train.client, dealt.astype(np.int32)])
        unit, units = np.arange(client.size), int(client.size)
    else:
        if holdout.client is None:
            raise UsageError("the hold-out data must say which device holds each example.")
        client = np.concatenate([train.client, holdout.client + np.int32(data.clients)])
        unit, units = client.astype(np.int64), int(client.max()) + 1
    x, y = np.concatenate([train.x, holdout.x]), np.concatenate([train.y, holdout.y])
    return replace(train, x=x, y=y, client=client, name=f"{train.name} (pool)"), unit, units


def _train_one(
    config: RunConfig, functions: clients.ClientFunctions, data: Dataset, weights: NDArray[np.float64], *,
    root: int, noise_multiplier: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Train on `data` with the algorithm of the run and return the final weights."""
    training = config.training
    owner, count = renumber(np.asarray(data.client))
    data = replace(data, client=owner)
    runner = engine.make_engine(functions, data, training, root=root)
    example_level = config.claim.unit == Unit.EXAMPLE
    plan = Plan(
        training=training,
        population=Population(clients=count, client_of=owner if example_level else None),
        canaries=NO_CANARIES,
        root=root,
        direction=runner.direction,
    )
    server = Server(
        plan,
        aggregator=GaussianSum(clip_norm=training.clip_norm, noise_multiplier=noise_multiplier),
        optimizer=make_optimizer(training),
        weights=weights,
        ledger=PrivacyLedger(note="reference model of an attack; not the released model"),
    )
    for number in range(training.rounds):
        server.run_round(number, runner.run_cohort)
    return server.weights


def reference_logits(
    config: RunConfig, data: FederatedData, *, root: int, noise_multiplier: float, count: int
) -> tuple[Floats, Bools]:
    """Train `count` reference models on random halves of train + hold-out and query them on all of it.

    Args:
        config: the run.
        data: its data; the pool is train first, then hold-out.
        root: root seed of the run (the attacker's streams have names of their own).
        noise_multiplier: what the run promises.
        count: number of models, at least 1.

    Returns:
        logits float32 (count, n, classes), and in_mask bool (count, units): which units each was trained on.
        A unit is an example, or for client-level privacy a device (training devices first).
    """
    _validate.positive_integer(count=count)
    clients.deterministic_tensorflow()
    pool, unit, units = make_pool(config, data, root=root)
    masks = balanced_masks(_rng.stream(root, "reference-masks"), models_count=count, units=units)
    functions = None
    logits = np.empty((count, pool.y.size, pool.classes), dtype=np.float32)
    for index in range(count):
        own = int.from_bytes(_rng.stream(root, "reference", index).bytes(16), "big")
        model = models.build_model(config.model, pool.x.shape[1:], pool.classes, root=own)
        functions = functions or clients.ClientFunctions(model, pool.x.shape[1:])
        weights = _train_one(
            config,
            functions,
            pool.take(np.flatnonzero(masks[index][unit])),
            models.get_weights(model),
            root=own,
            noise_multiplier=noise_multiplier,
        )
        logits[index] = functions.logits(weights, pool.x)
    return logits, masks

"""Reference models: what an attacker who knows the algorithm trains on data of their own, to calibrate scores.

Each is trained by the same client and server code as the run itself (same clip, noise and rounds, without canaries
and without files), on a random half of the pool of candidates, and evaluated on the whole pool (Carlini et al.,
arXiv:2112.03570: "likelihood ratio attack").
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate
from dpaudit.config import RunConfig
from dpaudit.errors import UsageError
from dpaudit.fanout import Executor, Task, digest_of, run_campaign
from dpaudit.federated import clients, engine, models
from dpaudit.federated.aggregation import aggregator_of
from dpaudit.federated.canaries import NO_CANARIES
from dpaudit.federated.clipping import Block, ClippedSum
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.many import ManyModels
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.partition import renumber
from dpaudit.federated.rounds import Plan
from dpaudit.federated.sampling import Cohort, Population
from dpaudit.federated.server import Server
from dpaudit.federated.silo_server import make_server
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Unit

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
BLOCK = 16
"""Models that are trained at once, and kept together in the cache."""


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


def _server(
    config: RunConfig, data: Dataset, weights: NDArray[np.float64], *, root: int, noise_multiplier: float,
    direction: float,
) -> Server:  # fmt: skip
    """Return the server of one reference model: that of the run, without canaries and without files.

    Noise comes from our own aggregator (a Gaussian sum, the tree of dp-ftrl, the devices of dp-local) with the run's
    clip norm, whoever aggregates the run itself.
    """
    training, owner = config.training, np.asarray(data.client)
    own = training.model_copy(update={"aggregator": "gaussian"})
    example_level = config.claim.unit == Unit.EXAMPLE
    plan = Plan(
        training=training,
        population=Population(clients=int(owner.max()) + 1, client_of=owner if example_level else None),
        canaries=NO_CANARIES,
        root=root,
        direction=direction,
    )
    return make_server(
        plan,
        aggregator=aggregator_of(own, noise_multiplier=noise_multiplier),
        optimizer=make_optimizer(training),
        weights=weights,
        ledger=PrivacyLedger(note="reference model of an attack; not the released model"),
    )


def _one_by_one(
    config: RunConfig, functions: clients.ClientFunctions, parts: list[Dataset], start: list[NDArray[np.float64]], *,
    roots: list[int], noise_multiplier: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Train each model with the engine of the run; return the final weights (models, parameters)."""
    ends = []
    for data, weights, root in zip(parts, start, roots, strict=True):
        runner = engine.make_engine(functions, data, config.training, root=root)
        server = _server(
            config, data, weights, root=root, noise_multiplier=noise_multiplier, direction=runner.direction
        )
        for number in range(config.training.rounds):
            server.run_round(number, runner.run_cohort)
        ends.append(server.weights)
    return np.stack(ends)


def _together(
    config: RunConfig, functions: clients.ClientFunctions, many: ManyModels, parts: list[Dataset],
    start: list[NDArray[np.float64]], *, roots: list[int], noise_multiplier: float,
) -> NDArray[np.float64]:  # fmt: skip
    """Train all models at once (dp-fedsgd): each has its own server, a round's clipped sums come from one graph."""
    import tensorflow as tf

    servers = [
        _server(config, data, weights, root=root, noise_multiplier=noise_multiplier, direction=1.0)
        for data, weights, root in zip(parts, start, roots, strict=True)
    ]
    offsets = np.cumsum([0, *(data.y.size for data in parts[:-1])])
    x, y = (tf.constant(np.concatenate([getattr(data, name) for data in parts])) for name in ("x", "y"))
    clip_norm = config.training.clip_norm
    for number in range(config.training.rounds):
        cohorts = [server.cohort(number) for server in servers]
        index, mask = _padded([cohort.units + at for cohort, at in zip(cohorts, offsets, strict=True)])
        weights = np.stack([server.weights for server in servers])
        totals, norms = many.clipped_sums(weights, x, y, index=index, mask=mask, clip_norm=clip_norm)
        for m, (server, cohort) in enumerate(zip(servers, cohorts, strict=True)):
            size = cohort.units.size
            if np.isfinite(norms[m]).all():
                block: ClippedSum | Block = ClippedSum(
                    units=cohort.units, total=totals[m], norms=norms[m, :size], clip_norm=clip_norm
                )
            else:  # some gradient is NaN, infinite or too large to square: row by row, so that the server screens it
                rows = functions.per_example_gradients(weights[m], x, y, index[m, :size].astype(np.int64), seed=(0, 0))
                block = Block(units=cohort.units, rows=rows)
            server.run_round(number, partial(_given, block))
    return np.stack([server.weights for server in servers])


def _given(block: ClippedSum | Block, weights: NDArray[np.float64], cohort: Cohort) -> list[ClippedSum | Block]:
    """Stand in for an engine whose answer has been computed; nothing for an empty cohort."""
    del weights, cohort
    return [block] if block.units.size else []


def _padded(rows: list[NDArray[np.int64]]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return index and mask (models, longest), padded with examples whose mask is 0; at least one column."""
    longest = max(1, *(row.size for row in rows))
    index, mask = np.zeros((len(rows), longest), np.int32), np.zeros((len(rows), longest), np.float32)
    for m, row in enumerate(rows):
        index[m, : row.size], mask[m, : row.size] = row, 1.0
        index[m, row.size :] = row[0] if row.size else 0
    return index, mask


def _train_block(
    config: RunConfig, data: FederatedData, *, root: int, noise_multiplier: float, count: int, block: range
) -> Floats:
    """Train the models numbered `block` out of `count` and return their weights (len(block), parameters).

    A task of a campaign: what it returns follows from its arguments alone.
    """
    clients.deterministic_tensorflow()
    pool, unit, units = make_pool(config, data, root=root)
    masks = balanced_masks(_rng.stream(root, "reference-masks"), models_count=count, units=units)
    roots = [int.from_bytes(_rng.stream(root, "reference", index).bytes(16), "big") for index in block]
    shape = pool.x.shape[1:]
    built = [models.build_model(config.model, shape, pool.classes, root=own) for own in roots]
    start = [models.get_weights(model) for model in built]
    parts = [_owned(pool.take(np.flatnonzero(masks[index][unit]))) for index in block]
    functions, many = clients.ClientFunctions(built[0], shape), ManyModels(built[0], shape)
    at_once = config.training.algorithm == "dp-fedsgd" and many.unclipped is None and len(block) > 1
    if at_once:
        ends = _together(config, functions, many, parts, start, roots=roots, noise_multiplier=noise_multiplier)
    else:
        ends = _one_by_one(config, functions, parts, start, roots=roots, noise_multiplier=noise_multiplier)
    return ends.astype(np.float32)


def _owned(data: Dataset) -> Dataset:
    """Number the clients that are left 0, 1, ..."""
    return replace(data, client=renumber(np.asarray(data.client))[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Trained reference models: `weights` (R, parameters), and which unit was `inside` which, (R, units)."""

    weights: Floats
    inside: Bools
    functions: clients.ClientFunctions
    many: ManyModels

    def logits(self, x: Floats) -> Floats:
        """Return what every model says of records, (R, n, classes)."""
        if self.many.unstacked is None:
            return self.many.logits(self.weights, x)
        return np.stack([self.functions.logits(own.astype(np.float64), x) for own in self.weights])


def train_references(
    config: RunConfig,
    data: FederatedData,
    *,
    root: int,
    noise_multiplier: float,
    count: int,
    cache: Path | None = None,
    executor: Executor | None = None,
) -> References:
    """Train `count` reference models on random halves of train + hold-out, with the algorithm of the run.

    Models are trained in blocks of 16, each block at once in one graph where the architecture allows it (dp-fedsgd
    with Dense layers), else one model after the other.

    Args:
        config: the run.
        data: its data; the pool is train first, then hold-out.
        root: root seed of the run (the attacker's streams have names of their own).
        noise_multiplier: what the run promises.
        count: number of models, at least 1.
        cache: folder where finished blocks are kept under the digest of everything that they depend on; an
            interrupted call goes on after the last finished block.
        executor: where blocks are trained (`dpaudit.fanout`); None for here. The models are the same.

    Raises: UsageError for a count below 1; TaskFailed when a block could not be trained.
    """
    _validate.positive_integer(count=count)
    pool, _, units = make_pool(config, data, root=root)
    masks = balanced_masks(_rng.stream(root, "reference-masks"), models_count=count, units=units)
    blocks = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    shape = pool.x.shape[1:]
    model = models.build_model(config.model, shape, pool.classes, root=root)
    many = ManyModels(model, shape)
    numbers = {"root": root, "noise_multiplier": noise_multiplier, "count": count}
    facts = _facts(config, pool)
    tasks = [
        Task(
            name=f"models {block.start} to {block.stop - 1}",
            function=_train_block,
            arguments={"block": block},
            depends_on=(facts, numbers, block),
        )
        for block in blocks
    ]
    shared = {"config": config, "data": data, **numbers}
    weights = run_campaign(tasks, executor=executor, shared=shared, cache=cache)
    return References(
        weights=np.concatenate(list(weights.values())),
        inside=masks,
        functions=clients.ClientFunctions(model, shape),
        many=many,
    )


def reference_logits(
    config: RunConfig, data: FederatedData, *, root: int, noise_multiplier: float, count: int
) -> tuple[Floats, Bools]:
    """Train reference models (see `train_references`) and query them on train + hold-out.

    Returns:
        logits float32 (count, n, classes), and in_mask bool (count, units): which units each was trained on.
        A unit is an example, or for client-level privacy a device (training devices first).
    """
    found = train_references(config, data, root=root, noise_multiplier=noise_multiplier, count=count)
    pool, _, _ = make_pool(config, data, root=root)
    return found.logits(pool.x), found.inside


def _facts(config: RunConfig, pool: Dataset) -> dict[str, object]:
    """Return what reference models depend on beside numbers and versions: the audit and the policy are not in it."""
    return {
        "model": config.model.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json"),
        "unit": config.claim.unit,
        "data": digest_of([pool.x, pool.y, np.asarray(pool.client)]),
    }

"""The step test on the very step that the run trains with: its model, data, clip, server, aggregator and optimizer.

Canaries in coordinates of their own cannot see a fault that touches the model's coordinates alone. A few executions of
one round can: everybody takes part, the population (and with it the denominator) is fixed, and units are added that
provoke the clip. What is compared is what leaves the server: the new weights. With dp-local it is one local step of one
client, whose update the server adopts.

The test reads noise and contributions off the weights, which works where the server's optimizer is affine in its first
step: SGD with momentum. Adam divides by the size of its argument; it is given nothing but the noised mean, so that in
its place the same server steps with SGD.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, verification
from dpaudit.config import DISTRIBUTED_NOISE, RunConfig
from dpaudit.errors import DpauditError
from dpaudit.federated import clients, engine, models
from dpaudit.federated.aggregation import aggregator_of
from dpaudit.federated.canaries import make_canaries
from dpaudit.federated.clipping import Block
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.local_engine import LocalDpEngine
from dpaudit.federated.optimizers import ServerOptimizer, Sgd, make_optimizer
from dpaudit.federated.quantisation import INFLATION
from dpaudit.federated.rounds import Plan
from dpaudit.federated.sampling import Cohort, Population, expected_contributions
from dpaudit.federated.silo_server import make_server
from dpaudit.federated.trainer import population_of
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import CheckResult, Status, Unit
from dpaudit.verification import Step, StepClaim
from dpaudit.verification.adapters_federated import adapts_its_clip

UNITS = 16
"""Units of the ordinary batch; the population is larger, because the test adds units and doubles the batch."""
ROOM = 4 * UNITS
_PER_CLIENT = 40
Batch = tuple[NDArray[Any], ...]
_EVERYBODY = {"sampler": "poisson", "cohort_limit": None}
_ONE_LOCAL_STEP = {"local_epochs": 1, "update_limit": None}


def _ordinary_batch(config: RunConfig, data: FederatedData) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (x, y) with one row per unit: examples, or whole clients cut to one number of examples."""
    if config.claim.unit == Unit.EXAMPLE:
        return data.train.x[:UNITS], data.train.y[:UNITS]
    owner = np.asarray(data.train.client)
    sizes = np.bincount(owner, minlength=data.clients)
    chosen = np.argsort(-sizes, kind="stable")[:UNITS]
    width = min(_PER_CLIENT, int(sizes[chosen].min()))
    rows = np.stack([np.flatnonzero(owner == client)[:width] for client in chosen])
    return data.train.x[rows], data.train.y[rows]


def _dataset(config: RunConfig, batch: Batch, classes: int) -> Dataset:
    x, y = batch
    if config.claim.unit == Unit.EXAMPLE:
        return Dataset(x=x, y=y, client=np.zeros(len(y), np.int32), classes=classes, name="step test")
    width = y.shape[1]
    owner = np.repeat(np.arange(len(y), dtype=np.int32), width)
    return Dataset(x=x.reshape(-1, *x.shape[2:]), y=y.reshape(-1), client=owner, classes=classes, name="step test")


def _with_everybody(config: RunConfig) -> RunConfig:
    """Return the configuration of a round in which everybody takes part.

    With distributed noise every place of the population brings a share, as many as then carry what is promised, and
    canaries, which bring none, are left out.
    """
    rates: dict[str, object] = {"client_sampling_rate": 1.0, "dropout_rate": 0.0}
    if config.training.algorithm != "dp-ftrl":
        rates |= {"example_sampling_rate": 1.0, **_EVERYBODY}
    if config.training.local_steps:
        rates |= _ONE_LOCAL_STEP
    if config.training.aggregator not in DISTRIBUTED_NOISE:
        return config.model_copy(update={"training": config.training.model_copy(update=rates)})
    rates |= {"minimum_contributions": ROOM, "secure_aggregation": False}  # masks change nothing in the sum
    training = config.training.model_copy(update=rates)
    no_canaries = config.canaries.model_copy(update={"count": 0})
    return config.model_copy(update={"training": training, "canaries": no_canaries})


def training_step(
    config: RunConfig,
    data: FederatedData,
    *,
    noise_multiplier: float,
    root: int,
    make_runner: engine.MakeRunner = engine.make_engine,
) -> Step:
    """Return one round of this run's training as a step under test; `make_runner` says where clients compute."""
    shape, classes = data.train.x.shape[1:], data.train.classes
    clients.deterministic_tensorflow()
    model = models.build_model(config.model, shape, classes, root=root)
    functions, initial = clients.ClientFunctions(model, shape), models.get_weights(model)
    whole = _with_everybody(config)
    everybody, shares = whole.training, config.training.aggregator in DISTRIBUTED_NOISE
    example_level = config.claim.unit == Unit.EXAMPLE
    owner = np.zeros(ROOM, np.int32) if example_level else None
    population = Population(clients=1 if example_level else ROOM, client_of=owner)
    aggregator = aggregator_of(
        everybody,
        noise_multiplier=noise_multiplier,
        noise_factor=config.demonstration.noise_factor,
        expected=ROOM if shares else expected_contributions(config.training, population_of(config, data)),
    )

    def rounds(batches: Sequence[Batch], seed: int) -> list[Any]:
        """Run rounds 0, 1, ... on these batches, each from the initial weights; only the aggregator's state goes on."""
        server = make_server(
            Plan(
                training=everybody,
                population=population,
                canaries=make_canaries(whole.canaries, population, root=seed),
                root=seed,
                direction=-1.0 if everybody.local_steps or not example_level else 1.0,
            ),
            aggregator=aggregator,
            optimizer=_affine_optimizer(config),
            weights=initial.copy(),
            ledger=PrivacyLedger(),
        )
        for number, batch in enumerate(batches):
            server.weights, server.optimizer = initial.copy(), _affine_optimizer(config)
            server.run_round(number, partial(contributions, batch, seed))
        return [server.weights]

    def contributions(batch: Batch, seed: int, weights: NDArray[np.float64], cohort: Cohort) -> Iterator[Any]:
        # The engine's own randomness (order of local data) is the server's affair no more than its weights are: it
        # keeps the run's root, so that only the noise changes with the seed, also where devices draw it.
        count, known = len(batch[0]), _dataset(config, batch, classes)
        if everybody.local_steps:
            devices = LocalDpEngine(functions, known, everybody, root=root, noise_root=seed)
            yield from devices.run_cohort(weights, cohort)
        elif count:
            runner = make_runner(functions, known, everybody, root=root)
            yield from runner.run_cohort(weights, replace(cohort, units=np.arange(count), number=0))
        if shares:  # a place that is empty sends zeros, with its share
            yield Block(units=np.arange(count, ROOM), rows=np.zeros((ROOM - count, weights.size), np.float32))

    # The clip norm of adaptive clipping depends on earlier rounds by design: a second round says nothing there.
    adaptive = adapts_its_clip(aggregator, width=initial.size + config.canaries.count)
    return Step(
        run=lambda batch, seed: rounds([batch], seed),
        batch=_ordinary_batch(config, data),
        kind="examples",
        clip_norm=config.training.clip_norm,
        test_empty=True,
        replays=lambda batch, seed: {f"round {last}": rounds([batch] * (last + 1), seed) for last in range(3)},
        second=None if adaptive else lambda first, second, seed: rounds([first, second], seed),
    )


def _affine_optimizer(config: RunConfig) -> ServerOptimizer:
    """Return the run's optimizer, or SGD in place of one whose step is not affine in the noised mean."""
    if config.training.server_optimizer == "adam":
        return Sgd(config.training.server_learning_rate)
    return make_optimizer(config.training)


def check_training_step(
    config: RunConfig,
    data: FederatedData,
    *,
    noise_multiplier: float,
    promised: float,
    significance: float,
    root: int,
    make_runner: engine.MakeRunner = engine.make_engine,
) -> list[CheckResult]:
    """Put the step of this run to the step test; a step that cannot be built or run is INCONCLUSIVE, never a pass.

    `noise_multiplier` is what the aggregator is made with, `promised` that of the sum, which is under test;
    `make_runner` says where clients compute.
    """
    try:
        step = training_step(config, data, noise_multiplier=noise_multiplier, root=root, make_runner=make_runner)
        rounding = INFLATION if config.training.aggregator in DISTRIBUTED_NOISE else 1.0
        claim = StepClaim(noise_multiplier=promised / rounding)
        seed = _rng.seed_of(root, "step-test") % 10**6
        return verification.check_step(lambda: step, claim, significance=significance, seed=seed)
    except DpauditError as error:
        return [CheckResult(id="step.runs", status=Status.INCONCLUSIVE, detail=str(error), significance=significance)]

"""Federated training with differential privacy, recorded round by round, resumable after a kill at any moment."""

import hashlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import __version__, _rng, _validate
from dpaudit._packages import installed
from dpaudit.config import RunConfig
from dpaudit.errors import DataError
from dpaudit.federated import canaries as canary
from dpaudit.federated import clients, engine, models, tensorboard
from dpaudit.federated.aggregation import Aggregator, aggregator_of
from dpaudit.federated.canary_families import make_families
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.journal import Identity, Journal, claim
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.rounds import Plan
from dpaudit.federated.run_files import MODEL, RESULT
from dpaudit.federated.sampling import Population, expected_contributions
from dpaudit.federated.sampling import header as sampler_header
from dpaudit.federated.secure_engine import SecureEngine, secured, what_the_server_sees
from dpaudit.federated.server import Server
from dpaudit.federated.silo_journal import SiloJournal
from dpaudit.federated.silo_server import local_divisor, make_server
from dpaudit.records import Unit

Watch = Callable[[int, NDArray[np.float64]], None]
_PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-privacy")


def population_of(config: RunConfig, data: FederatedData) -> Population:
    """Return the units of a run: examples with their clients, or clients.

    Raises: DataError when the training data do not say who holds each example, or somebody holds none.
    """
    owner = data.train.client
    if owner is None or owner.size == 0:
        raise DataError("the training data must hold examples and say which client holds each.")
    sizes = np.bincount(owner, minlength=data.clients)
    if sizes.size != data.clients or sizes.min() == 0:
        raise DataError(
            f"empty client: {int((sizes == 0).sum())} of {data.clients} clients hold no example. Leave them out."
        )
    return Population(clients=data.clients, client_of=owner if config.claim.unit == Unit.EXAMPLE else None)


def data_commitment(data: Dataset, originals: Dataset | None = None, *, root: int) -> str:
    """Return a salted SHA-256 of what is trained on: it binds the ledger to the data and tells nobody what they are.

    `originals` are the hold-out units of mislabelled canaries.
    """
    digest = hashlib.sha256(_rng.stream(root, "commitment-salt").bytes(32))
    more = () if originals is None else (originals.x, originals.y, originals.client)
    for array in (data.x, data.y, data.client, *more):
        if array is not None:
            digest.update(str((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _header(config: RunConfig, data: FederatedData, plan: Plan, aggregator: Aggregator) -> dict[str, Any]:
    """Return the facts of the ledger's first line that the trainer knows."""
    training = config.training
    families = {family.name: {"kind": family.kind, "count": family.count} for family in plan.families}
    return {
        "unit": config.claim.unit,
        "relation": config.claim.relation,
        "algorithm": training.algorithm,
        "sampler": sampler_header(training, slots=plan.slots),
        "clip_norm": training.clip_norm,
        "noise_stddev": aggregator.noise_stddev,
        **sum_noise(aggregator, training.clip_norm),
        "denominator": plan.denominator,
        **({"local_steps": training.local_steps, "local_divisor": local_divisor(plan)} if training.local_steps else {}),
        "units": plan.population.units,
        "clients": plan.population.clients,
        "canaries": plan.canaries.count,
        **({"canary_families": families} if families else {}),
        "rounds": training.rounds,
        "aggregator": aggregator.name,
        "noise_source": aggregator.noise_source,
        "server_sees": what_the_server_sees(training),
        "seed_origin": "os-entropy" if config.run.seed == "os-entropy" else "configuration (predictable noise)",
        "data_commitment": data_commitment(data.train, data.originals, root=plan.root),
        "versions": {"dpaudit": __version__, **{name: installed(name) for name in _PACKAGES}},
    }


def sum_noise(aggregator: Aggregator, clip_norm: float) -> dict[str, float]:
    """Return the noise multiplier of the sum as a fact, if the aggregator says it."""
    stddev = aggregator.noise_stddev
    return {} if stddev is None else {"sum_noise_multiplier": stddev / clip_norm}


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C so that a round is finished; yield a function that says whether it came.

    A second Ctrl-C interrupts at once (the files are safe at any moment; the round is then replayed on resume).
    Outside the main thread signals go elsewhere, and nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def hold(number: int, frame: Any) -> None:
        if came:
            signal.default_int_handler(number, frame)
        came.append(number)

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)


def train(
    config: RunConfig,
    data: FederatedData,
    *,
    root: int,
    out: Path,
    noise_multiplier: float,
    resume: bool,
    progress: Callable[[int, int], None],
    ledger_facts: Mapping[str, Any],
    epsilon_after: Callable[[int], float] | None = None,
    make_runner: engine.MakeRunner = engine.make_engine,
) -> None:
    """Train, and leave in `out` the ledger, the observations of the canaries, the coins and the model.

    Args:
        config: the run.
        data: what `dpaudit.federated.data.prepare` made of it with the same root.
        root: root seed; on resume that of `run_files.stored_root(out)`.
        out: folder of the run.
        noise_multiplier: noise standard deviation on the sum, in clip norms.
        resume: go on with the run in `out` (or start it, if there is none).
        progress: called with (rounds done, rounds planned) after each round.
        ledger_facts: what else the ledger's header should say.
        epsilon_after: epsilon after a number of rounds, for TensorBoard.
        make_runner: returns the engine that computes the clients.

    Raises: OutputExists when `out` holds a run and `resume` is not set; UsageError when it holds another run, or the
        model cannot be trained privately; KeyboardInterrupt after a Ctrl-C, once the round is finished and saved.
    """
    _validate.positive(noise_multiplier=noise_multiplier)
    population = population_of(config, data)
    clients.deterministic_tensorflow()
    model = models.build_model(config.model, data.train.x.shape[1:], data.train.classes, root=root)
    weights = models.get_weights(model)
    aggregator = _make_aggregator(config, population, noise_multiplier=noise_multiplier)
    aggregator.start(width=weights.size + config.canaries.count, root=root)  # an unfit one is refused here
    functions = clients.ClientFunctions(model, data.train.x.shape[1:])
    families = make_families(  # canaries that do not fit the model, too
        config, data, population, functions, noise_multiplier=noise_multiplier, root=root
    )
    going_on = claim(out, Identity.of(config, root=root, noise_multiplier=noise_multiplier), resume=resume)
    if going_on and (out / RESULT).is_file():
        progress(config.training.rounds, config.training.rounds)
        return
    plain = make_runner(functions, data.train, config.training, root=root)
    runner: engine.Engine | SecureEngine = secured(
        plain, aggregator, width=weights.size + config.canaries.count, root=root
    )
    fakes = canary.make_canaries(config.canaries, population, root=root)
    plan = Plan(
        training=config.training, population=population, canaries=fakes, root=root, direction=runner.direction,
        families=families,
    )  # fmt: skip
    kind = SiloJournal if config.training.local_steps else Journal
    journal = kind(out, parameters=runner.parameters, canaries=fakes, families=families)
    facts = {**ledger_facts, "noise_multiplier": noise_multiplier, "engine": runner.name}
    facts["clipping_path"] = runner.clipping_path
    ledger = journal.open_ledger({**facts, **_header(config, data, plan, aggregator)})
    slots = 0 if config.training.sampler == "poisson" else plan.slots
    journal.describe(
        clients=population.clients, units=population.units, rounds=config.training.rounds, slots=slots,
        steps=max(1, config.training.local_steps),
    )  # fmt: skip
    server = make_server(
        plan,
        aggregator=aggregator,
        optimizer=make_optimizer(config.training),
        weights=weights,
        ledger=ledger,
        on_draw=journal.draw,
    )

    def accuracy(of: NDArray[np.float64]) -> float:
        right = functions.logits(of, data.holdout.x).argmax(axis=1) == data.holdout.y
        return float(right.mean())

    first = journal.restore(server)
    with _scalars(config, out, accuracy, epsilon_after) as watch:
        _rounds(server, runner, journal, config, first=first, progress=progress, watch=watch)
    models.set_weights(model, server.weights)
    models.save_model(model, out / MODEL)
    journal.finish(rounds=config.training.rounds, holdout_accuracy=accuracy(server.weights))


@contextmanager
def _scalars(
    config: RunConfig,
    out: Path,
    accuracy: Callable[[NDArray[np.float64]], float],
    epsilon_after: Callable[[int], float] | None,
) -> Iterator[Watch]:
    """Yield what is called after each round: the writer of TensorBoard's scalars if they were asked for."""
    if not config.training.tensorboard:
        yield tensorboard.no_scalars
        return
    every, last = config.training.checkpoint_every, config.training.rounds
    scalars = tensorboard.Scalars(out, accuracy=accuracy, every=every, last=last, epsilon_after=epsilon_after)
    try:
        yield scalars
    finally:
        scalars.close()


def _make_aggregator(config: RunConfig, population: Population, *, noise_multiplier: float) -> Aggregator:
    return aggregator_of(
        config.training,
        noise_multiplier=noise_multiplier,
        noise_factor=config.demonstration.noise_factor,
        expected=expected_contributions(config.training, population),
    )


def _rounds(
    server: Server,
    runner: engine.Engine | SecureEngine,
    journal: Journal,
    config: RunConfig,
    *,
    first: int,
    progress: Callable[[int, int], None],
    watch: Watch,
) -> None:
    planned, every = config.training.rounds, config.training.checkpoint_every
    with deferred_interrupt() as interrupted:
        for number in range(first, planned):
            collected, release = server.run_round(number, runner.run_cohort)
            journal.observe(collected, release)
            done = number + 1
            if done % every == 0 or done == planned or interrupted():
                journal.save(server, done)
            watch(done, server.weights)
            if interrupted():
                raise KeyboardInterrupt
            progress(done, planned)

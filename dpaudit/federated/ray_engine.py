"""The engine on Ray: actors that hold the data and the in-process engine, each computing shards of a cohort.

Actors belong to the server's own operator, as its process does: they may clip and sum by book-keeping. What privacy
rests on (root seed, cohorts, noise, denominator, ledger) stays with the server. A cohort is cut into the same shards
whatever the number of actors, and their contributions are summed in order, so that the result does not depend on who
computed what.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from dpaudit.config import ModelSection, RunConfig, TrainingSection
from dpaudit.errors import TaskFailed, UsageError
from dpaudit.fanout.cache import versions
from dpaudit.fanout.ray_session import RaySession, check_versions, ray_session
from dpaudit.fanout.workers import RETRIES
from dpaudit.federated import clients, models
from dpaudit.federated.clipping import Block, ClippedSum, Rejected
from dpaudit.federated.data import Dataset
from dpaudit.federated.engine import (
    FedAvgEngine,
    FedSgdEngine,
    Indices,
    MakeRunner,
    RoundSeeds,
    Vector,
    make_engine,
    round_seeds,
)
from dpaudit.federated.sampling import Cohort

Contribution = Block | ClippedSum | Rejected
_SHARDS, _FEWEST = 16, 8
"""Shards of a cohort at most, and the units that make another shard worth while."""


class Actor:
    """Runs in a worker: the in-process engine of the run, over all of its data."""

    def __init__(
        self, section: ModelSection, training: TrainingSection, data: Dataset,
        expected: tuple[tuple[str, str | None], ...],
    ) -> None:  # fmt: skip
        """Build model and engine; only the architecture counts, the weights come with every round."""
        check_versions(expected)
        clients.deterministic_tensorflow()
        shape = data.x.shape[1:]
        functions = clients.ClientFunctions(models.build_model(section, shape, data.classes, root=0), shape)
        made = make_engine(functions, data, training, root=0)  # the seeds come with every round, too
        self._engine = cast(FedAvgEngine | FedSgdEngine, made)

    def facts(self) -> tuple[int, float, str]:
        """Return parameters, direction and clipping path of the engine."""
        return self._engine.parameters, self._engine.direction, self._engine.clipping_path

    def contributions(self, weights: Vector, units: Indices, seeds: RoundSeeds) -> list[Contribution]:
        """Return what some units of a round's cohort contribute; it follows from the arguments alone."""
        if isinstance(self._engine, FedAvgEngine):
            return list(self._engine.updates(weights, units, seeds))
        return list(self._engine.gradients(weights, units, seeds))


class RayEngine:
    """Computes cohorts on actors, one per core; an actor that is lost is started again and its shards recomputed."""

    name = "ray"

    def __init__(
        self, session: RaySession, section: ModelSection, data: Dataset, training: TrainingSection, *, root: int
    ) -> None:
        """Send the data to the object store once, and start the actors.

        Raises: UsageError for dp-local, whose noise is drawn by the clients, from secrets that no actor may have.
        """
        if training.local_steps:
            raise UsageError('the engine ray cannot run training.algorithm = "dp-local"; use the engine in-process.')
        self._ray, self._root, expected = session.ray, root, tuple(sorted(versions().items()))
        remote = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES, **session.options)(Actor)
        self._placed = session.put(data)  # held for as long as an actor may have to be started again
        self.actors = [remote.remote(section, training, self._placed, expected) for _ in range(session.cores)]
        self._parameters, self._direction, self._path = self._get(self.actors[0].facts.remote(), "the first actor")

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return int(self._parameters)

    @property
    def direction(self) -> float:
        """+1 for gradients, -1 for updates."""
        return float(self._direction)

    @property
    def clipping_path(self) -> str:
        """How contributions are clipped, and that it is done by actors."""
        return f"{self._path}; on {len(self.actors)} actors"

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Contribution]:
        """Yield the contributions of the shards, in order; nothing for an empty cohort.

        Raises: TaskFailed when a shard fails, or its actor is lost again and again. The run can be resumed.
        """
        placed, seeds = self._ray.put(weights), round_seeds(self._root, cohort.number)
        waiting = [
            self.actors[at % len(self.actors)].contributions.remote(placed, units, seeds)
            for at, units in enumerate(shards(cohort.units))
        ]
        for at, reference in enumerate(waiting):
            yield from self._get(reference, f"shard {at} of round {cohort.number}")

    def _get(self, reference: Any, what: str) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise TaskFailed(f"{what} could not be computed on Ray: {error}") from error

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            self._ray.kill(actor)


def shards(units: Indices) -> list[Indices]:
    """Cut the units of a cohort into at most 16 parts of about the same size, depending on nothing else."""
    count = min(_SHARDS, -(-units.size // _FEWEST))
    return np.array_split(units, count) if count else []


@contextmanager
def open_ray_engine(
    config: RunConfig, *, address: str | None = None, actors: int | None = None
) -> Iterator[MakeRunner]:
    """Yield what makes the engine; its actors, and a Ray of our own, end when the block is left.

    Args:
        config: the run.
        address: of an existing cluster; None for RAY_ADDRESS, or a Ray of our own on this machine.
        actors: cores of a Ray of our own; None for all.

    Raises: MissingDependency without ray; UsageError when the cluster cannot be reached.
    """
    with ray_session(address, processes=actors) as session:
        made: list[RayEngine] = []

        def make(
            functions: clients.ClientFunctions, data: Dataset, training: TrainingSection, *, root: int
        ) -> RayEngine:
            del functions  # the actors have their own
            made.append(RayEngine(session, config.model, data, training, root=root))
            return made[-1]

        try:
            yield make
        finally:
            for engine in made:
                engine.close()

"""Replay of recorded cohorts: the engine that trained must compute on the units that the record names."""

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dpaudit import verification
from dpaudit.config import RunConfig
from dpaudit.errors import DpauditError
from dpaudit.federated import clients, engine, models
from dpaudit.federated.clipping import Block, ClippedSum
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.local_engine import LocalDpEngine
from dpaudit.federated.sampling import Cohort
from dpaudit.records import CheckResult, Status, Unit

Units = NDArray[np.int64]

ROUNDS, UNITS = 3, 128
"""Cohorts that are replayed, and units of each that are taken."""


def check_cohorts(
    config: RunConfig, data: FederatedData, participation: NDArray[np.bool_], *, root: int
) -> CheckResult:
    """Replay recorded cohorts at the initial weights; a replay that cannot be made is INCONCLUSIVE, never a pass."""
    try:
        shape = data.train.x.shape[1:]
        clients.deterministic_tensorflow()
        model = models.build_model(config.model, shape, data.train.classes, root=root)
        functions, weights = clients.ClientFunctions(model, shape), models.get_weights(model)
        largest = int(np.bincount(np.asarray(data.train.client)).max())
        # One local step on all that a client has: the order of its examples is the engine's own affair.
        training = config.training.model_copy(update={"local_epochs": 1, "local_batch_size": largest})

        def contributions(known: Dataset, units: Units) -> NDArray[np.float64]:
            runner = engine.make_engine(functions, known, training, root=root)
            if isinstance(runner, LocalDpEngine):
                return runner.clipped_sum(weights, units, clip_norm=training.clip_norm)
            nobody = np.zeros(data.clients, dtype=np.bool_)
            blocks = runner.run_cohort(weights, Cohort(number=0, sampled=nobody, answered=nobody, units=units))
            parts = [_total(block) for block in blocks if isinstance(block, Block | ClippedSum)]
            return np.asarray(np.sum(parts, axis=0, dtype=np.float64))

        def alone(units: Units) -> NDArray[np.float64]:
            return contributions(_only(config, data.train, units), np.arange(len(units)))

        return verification.check_cohort(partial(contributions, data.train), alone, _recorded(participation))
    except DpauditError as error:
        return CheckResult(id="sampling.cohort", status=Status.INCONCLUSIVE, detail=str(error))


def _total(block: Block | ClippedSum) -> NDArray[np.float64]:
    return block.total if isinstance(block, ClippedSum) else np.asarray(block.rows).sum(axis=0)


def _recorded(participation: NDArray[np.bool_]) -> list[Units]:
    """Return the last units of cohorts from the beginning, the middle and the end of the run."""
    rounds = np.flatnonzero(participation.any(axis=1))
    if not rounds.size:
        return []
    chosen = np.unique(rounds[np.linspace(0, rounds.size - 1, ROUNDS).astype(int)])
    return [np.flatnonzero(participation[number])[-UNITS:] for number in chosen]


def _only(config: RunConfig, train: Dataset, units: Units) -> Dataset:
    """Return the data of these units alone; client ids become 0, 1, ... in the same order."""
    owner = np.asarray(train.client)
    if config.claim.unit == Unit.EXAMPLE:
        rows, renamed = units, np.zeros(len(units), dtype=np.int32)
    else:
        rows = np.flatnonzero(np.isin(owner, units))
        renamed = np.searchsorted(units, owner[rows]).astype(np.int32)
    return replace(train, x=train.x[rows], y=train.y[rows], client=renamed)

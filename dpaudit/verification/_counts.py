"""What a sampling check needs of a record of participation: four small vectors, from matrices or from index lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingCounts:
    """How often who was chosen.

    Attributes:
        batch_sizes: units chosen in each round, shape (rounds,).
        batch_trials: units that could have been chosen in each round, shape (rounds,).
        inclusions: rounds in which each unit was chosen, shape (units,).
        inclusion_trials: rounds in which each unit could have been chosen, shape (units,).
        repeats: pairs of consecutive opportunities of a unit that were both taken, over all units.
    """

    batch_sizes: Ints
    batch_trials: Ints
    inclusions: Ints
    inclusion_trials: Ints
    repeats: int


def counts_of(participation: Bools) -> SamplingCounts:
    """Count a full record, shape (rounds, units), in which every unit could take part in every round."""
    rounds, units = participation.shape
    repeats = sum(int(np.count_nonzero(a & b)) for a, b in pairwise(participation))
    return SamplingCounts(
        batch_sizes=np.count_nonzero(participation, axis=1),
        batch_trials=np.full(rounds, units),
        inclusions=np.count_nonzero(participation, axis=0),
        inclusion_trials=np.full(units, rounds),
        repeats=repeats,
    )


def counts_of_batches(batches: Sequence[NDArray[np.integer]], population: int) -> SamplingCounts:
    """Count batches given as lists of indices in 0..population-1.

    Raises: DataError for an index outside, or one that occurs twice in a batch (then the draw was with replacement).
    """
    inclusions = np.zeros(population, dtype=np.int64)
    repeats, before = 0, np.empty(0, dtype=np.int64)
    for number, batch in enumerate(batches):
        now = np.unique(batch)
        if len(now) != len(batch):
            raise DataError(f"batch {number} holds an index twice: that is sampling with replacement, not Poisson.")
        if len(now) and (now[0] < 0 or now[-1] >= population):
            raise DataError(f"batch {number} holds an index outside 0..{population - 1}; give the right --population.")
        inclusions[now] += 1
        repeats += len(np.intersect1d(before, now, assume_unique=True))
        before = now
    return SamplingCounts(
        batch_sizes=np.array([len(batch) for batch in batches], dtype=np.int64),
        batch_trials=np.full(len(batches), population),
        inclusions=inclusions,
        inclusion_trials=np.full(population, len(batches)),
        repeats=repeats,
    )


def counts_given(eligible: Bools, participation: Bools, client_of: NDArray[np.integer]) -> SamplingCounts:
    """Count participation of units (rounds, units) among the rounds in which their client was eligible."""
    clients = eligible.shape[1]
    sizes = np.bincount(client_of, minlength=clients)
    repeats = 0
    for client in np.flatnonzero(sizes):
        taken = participation[np.ix_(eligible[:, client], client_of == client)]
        repeats += int(np.count_nonzero(taken[1:] & taken[:-1]))
    return SamplingCounts(
        batch_sizes=np.count_nonzero(participation, axis=1),
        batch_trials=eligible.astype(np.int64) @ sizes,
        inclusions=np.count_nonzero(participation, axis=0),
        inclusion_trials=np.count_nonzero(eligible, axis=0)[client_of],
        repeats=repeats,
    )

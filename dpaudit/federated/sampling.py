"""Who takes part in a round: Poisson coins from counter-based streams, over stable ids.

The coins of a round depend on the root seed and the round alone, so that a resumed run draws the same cohorts, and
no cohort depends on what another part of the program drew. Cohorts have random size and may be empty.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import TrainingSection

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """The units of a run: `clients`, and for example-level privacy the client of every example (else None)."""

    clients: int
    client_of: NDArray[np.int32] | None

    @property
    def units(self) -> int:
        """Number of protected units: examples, or clients."""
        return self.clients if self.client_of is None else int(self.client_of.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Who takes part in round `number`.

    `sampled` and `answered` are (clients,) masks: chosen by the sampler, and those of them that did not drop out.
    `units` are the positions of the protected units whose contributions are wanted: examples of answering clients,
    or the answering clients themselves.
    """

    number: int
    sampled: Bools
    answered: Bools
    units: Indices

    @property
    def dropouts(self) -> int:
        """How many sampled clients failed to answer."""
        return int(np.count_nonzero(self.sampled & ~self.answered))


def draw(training: TrainingSection, population: Population, *, root: int, number: int) -> Cohort:
    """Draw the cohort of round `number`: clients with probability p, drop-outs, then examples with probability q."""
    chance = _rng.stream(root, "cohort", number).random(population.clients)
    sampled = chance < training.client_sampling_rate
    fails = _rng.stream(root, "dropout", number).random(population.clients) < training.dropout_rate
    answered = sampled & ~fails
    if population.client_of is None:
        return Cohort(number=number, sampled=sampled, answered=answered, units=np.flatnonzero(answered))
    coins = _rng.stream(root, "examples", number).random(population.units) < training.example_sampling_rate
    units = np.flatnonzero(coins & answered[population.client_of])
    return Cohort(number=number, sampled=sampled, answered=answered, units=units)


def expected_contributions(training: TrainingSection, population: Population) -> float:
    """Return the expected number of sampled units per round before drop-outs: the fixed, public denominator.

    Never the realised number: dividing by it would make the noise depend on the secret sample. The number of units
    is taken as public (it is in the ledger's header).
    """
    rate = training.client_sampling_rate
    if population.client_of is not None:
        rate *= training.example_sampling_rate
    return rate * population.units

"""What a round of the server is made of: the plan that all rounds share, what was collected, what was released."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.config import TrainingSection
from dpaudit.federated import canaries as canary
from dpaudit.federated import sampling
from dpaudit.federated.canary_families import Family
from dpaudit.federated.clipping import Block, Rejected
from dpaudit.federated.sampling import Cohort, Population

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What does not change during a run. `direction` is +1 for gradients, -1 for weight updates."""

    training: TrainingSection
    population: Population
    canaries: canary.Canaries
    root: int
    direction: float
    families: tuple[Family, ...] = ()

    @property
    def all_canaries(self) -> int:
        """Number of canaries of all kinds, in or out."""
        return self.canaries.count + sum(family.count for family in self.families)

    @property
    def slots(self) -> int:
        """Units and canaries: the population of the samplers that choose among slots."""
        return self.population.units + self.all_canaries

    @property
    def denominator(self) -> float:
        """The fixed, public divisor of the sum."""
        return sampling.expected_contributions(self.training, self.population)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The exact sum of a round, which must not leave the server, and what is recorded about it.

    `total` is (parameters + canaries,), followed by what else the aggregator counts; `clip_norm` is what contributions
    were clipped to. `arrived` (units,) marks the invited units that sent anything, or whose failure to do so the engine
    reported (among `rejected`); `accepted` counts those that were summed, `canaries` (m,) marks the canaries that took
    part, `families` those of each family. `weights` are those at the start of the round.
    """

    cohort: Cohort
    total: Vector
    clip_norm: float
    arrived: NDArray[np.bool_]
    accepted: int
    rejected: tuple[Rejected, ...]
    canaries: NDArray[np.bool_]
    weights: Vector
    families: tuple[NDArray[np.bool_], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The noised sum of a round: (parameters + canaries,). `replayed` when the ledger already held it.

    `withheld` when nothing is released, because too little of the noise came: the vector is zero, and no attempt.
    """

    number: int
    attempt: int
    vector: Vector
    replayed: bool
    withheld: bool = False


def only_invited(block: Block, cohort: Cohort, arrived: NDArray[np.bool_]) -> tuple[Block, list[Rejected]]:
    """Return the part of a block that comes from units of the cohort for the first time; mark them as arrived."""
    member = np.zeros(arrived.size, dtype=np.bool_)
    member[cohort.units] = True
    known = (block.units >= 0) & (block.units < arrived.size)
    expected = known & member[np.where(known, block.units, 0)]
    if expected.all() and not arrived[block.units].any():
        before = np.count_nonzero(arrived)
        arrived[block.units] = True
        if np.count_nonzero(arrived) - before == block.units.size:
            return block, []
        arrived[block.units] = False  # somebody is in the block twice
    fresh: list[int] = []
    strangers: list[Rejected] = []
    for position, unit in enumerate(block.units.tolist()):
        if not expected[position]:
            strangers.append(Rejected(unit=unit, reason="not in this round's cohort"))
        elif arrived[unit]:
            strangers.append(Rejected(unit=unit, reason="sent a second time"))
        else:
            arrived[unit] = True
            fresh.append(position)
    if not strangers:
        return block, strangers
    return Block(units=block.units[fresh], rows=[block.rows[position] for position in fresh]), strangers

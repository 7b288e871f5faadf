"""Who takes part in a round: coins and shuffles from counter-based streams, over stable ids.

The cohort of a round depends on the root seed and the round alone, so that a resumed run draws the same cohorts, and
no cohort depends on what another part of the program drew. Cohorts may be empty.

With the sampler `poisson` every unit has a coin of its own, and so has every canary. The other samplers choose among
*slots*: one for each unit, then one for each canary, whether its coin says in or out (one that is out takes its turn
and contributes nothing). So a canary is a member of the population, and who is chosen says nothing about the coins.
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
class Draw:
    """What a sampler of slots did, (slots,) each: who was `drawn`, and who of them was left in (`chosen`)."""

    drawn: Bools
    chosen: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Who takes part in round `number`.

    `sampled` and `answered` are (clients,) masks: chosen by the sampler, and those of them that did not drop out.
    `units` are the positions of the protected units whose contributions are wanted: examples of answering clients,
    or the answering clients themselves (also with dp-local, where clients draw their examples on their own). `draw` is
    None for `poisson`, where canaries have coins of their own.
    """

    number: int
    sampled: Bools
    answered: Bools
    units: Indices
    draw: Draw | None = None

    @property
    def dropouts(self) -> int:
        """How many sampled clients failed to answer."""
        return int(np.count_nonzero(self.sampled & ~self.answered))


def draw(training: TrainingSection, population: Population, *, root: int, number: int, canaries: int = 0) -> Cohort:
    """Draw the cohort of round `number`.

    Args:
        training: its sampler and rates; with `poisson` clients with probability p, drop-outs, then examples with
            probability q.
        population: the real units.
        root: root seed.
        number: the round.
        canaries: slots behind those of the units; not used with `poisson`.
    """
    fails = np.zeros(population.clients, dtype=np.bool_)
    if training.dropout_rate > 0:
        fails = _rng.stream(root, "dropout", number).random(population.clients) < training.dropout_rate
    if training.sampler != "poisson":
        return _from_slots(training, population, fails, root=root, number=number, canaries=canaries)
    chance = _rng.stream(root, "cohort", number).random(population.clients)
    sampled = chance < training.client_sampling_rate
    answered = sampled & ~fails
    if population.client_of is None or training.local_steps:
        return Cohort(number=number, sampled=sampled, answered=answered, units=np.flatnonzero(answered))
    coins = _rng.stream(root, "examples", number).random(population.units) < training.example_sampling_rate
    units = np.flatnonzero(coins & answered[population.client_of])
    return Cohort(number=number, sampled=sampled, answered=answered, units=units)


def _from_slots(
    training: TrainingSection, population: Population, fails: Bools, *, root: int, number: int, canaries: int
) -> Cohort:
    found = draw_slots(training, population.units + canaries, root=root, number=number)
    chosen = found.chosen[: population.units]
    if population.client_of is None:
        sampled = chosen
        answered = sampled & ~fails
        return Cohort(number=number, sampled=sampled, answered=answered, units=np.flatnonzero(answered), draw=found)
    units = np.flatnonzero(chosen & ~fails[population.client_of])
    return Cohort(number=number, sampled=np.ones_like(fails), answered=~fails, units=units, draw=found)


def draw_slots(training: TrainingSection, slots: int, *, root: int, number: int) -> Draw:
    """Draw the slots of round `number` with the configured sampler, which is none of `poisson`."""
    drawn = np.zeros(slots, dtype=np.bool_)
    if training.sampler == "shuffle":
        number_of_pass, place = divmod(number, training.batches_per_pass)
        order = _rng.stream(root, "shuffle", number_of_pass).permutation(slots)
        start, end = (at * slots // training.batches_per_pass for at in (place, place + 1))
        drawn[order[start:end]] = True
        return Draw(drawn=drawn, chosen=drawn)
    rng = _rng.stream(root, "slots", number)
    if training.sampler == "without-replacement":
        drawn[rng.choice(slots, sample_size(training, slots), replace=False, shuffle=False)] = True
        return Draw(drawn=drawn, chosen=drawn)
    drawn = rng.random(slots) < training.unit_rate
    everyone, limit = np.flatnonzero(drawn), training.cohort_limit or slots
    if everyone.size <= limit:
        return Draw(drawn=drawn, chosen=drawn)
    chosen = np.zeros_like(drawn)
    chosen[_rng.stream(root, "cut", number).choice(everyone, limit, replace=False, shuffle=False)] = True
    return Draw(drawn=drawn, chosen=chosen)


def sample_size(training: TrainingSection, slots: int) -> int:
    """Return the size of a sample without replacement."""
    return min(slots, max(1, round(training.unit_rate * slots)))


def largest_cohort(training: TrainingSection, population: Population, *, canaries: int = 0) -> int | None:
    """Return the largest number of units that a cohort can hold, where the sampler fixes it (to pad to); else None."""
    slots = population.units + canaries
    if training.sampler == "poisson-padded":
        return min(training.cohort_limit or slots, population.units)
    if training.sampler == "without-replacement":
        return min(sample_size(training, slots), population.units)
    if training.sampler == "shuffle":
        return min(-(-slots // training.batches_per_pass), population.units)
    return None


def expected_contributions(training: TrainingSection, population: Population) -> float:
    """Return the expected number of sampled units per round before drop-outs: the fixed, public denominator.

    With dp-local it is the expected number of clients, whose updates the server averages.

    Never the realised number: dividing by it would make the noise depend on the secret sample. The number of units
    is taken as public (it is in the ledger's header).
    """
    if training.local_steps:
        return training.client_sampling_rate * population.clients
    if training.sampler == "shuffle":
        return population.units / training.batches_per_pass
    if training.sampler == "without-replacement":
        return float(sample_size(training, population.units))
    rate = training.unit_rate
    if population.client_of is not None:
        rate *= training.client_sampling_rate
    return rate * population.units


def header(training: TrainingSection, *, slots: int) -> dict[str, object]:
    """Return the sampler as the ledger's header states it: what ran, in the words of `dpaudit.samplers`."""
    rates: dict[str, object] = {
        "client_rate": training.client_sampling_rate,
        "example_rate": training.example_sampling_rate,
        "dropout_rate": training.dropout_rate,
    }
    if training.sampler == "poisson":
        return {"kind": "poisson", **rates}
    if training.sampler == "poisson-padded":
        size = {"max_batch_size": training.cohort_limit, "dataset_size": slots}
        return {"kind": "truncated-poisson", **rates, **size}
    dropout = {"dropout_rate": training.dropout_rate}
    if training.sampler == "without-replacement":
        size = {"sample_size": sample_size(training, slots), "population": slots}
        return {"kind": "without-replacement", **size, **dropout}
    return {"kind": "shuffle", "batches": training.batches_per_pass, "population": slots, **dropout}

"""Rounds as the canary audit reads them: independent noisy sums, with who could be in each and who was.

With dp-local every local step is such a sum, of one client each: a canary's line holds nothing where its client was not
there.

With a noise draw per round a round is such a sum as it stands. The rounds of a tree (dp-ftrl) share noise; from the
sums over a tree's rounds follows one sum per node with noise of its own, which is a sum over a block of rounds.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpaudit.config import RunConfig
from dpaudit.errors import DataError
from dpaudit.events import TreeAggregation
from dpaudit.federated.data import FederatedData
from dpaudit.federated.run_files import TrainingRun, load_slots
from dpaudit.ledger import PrivacyLedger

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """Independent noisy sums: `observations`, `eligible` and `present`, all (releases, m).

    `eligible` is what everybody may know: whether the canary could be in this sum. `plain` (rounds,) marks the rounds
    whose noise is one fresh draw (all, but for trees, and for rounds that released nothing). `inflation` (releases,) is
    the noise that a release had by the ledger over what was promised: above 1 where more shares of it came. `partial`:
    there is a sum only where the canary was eligible (dp-local).
    """

    observations: Floats
    eligible: Bools
    present: Bools
    plain: Bools
    inflation: NDArray[np.float64]
    partial: bool = False

    @property
    def released(self) -> Bools:
        """Return which observations are of a noised sum, (releases, m)."""
        return self.eligible if self.partial else np.ones_like(self.eligible)


def tree_starts(ledger: PrivacyLedger, rounds: int) -> Ints:
    """Return the first round of the tree that each round belongs to, by the last attempt of each round."""
    begins = np.zeros(rounds, dtype=np.bool_)
    for entry in ledger.events():
        number = entry.facts.get("round")
        if isinstance(number, int) and number < rounds:
            begins[number] = isinstance(entry.event, TreeAggregation)
    return np.maximum.accumulate(np.where(begins, np.arange(rounds), 0))


def node_sizes(starts: Ints) -> Ints:
    """Return how many rounds the node covers that each round completes: the lowest bit of its position in the tree."""
    position = np.arange(starts.size) - starts + 1
    return np.asarray(position & -position)


def over_nodes(values: NDArray[np.generic], starts: Ints) -> NDArray[np.float64]:
    """Return, for each round, the sum of `values` (rounds, ...) over the rounds of the node that it completes."""
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    return np.asarray(total[ends] - total[ends - node_sizes(starts)])


def noise_inflation(ledger: PrivacyLedger, rounds: int) -> NDArray[np.float64]:
    """Return the noise of each round by the ledger over what was promised, by its last attempt; NaN: not released."""
    found = np.ones(rounds)
    for entry in ledger.events():
        number, expected = entry.facts.get("round"), entry.facts.get("noise_stddev_expected")
        if not isinstance(number, int) or number >= rounds:
            continue
        if "withheld" in entry.facts:
            found[number] = np.nan
        else:
            found[number] = 1.0 if expected is None else float(expected) / float(entry.facts["noise_stddev"])
    return found


def releases_of(config: RunConfig, run: TrainingRun, ledger: PrivacyLedger, present: Bools) -> Releases:
    """Return the releases of a run to its Dirac canaries; `present` (rounds, m) says which took part in each round."""
    eligible = seen_as_eligible(config, run.out, run.canary_eligible(), slot=run.units)
    if config.training.algorithm != "dp-ftrl":
        inflation = noise_inflation(ledger, run.rounds_done)
        shown = ~np.isnan(inflation)
        if config.training.local_steps:
            return Releases(
                observations=run.observations, eligible=eligible, present=present, plain=shown,
                inflation=np.repeat(inflation, run.steps), partial=True,
            )  # fmt: skip
        if shown.all():
            return Releases(
                observations=run.observations, eligible=eligible, present=present, plain=shown, inflation=inflation
            )
        return Releases(
            observations=run.observations[shown], eligible=eligible[shown], present=present[shown], plain=shown,
            inflation=inflation[shown],
        )  # fmt: skip
    starts = tree_starts(ledger, run.rounds_done)
    return Releases(
        observations=over_nodes(np.asarray(run.observations), starts),
        eligible=over_nodes(eligible, starts) > 0,
        present=over_nodes(present, starts) > 0,
        plain=node_sizes(starts) == 1,
        inflation=np.ones(run.rounds_done),
    )


def seen_as_eligible(config: RunConfig, out: Path, eligible: Bools, *, slot: int) -> Bools:
    """Return who could have taken part as far as everybody may know; the slots of the canaries begin at `slot`.

    There is no credit for a sampler whose cohorts may be public.
    """
    slots = load_slots(out) if config.training.public_cohort else None
    return eligible if slots is None else np.asarray(eligible & slots[1][:, slot : slot + eligible.shape[1]])


def mean_over_nodes(values: Floats, counted: Bools, starts: Ints) -> NDArray[np.float64]:
    """Return, for each round, the mean of `values` where they are counted over the rounds of its node; 0 for none."""
    return over_nodes(np.where(counted, values, 0.0), starts) / np.maximum(over_nodes(counted, starts), 1.0)


def client_ids(data: FederatedData) -> NDArray[np.int64]:
    """Return the client of each training example; raise DataError when the data do not say."""
    if data.train.client is None:
        raise DataError("the training data came without client ids; partition them.")
    return data.train.client.astype(np.int64)

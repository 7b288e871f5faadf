"""Gradient canaries: pseudo-units that contribute in a coordinate the model does not use.

The vector that the server aggregates is the model's parameters (P) followed by one coordinate per canary. Canary j,
if its coin says that it is in, behaves as every unit does: it is sampled by the same coins, screened, clipped and
summed by the same code. Its raw contribution, `norm_factor` clip norms along coordinate P + j, is the worst case of
the mechanism (a full clip norm in a known direction that nothing else touches), and it cannot harm the model.
Nasr et al. (arXiv:2302.07956, section 5) call this a Dirac canary; one coin per canary is the design of Steinke et
al. (arXiv:2305.08846).

Example level: canary j is an example of client `client[j]` and drops out with it. Client level: canary j is a
pseudo-client of its own, with id clients + j, that always answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import CanarySection, TrainingSection
from dpaudit.federated.clipping import Block
from dpaudit.federated.sampling import Cohort, Population

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Canaries:
    """The canaries of a run: who holds each, the secret coins, and the raw contribution in clip norms."""

    client: Indices
    coins: Bools
    norm_factor: float
    example_level: bool

    @property
    def count(self) -> int:
        """Number of canaries, in or out."""
        return int(self.coins.size)


def make_canaries(section: CanarySection, population: Population, *, root: int) -> Canaries:
    """Flip the coins and deal the canaries out to clients (example level) or make each a client (client level)."""
    coins = _rng.stream(root, "canary-coins").random(section.count) < 0.5
    example_level = population.client_of is not None
    if example_level:
        dealt = np.arange(section.count, dtype=np.int64) % population.clients
        client = _rng.stream(root, "canary-clients").permutation(dealt)
    else:
        client = population.clients + np.arange(section.count, dtype=np.int64)
    return Canaries(client=client, coins=coins, norm_factor=section.norm_factor, example_level=example_level)


NO_CANARIES = Canaries(client=np.zeros(0, np.int64), coins=np.zeros(0, np.bool_), norm_factor=1.0, example_level=True)


def takes_part(canaries: Canaries, training: TrainingSection, cohort: Cohort, *, root: int) -> Bools:
    """Return (m,) which canaries contribute in this round: coin in, chosen by the sampler of its kind of unit."""
    if canaries.count == 0:
        return np.zeros(0, dtype=np.bool_)
    chance = _rng.stream(root, "canary-sampling", cohort.number).random(canaries.count)
    if canaries.example_level:
        chosen = cohort.answered[canaries.client] & (chance < training.example_sampling_rate)
    else:
        chosen = chance < training.client_sampling_rate
    return np.asarray(canaries.coins & chosen)


def contributions(canaries: Canaries, present: Bools, *, parameters: int, clip_norm: float) -> Iterator[Block]:
    """Yield the raw rows (n, parameters + m) of the canaries that are `present`, in blocks; their units are -1 - j."""
    width = parameters + canaries.count
    size = max(1, _BLOCK_BYTES // (4 * width))
    everyone = np.flatnonzero(present)
    for start in range(0, everyone.size, size):
        index = everyone[start : start + size]
        rows = np.zeros((index.size, width), dtype=np.float32)
        rows[np.arange(index.size), parameters + index] = canaries.norm_factor * clip_norm
        yield Block(units=-1 - index, rows=rows)

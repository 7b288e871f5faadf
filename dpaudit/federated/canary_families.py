"""More kinds of canaries beside the Dirac canaries of `canaries`: in directions of the model, as data, as clients.

A *family* is a set of canaries of one kind, with coins of its own. What a canary adds to a round passes the same clip
as everything else, so families never change the sensitivity; and nothing is noised for them that is not noised anyway.

* `random`: a random unit direction of the model's parameters (Andrew et al., arXiv:2302.03098, section 3).
* `chosen`: one coordinate of the model each (a Dirac canary in coordinates that training uses too).
* `feature`: an example that alone holds a private one-hot feature, such as a device id (`with_private_features`).
* `mislabelled`: an example with a wrong label; `blank`: an empty example (Nasr et al., arXiv:2101.04535).

At the level of clients every canary is a pseudo-client: with `random` and `chosen` it sends an update, with the others
it holds such examples and trains on them as clients do (client canaries). At the level of examples a canary belongs to
a client and can take part where the client does.

What is observed of a canary is the inner product of the noised sum with the canary's own unit direction, in clip
norms. For data canaries that is the direction of its gradient (or update) at the weights of the round. Other units
contribute along it too, so that it is not Gaussian with a known mean: of the audits only those that assume nothing
about scores (`one-run`) may read it, none that reads noise from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import TrainingSection
from dpaudit.errors import UsageError
from dpaudit.federated.clipping import Block
from dpaudit.federated.data import Dataset
from dpaudit.federated.sampling import Cohort, Population

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]
Kind = Literal["random", "chosen", "feature", "mislabelled", "blank"]
INPUT_KINDS = ("feature", "mislabelled", "blank")
_BLOCK_BYTES = 32 * 2**20


class Engine(Protocol):
    """What of `dpaudit.federated.engine.Engine` is needed: an engine over the canaries' own examples."""

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Any]:
        """Yield blocks of rows for `cohort.units`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A set of canaries of one kind: who holds each, the secret coins, and what each would contribute.

    `coordinates` (m,) belong to `chosen`; `engine` runs the examples of the data kinds, whose units are 0..m-1.
    """

    name: str
    kind: Kind
    client: Indices
    coins: Bools
    norm_factor: float
    example_level: bool
    root: int
    parameters: int
    coordinates: Indices | None = None
    engine: Engine | None = field(default=None, compare=False)

    @property
    def count(self) -> int:
        """Number of canaries, in or out."""
        return int(self.coins.size)

    def eligible(self, cohort: Cohort) -> Bools:
        """Return (m,) which canaries could take part, whatever their coins: their client answered, or is their own."""
        return cohort.answered[self.client] if self.example_level else np.ones(self.count, np.bool_)

    def takes_part(self, training: TrainingSection, cohort: Cohort) -> Bools:
        """Return (m,) which canaries contribute in this round: coin in, and chosen by a sampling coin of their own.

        Raises: UsageError for samplers other than Poisson's, where canaries would have to be among the slots.
        """
        if training.sampler != "poisson":
            raise UsageError(f"canary families need training.sampler = 'poisson'; it is {training.sampler!r}.")
        chance = _rng.stream(self.root, f"canary-sampling/{self.name}", cohort.number).random(self.count)
        rate = training.example_sampling_rate if self.example_level else training.client_sampling_rate
        return np.asarray(self.coins & self.eligible(cohort) & (chance < rate))

    def rows(self, weights: Vector, number: int, wanted: Indices, *, clip_norm: float) -> Iterator[Block]:
        """Yield what the canaries at `wanted` contribute in round `number`, before clipping, in blocks of any size.

        The rows do not depend on the coins. Args: weights (parameters,) at the start of the round.
        """
        if self.engine is not None:
            if wanted.size:
                nobody = np.zeros(0, np.bool_)
                cohort = Cohort(number=number, sampled=nobody, answered=nobody, units=wanted)
                yield from self.engine.run_cohort(weights, cohort)
            return
        size = max(1, _BLOCK_BYTES // (4 * self.parameters))
        for start in range(0, wanted.size, size):
            units = wanted[start : start + size]
            yield Block(units=units, rows=self._directions(units) * np.float32(self.norm_factor * clip_norm))

    def _directions(self, units: Indices) -> Matrix:
        rows = np.zeros((units.size, self.parameters), np.float32)
        if self.coordinates is not None:
            rows[np.arange(units.size), self.coordinates[units]] = 1.0
            return rows
        for row, unit in zip(rows, units.tolist(), strict=True):
            drawn = _rng.stream(self.root, f"canary-direction/{self.name}", unit).standard_normal(self.parameters)
            row[:] = drawn / np.linalg.norm(drawn)
        return rows

    def contributions(
        self, weights: Vector, training: TrainingSection, cohort: Cohort, *, clip_norm: float
    ) -> Iterator[Block]:
        """Yield the raw rows of the canaries that take part; the server screens, clips and adds them as any others."""
        yield from self.rows(
            weights, cohort.number, np.flatnonzero(self.takes_part(training, cohort)), clip_norm=clip_norm
        )

    def observe(self, released: Vector, weights: Vector, number: int, *, clip_norm: float) -> Vector:
        """Return (m,) the inner products of the noised sum with each canary's unit direction, in clip norms.

        Args:
            released: the model's part (parameters,) of the noised sum of round `number`.
            weights: the weights at the start of that round.
            number: the round.
            clip_norm: of that round.

        A canary without a direction in this round (a gradient that is zero or not finite) is observed as 0.
        """
        seen = np.zeros(self.count)
        for block in self.rows(weights, number, np.arange(self.count), clip_norm=clip_norm):
            rows = np.asarray(block.rows, dtype=np.float64)
            norms = np.linalg.norm(rows, axis=1)
            fit = np.isfinite(norms) & (norms > 0)
            seen[block.units[fit]] = (rows[fit] @ released[: self.parameters]) / norms[fit] / clip_norm
        return seen


def make_family(
    kind: Kind,
    *,
    count: int,
    population: Population,
    parameters: int,
    root: int,
    name: str | None = None,
    norm_factor: float = 10.0,
    coordinates: Sequence[int] | None = None,
    engine: Engine | None = None,
) -> Family:
    """Flip the coins of a family and deal its canaries out.

    Args:
        kind: see the module.
        count: number of canaries, in or out.
        population: the real units of the run.
        parameters: of the model.
        root: root seed; every family has streams of its own, by its name.
        name: of the family and its files; the kind if None.
        norm_factor: raw length of a `random` or `chosen` contribution, in clip norms.
        coordinates: (count,) of `chosen`; drawn without repetition if None.
        engine: for the data kinds, an engine that yields rows, over `canary_examples`.

    Raises: UsageError when a data kind comes without an engine, or there are too few coordinates.
    """
    label = name or kind
    if (kind in INPUT_KINDS) != (engine is not None):
        raise UsageError(
            f"canaries of kind {kind!r} need an engine exactly if they are data ({', '.join(INPUT_KINDS)})."
        )
    where = None
    if kind == "chosen":
        if count > parameters:
            raise UsageError(f"{count} canaries need as many coordinates; the model has {parameters}.")
        drawn = _rng.stream(root, f"canary-coordinates/{label}").permutation(parameters)[:count]
        where = np.asarray(drawn if coordinates is None else coordinates, dtype=np.int64)
        if where.shape != (count,) or np.unique(where).size != count or not np.isin(where, np.arange(parameters)).all():
            raise UsageError(f"coordinates must be {count} different numbers from 0 to {parameters - 1}.")
    example_level = population.client_of is not None
    dealt = np.arange(count, dtype=np.int64)
    if example_level:
        dealt = _rng.stream(root, f"canary-clients/{label}").permutation(dealt % population.clients)
    return Family(
        name=label, kind=kind, client=dealt if example_level else population.clients + dealt,
        coins=_rng.stream(root, f"canary-coins/{label}").random(count) < 0.5, norm_factor=norm_factor,
        example_level=example_level, root=root, parameters=parameters, coordinates=where, engine=engine,
    )  # fmt: skip


def with_private_features(data: Dataset, count: int) -> Dataset:
    """Return the data with `count` features more, all 0: the private one-hot features of `feature` canaries.

    The model must be built for the wider input.

    Raises: UsageError unless the features are vectors.
    """
    if data.x.ndim != 2:
        raise UsageError(f"private features can be appended to vectors; the examples have shape {data.x.shape[1:]}.")
    return replace(data, x=np.pad(data.x, ((0, 0), (0, count))))


def canary_examples(
    kind: Kind, data: Dataset, *, count: int, root: int, name: str | None = None, each: int = 1
) -> Dataset:
    """Return the examples of data canaries: `each` of them for every canary 0..count-1, which is their `client`.

    Args:
        kind: `feature` (the last `count` features of `data` are the private ones), `mislabelled` or `blank`.
        data: the training data; mislabelled and feature canaries are copies of its examples.
        count: number of canaries.
        root: root seed.
        name: of the family.
        each: examples per canary: 1 at the level of examples; what a pseudo-client holds at that of clients.

    Raises: UsageError for more blank canaries than classes (they would be copies of each other, and say nothing about
        each other's coins), or fewer features than canaries.
    """
    rng = _rng.stream(root, f"canary-examples/{name or kind}")
    owner = np.repeat(np.arange(count, dtype=np.int32), each)
    like = rng.integers(data.y.size, size=owner.size)
    x, y = data.x[like].copy(), data.y[like].copy()
    if kind == "blank":
        if count > data.classes:
            raise UsageError(f"blank canaries differ by their label only: at most {data.classes} are possible.")
        x[:], y = 0.0, owner % np.int32(data.classes)
    elif kind == "mislabelled":
        shift = rng.integers(1, data.classes, size=count)[owner]
        y = ((y + shift) % data.classes).astype(np.int32)
    elif kind == "feature":
        if data.x.ndim != 2 or data.x.shape[1] <= count:
            raise UsageError("call with_private_features first: every canary needs a feature of its own.")
        x[np.arange(owner.size), data.x.shape[1] - count + owner] = 1.0
    else:
        raise UsageError(f"{kind!r} canaries are no data; data kinds are {', '.join(INPUT_KINDS)}.")
    return replace(data, x=x, y=y, client=owner, name=f"{data.name} ({kind} canaries)")

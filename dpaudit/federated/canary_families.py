"""More kinds of canaries beside the Dirac canaries of `canaries`: in directions of the model, as data, as clients.

A *family* is a set of canaries of one kind, with coins of its own. What a canary adds to a round passes the same
screen and the same clip as everything else, so families never change the sensitivity; and nothing is noised for them
that is not noised anyway.

* `random`: a random unit direction of the model's parameters (Andrew et al., arXiv:2302.03098, section 3).
* `chosen`: one coordinate of the model each (a Dirac canary in coordinates that training uses too).
* `feature`: an example that alone holds a private one-hot feature, such as a device id.
* `mislabelled`: an example with a wrong label; `blank`: an empty example (Nasr et al., arXiv:2101.04535).

At the level of clients every canary is a pseudo-client: with `random` and `chosen` it sends an update, with the others
it holds such examples and trains on them as clients do (client canaries). At the level of examples a canary belongs to
a client and can take part where the client does.

Other units contribute along a canary's direction too, so that what is seen of it is not Gaussian with a known mean: of
the audits only those that assume nothing about scores (`one-run`) may read it, none that reads noise from it.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import CanaryFamily, RunConfig, TrainingSection
from dpaudit.errors import UsageError
from dpaudit.federated import engine
from dpaudit.federated.canary_data import MISLABELLED, canary_examples
from dpaudit.federated.canary_sources import Coordinates, Examples, RandomDirections, Source
from dpaudit.federated.sampling import Cohort, Population

if TYPE_CHECKING:
    from dpaudit.federated.clients import ClientFunctions
    from dpaudit.federated.data import Dataset, FederatedData

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A set of canaries of one kind: who holds each, (m,), the secret coins, (m,), and what each contributes.

    Canary j has the slot `slot + j` of the samplers that choose among slots.
    """

    name: str
    kind: str
    client: Indices
    coins: Bools
    example_level: bool
    root: int
    slot: int
    source: Source = field(compare=False)

    @property
    def count(self) -> int:
        """Number of canaries, in or out."""
        return int(self.coins.size)

    def eligible(self, cohort: Cohort) -> Bools:
        """Return (m,) which canaries could take part, whatever their coins: their client answered, or is their own."""
        return cohort.answered[self.client] if self.example_level else np.ones(self.count, np.bool_)

    def takes_part(self, training: TrainingSection, cohort: Cohort) -> Bools:
        """Return (m,) which canaries contribute in this round: coin in, and chosen by the sampler of its kind of unit.

        With Poisson sampling every canary has a sampling coin of its own; other samplers choose its slot.
        """
        if cohort.draw is not None:
            chosen = cohort.draw.chosen[self.slot : self.slot + self.count]
        else:
            chance = _rng.stream(self.root, f"canary-sampling/{self.name}", cohort.number).random(self.count)
            chosen = chance < training.unit_rate
        return np.asarray(self.coins & self.eligible(cohort) & chosen)


def make_family(section: CanaryFamily, source: Source, population: Population, *, first: int, root: int) -> Family:
    """Flip the coins of a family and deal its canaries out to clients, or make each a client.

    Args:
        section: its configuration.
        source: what its canaries contribute.
        population: the real units of the run.
        first: number of canaries before those of this family.
        root: root seed; every family has streams of its own, by its name.
    """
    dealt, example_level = np.arange(section.count, dtype=np.int64), population.client_of is not None
    if example_level:
        dealt = _rng.stream(root, f"canary-clients/{section.name}").permutation(dealt % population.clients)
    return Family(
        name=section.name, kind=section.kind, client=dealt if example_level else population.clients + first + dealt,
        coins=_rng.stream(root, f"canary-coins/{section.name}").random(section.count) < 0.5,
        example_level=example_level, root=root, slot=population.units + first, source=source,
    )  # fmt: skip


def gradient_source(section: CanaryFamily, *, parameters: int, root: int) -> Source:
    """Return the source of a `random` or `chosen` family.

    Raises: UsageError when there are fewer parameters than chosen coordinates, or a coordinate is none of the model.
    """
    if section.kind == "random":
        return RandomDirections(
            count=section.count, parameters=parameters, norm_factor=section.norm_factor, root=root, name=section.name
        )
    if section.count > parameters:
        raise UsageError(
            f"canaries of kind 'chosen' need a coordinate each: {section.name!r} has {section.count}, and the model "
            f"{parameters} parameters."
        )
    where = section.coordinates
    drawn = _rng.stream(root, f"canary-coordinates/{section.name}").permutation(parameters)[: section.count]
    places = np.asarray(drawn if where is None else where, dtype=np.int64)
    if places.max() >= parameters:
        raise UsageError(
            f"coordinates of {section.name!r} must be from 0 to {parameters - 1}, the model's; got {places.max()}."
        )
    return Coordinates(places=places, parameters=parameters, norm_factor=section.norm_factor)


def data_source(
    section: CanaryFamily,
    examples: "Dataset",
    functions: "ClientFunctions",
    training: TrainingSection,
    *,
    noise_multiplier: float,
    root: int,
) -> Source:
    """Return the source of a data family: engines like the run's, over its own examples."""
    sender = engine.make_engine(functions, examples, training, root=root)
    single = sender if training.protects_clients else engine.FedSgdEngine(functions, examples, root=root)
    return Examples(count=section.count, sender=sender, observer=single, noise_multiplier=noise_multiplier)


def make_families(
    config: RunConfig,
    data: "FederatedData",
    population: Population,
    functions: "ClientFunctions",
    *,
    noise_multiplier: float,
    root: int,
) -> tuple[Family, ...]:
    """Return the canary families of a run, in the order of the configuration.

    Raises: UsageError when the model or the data do not fit a family.
    """
    found: list[Family] = []
    first, feature, original = config.canaries.count, data.train.x.shape[-1] - config.canaries.private_features, 0
    for section in config.canaries.family:
        if section.is_data:
            mine = _originals(data.originals, original, section.count) if section.kind == MISLABELLED else None
            examples = canary_examples(section, data.train, mine, first_feature=feature, root=root)
            source = data_source(
                section, examples, functions, config.training, noise_multiplier=noise_multiplier, root=root
            )
            original += section.count if section.kind == MISLABELLED else 0
            feature += section.count if section.kind == "feature" else 0
        else:
            source = gradient_source(section, parameters=functions.parameters, root=root)
        found.append(make_family(section, source, population, first=first, root=root))
        first += section.count
    return tuple(found)


def _originals(data: "Dataset | None", start: int, count: int) -> "Dataset | None":
    """Return the originals of the canaries start..start+count-1, numbered from 0."""
    if data is None:
        return None
    owner = np.asarray(data.client)
    mine = data.take(np.flatnonzero((owner >= start) & (owner < start + count)))
    return replace(mine, client=np.asarray(mine.client) - np.int32(start))

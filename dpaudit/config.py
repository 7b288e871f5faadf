"""Run configuration: TOML to typed, frozen models; every problem at once, with its line and the nearest valid key."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpaudit._objects import is_object_name
from dpaudit._toml import locate, problems_of
from dpaudit.errors import ConfigError, DataError
from dpaudit.records import Relation, Unit

Rate = Annotated[float, Field(gt=0, le=1)]
OpenUnit = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

DISTRIBUTED_NOISE = ("tfp-discrete-gaussian", "tfp-skellam")
"""Aggregators whose noise comes with the contributions, a share with each."""
AGGREGATORS = ("gaussian", "tfp-gaussian", "tfp-adaptive-clip", "tfp-tree", *DISTRIBUTED_NOISE)


def _known_aggregator(name: str) -> str:
    if name in AGGREGATORS or is_object_name(name):
        return name
    near = difflib.get_close_matches(name, AGGREGATORS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"must be one of {', '.join(AGGREGATORS)}, or module:function that takes a QueryRequest and returns a "
        f"tensorflow-privacy DPQuery; got {name!r}{hint}"
    )


Aggregator = Annotated[str, AfterValidator(_known_aggregator)]
Algorithm = Literal["dp-fedsgd", "dp-fedavg", "dp-ftrl", "dp-local"]
Sampler = Literal["poisson", "poisson-padded", "without-replacement", "shuffle"]
CanaryMethod = Literal["one-run", "one-run-fdp", "one-run-max", "mean-shift", "per-step"]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSection(Section):
    """What this run is called and where its randomness comes from."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    seed: int | Literal["os-entropy"] = "os-entropy"
    """A whole number makes the run reproducible (and its noise predictable: for tests and demonstrations)."""


class ClaimSection(Section):
    """The privacy that will be claimed for the released model."""

    epsilon: Positive
    delta: OpenUnit
    unit: Unit
    relation: Literal[Relation.ADD_OR_REMOVE_ONE] = Relation.ADD_OR_REMOVE_ONE


class IotOptions(Section):
    """The generated fleet of sensors; see dpaudit.federated.iot."""

    devices: Count = 300
    windows_per_device: Count = 40
    heterogeneity: NonNegative = 1.0


class DataSection(Section):
    """Where the examples come from: a bundled real data set, the IoT generator, or a file."""

    source: str
    """`digits`, `iot`, the path of an .npz (x, y, optional client), .csv or .parquet file, or `module:function`, which
    returns a `tf.data.Dataset` or arrays."""
    holdout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the units kept out of training: test set and non-members of the attacks."""
    label: str = "label"
    client: str | None = None
    iot: IotOptions = IotOptions()


class PartitionSection(Section):
    """How examples are spread over clients."""

    kind: Literal["iid", "dirichlet", "by-client"] = "dirichlet"
    clients: Count | None = None
    alpha: Positive = 0.5
    max_examples_per_client: Count | None = None
    """User-level bound on contributions: of a client with more examples, so many are kept, at random."""


class ModelSection(Section):
    """The Keras model: a built-in MLP, or `module:function` that takes (input_shape, classes) and returns one."""

    hidden: tuple[Count, ...] = (64,)
    builder: str | None = None


class TrainingSection(Section):
    """The algorithm, its sampling and its noise."""

    algorithm: Algorithm
    rounds: Count
    client_sampling_rate: Rate
    example_sampling_rate: Rate = 1.0
    sampler: Sampler = "poisson"
    """How units are chosen; see docs/sampling.md. dp-ftrl goes through its clients in shuffled batches ("shuffle")."""
    cohort_limit: Count | None = None
    """Largest cohort of `poisson-padded`, canaries included; larger ones are cut at random, which is accounted for."""
    clip_norm: Positive = 1.0
    noise_multiplier: Positive | Literal["calibrate"] = "calibrate"
    aggregator: Aggregator = "gaussian"
    minimum_contributions: Count | None = None
    """With distributed noise: the least number of contributions, which carry the whole noise; fewer release nothing."""
    secure_aggregation: bool = False
    """Devices mask their updates, so that the server sees noised sums only; for dp-fedavg with distributed noise."""
    server_optimizer: Literal["sgd", "adam"] = "sgd"
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    local_epochs: Count = 1
    local_batch_size: Count = 16
    local_learning_rate: Positive = 0.1
    update_limit: Positive | None = None
    """dp-local: L2 norm, in units of the weights, to which the server scales longer updates; no privacy rests on it."""
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of sampled clients that fail to answer (simulated, as real fleets do)."""
    checkpoint_every: Count = 10
    tensorboard: bool = False
    """Write epsilon, rounds per second and hold-out accuracy for TensorBoard, to `tensorboard/` in the run's folder."""

    @model_validator(mode="before")
    @classmethod
    def _sampler_of_algorithm(cls, body: object) -> object:
        if isinstance(body, dict) and body.get("algorithm") == "dp-ftrl":
            return {"sampler": "shuffle", **body}
        return body

    @property
    def protects_clients(self) -> bool:
        """Whether the unit of privacy is the client (else the example)."""
        return self.algorithm in ("dp-fedavg", "dp-ftrl")

    @property
    def unit_rate(self) -> float:
        """Rate of the coin of the protected unit: per client, or per example."""
        return self.client_sampling_rate if self.protects_clients else self.example_sampling_rate

    @property
    def public_cohort(self) -> bool:
        """Whether cohorts are accounted for as if everybody knew them."""
        return self.sampler == "shuffle" or self.aggregator in DISTRIBUTED_NOISE

    @property
    def batches_per_pass(self) -> int:
        """Batches that one pass of the sampler `shuffle` is cut into."""
        return max(1, round(1 / self.unit_rate))

    @property
    def local_steps(self) -> int:
        """Steps of DP-SGD that a client makes in a round of dp-local, each on a Poisson sample; 0 elsewhere."""
        return self.local_epochs * self.batches_per_pass if self.algorithm == "dp-local" else 0

    @model_validator(mode="after")
    def _local_fits(self) -> Self:
        if self.algorithm != "dp-local":
            if self.update_limit is not None:
                raise ValueError("training.update_limit belongs to dp-local; elsewhere clip_norm bounds updates")
            return self
        if self.sampler != "poisson":
            raise ValueError(
                f"dp-local needs training.sampler = 'poisson', got {self.sampler!r}: every device draws its own local "
                "batches, which no sampler over all devices can cut, fix or shuffle"
            )
        if self.aggregator != "gaussian":
            raise ValueError(
                f"dp-local needs training.aggregator = 'gaussian', got {self.aggregator!r}: devices add the noise, "
                "and the server averages what they send without noise of its own"
            )
        if "local_batch_size" in self.model_fields_set:
            raise ValueError(
                "dp-local draws its local batches by training.example_sampling_rate; leave local_batch_size out"
            )
        return self

    @model_validator(mode="after")
    def _sampler_fits(self) -> Self:
        if self.algorithm == "dp-ftrl" and self.sampler != "shuffle":
            raise ValueError('dp-ftrl needs training.sampler = "shuffle": each client at most once per tree')
        if self.algorithm == "dp-ftrl" and self.aggregator not in ("gaussian", "tfp-tree"):
            raise ValueError('dp-ftrl needs training.aggregator = "gaussian" (our tree) or "tfp-tree"')
        if self.algorithm != "dp-ftrl" and self.aggregator == "tfp-tree":
            raise ValueError('training.aggregator = "tfp-tree" belongs to training.algorithm = "dp-ftrl"')
        self._distributed_noise_fits()
        if (self.cohort_limit is None) == (self.sampler == "poisson-padded"):
            raise ValueError('training.cohort_limit belongs to training.sampler = "poisson-padded", which needs it')
        if self.sampler == "shuffle" and abs(self.unit_rate * self.batches_per_pass - 1) > 0.02:
            raise ValueError(
                f"a pass is cut into whole batches: the sampling rate must be 1 / k (such as "
                f"{1 / self.batches_per_pass:.6g}), got {self.unit_rate:g}"
            )
        if self.sampler != "poisson" and not self.protects_clients and self.client_sampling_rate != 1.0:
            raise ValueError(
                f"training.sampler = {self.sampler!r} chooses examples among those of all clients; at example level "
                "training.client_sampling_rate must be 1"
            )
        return self

    def _distributed_noise_fits(self) -> None:
        distributed = self.aggregator in DISTRIBUTED_NOISE
        if self.secure_aggregation and not (distributed and self.algorithm == "dp-fedavg"):
            raise ValueError(
                'training.secure_aggregation needs training.algorithm = "dp-fedavg" (a device sends one update) and '
                f"training.aggregator = {' or '.join(map(repr, DISTRIBUTED_NOISE))}: sums of integers, with the noise "
                "added on the devices"
            )
        if distributed != (self.minimum_contributions is not None):
            raise ValueError(
                "training.minimum_contributions belongs to distributed noise (training.aggregator = "
                f"{' or '.join(map(repr, DISTRIBUTED_NOISE))}), which needs it: how many contributions carry the noise"
            )
        everybody = self.sampler == "poisson" and self.unit_rate == self.client_sampling_rate == 1.0
        if distributed and self.sampler not in ("without-replacement", "shuffle") and not everybody:
            raise ValueError(
                f"with training.aggregator = {self.aggregator!r} every contribution carries a share of the noise, so "
                "that the size of the cohort shows in the noise and in what is released at all: it must be no secret. "
                'With Poisson sampling it is one. Use training.sampler = "without-replacement" or "shuffle", or a '
                "sampling rate of 1"
            )


FamilyKind = Literal["random", "chosen", "feature", "mislabelled", "blank"]
GRADIENT_KINDS = ("random", "chosen")
"""Kinds of canaries that are directions of the model; the other kinds are examples."""
_RESERVED = ("canaries", "coins")


class CanaryFamily(Section):
    """A set of canaries beside the Dirac canaries; see docs/canary-audit.md for the kinds."""

    kind: FamilyKind
    count: Annotated[int, Field(ge=1, le=100_000)]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    """Of its files and bounds; the kind if it is left out."""
    norm_factor: Positive = 10.0
    """Raw length of a `random` or `chosen` canary in clip norms; above 1, so that clipping is under test too."""
    coordinates: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Of `chosen` canaries in the model's weight vector, one each; drawn at random if left out."""
    value: Positive = 16.0
    """Of the private feature of `feature` canaries, whose other features are 0."""
    examples: Count | None = None
    """Client level: examples that a data canary holds; 1 if left out (`mislabelled`: all that its device holds)."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_kind(cls, body: object) -> object:
        if isinstance(body, dict) and "name" not in body and isinstance(body.get("kind"), str):
            return {**body, "name": body["kind"]}
        return body

    @property
    def is_data(self) -> bool:
        """Whether the canaries are examples (else directions of the model)."""
        return self.kind not in GRADIENT_KINDS

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        belongs = {
            "norm_factor": GRADIENT_KINDS,
            "coordinates": ("chosen",),
            "value": ("feature",),
            "examples": ("feature", "mislabelled", "blank"),
        }
        for key, kinds in belongs.items():
            if key in self.model_fields_set and getattr(self, key) is not None and self.kind not in kinds:
                raise ValueError(f"{key} belongs to canaries of kind {' or '.join(kinds)}; this family is {self.kind}")
        if self.name in _RESERVED:
            raise ValueError(f"a canary family cannot be called {self.name!r}: the Dirac canaries' files are")
        if self.coordinates is not None and not len(self.coordinates) == len(set(self.coordinates)) == self.count:
            raise ValueError(f"coordinates of {self.name!r} must be {self.count} different numbers, one each")
        return self


class CanarySection(Section):
    """Dirac canaries (`count`; 0 for none) and families of other kinds, each canary in or out by its own coin.

    Without any canary there is no audit, and the gate is inconclusive.
    """

    count: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    norm_factor: Positive = 10.0
    """A canary's raw contribution in clip norms: above 1, so that clipping is under test too."""
    family: Annotated[tuple[CanaryFamily, ...], Field(max_length=16)] = ()

    @property
    def total(self) -> int:
        """Number of canaries of all kinds, in or out."""
        return self.count + sum(family.count for family in self.family)

    @property
    def private_features(self) -> int:
        """Number of features that are appended to every example for `feature` canaries."""
        return sum(family.count for family in self.family if family.kind == "feature")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [family.name for family in self.family]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two canary families are called {twice[0]!r}; give each a name of its own")
        return self


class AuditSection(Section):
    """How the run is audited."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    methods: tuple[CanaryMethod, ...] = ("one-run", "per-step")
    guesses: Count | None = None
    """Guesses of the one-run methods; None applies the pre-registered rule, which never looks at scores."""
    attacks: tuple[str, ...] = ("loss", "lira")
    reference_models: Annotated[int, Field(ge=0, le=1024)] = 8
    augmented_queries: Annotated[int, Field(ge=0, le=64)] = 0
    """Altered copies of every record that LiRA and RMIA query beside the record itself."""
    executor: Literal["serial", "joblib", "ray"] | None = None
    """Where reference models and simulated audits run: here, in processes of this machine, or on Ray. The numbers are
    the same. None means joblib if several `processes` are asked for, else here."""
    processes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many of them run at a time; None for one per core, or for what an existing Ray cluster has."""
    ray_address: str | None = None
    """Of an existing Ray cluster; None for the environment variable RAY_ADDRESS, or a Ray of our own."""
    detect_factor: Annotated[float, Field(gt=1)] = 2.0
    power_trials: Count = 50

    @property
    def backend(self) -> str:
        """The executor by name."""
        return self.executor or ("joblib" if (self.processes or 1) > 1 else "serial")

    @model_validator(mode="after")
    def _executor_fits(self) -> Self:
        if self.backend == "serial" and (self.processes or 1) > 1:
            raise ValueError('audit.executor = "serial" runs one task at a time; leave audit.processes out')
        if self.ray_address is not None and self.backend != "ray":
            raise ValueError('audit.ray_address belongs to audit.executor = "ray"')
        return self


class DemonstrationSection(Section):
    """Planted faults, for demonstrations and fire drills: the ledger goes on to say what was promised."""

    noise_factor: Positive = 1.0
    """Factor on the standard deviation of the noise that is really added; 0.5 halves it behind the ledger's back."""


class RunConfig(Section):
    """A whole run."""

    run: RunSection
    claim: ClaimSection
    data: DataSection
    partition: PartitionSection = PartitionSection()
    model: ModelSection = ModelSection()
    training: TrainingSection
    canaries: CanarySection = CanarySection()
    audit: AuditSection = AuditSection()
    demonstration: DemonstrationSection = DemonstrationSection()
    policy: str = "standard"
    """A profile (strict, standard, research, demonstration) or the path of a policy file."""

    @model_validator(mode="after")
    def _unit_fits_algorithm(self) -> Self:
        wanted = Unit.CLIENT if self.training.protects_clients else Unit.EXAMPLE
        if self.claim.unit != wanted:
            raise ValueError(
                f"training.algorithm = {self.training.algorithm!r} protects the {wanted.value}; "
                f"claim.unit = {self.claim.unit.value!r} would promise something else"
            )
        if self.training.protects_clients and self.training.example_sampling_rate != 1.0:
            raise ValueError(
                "training.example_sampling_rate belongs to dp-fedsgd and dp-local; leave it out for "
                f"{self.training.algorithm}"
            )
        if self.training.local_steps and self.canaries.family:
            raise ValueError(
                "canaries.family needs an algorithm whose noised sum is the server's; with dp-local a device's sums "
                "stay on it, and only Dirac canaries (canaries.count) can be observed in every local step"
            )
        if not self.training.protects_clients and any(family.examples for family in self.canaries.family):
            raise ValueError("canaries.family.examples belongs to client-level privacy: there a canary is a client")
        if self.partition.kind != "by-client" and self.data.source != "iot" and self.partition.clients is None:
            raise ValueError(f"partition.kind = {self.partition.kind!r} needs partition.clients")
        return self


def load(path: str | Path) -> RunConfig:
    """Read a run configuration; raise ConfigError with every problem, or DataError if it cannot be read."""
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the configuration {source}: {error}.") from error
    return parse(text, source=str(source))


def parse(text: str, *, source: str = "configuration") -> RunConfig:
    """Parse the text of a run configuration; raise ConfigError with every problem."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [f"not valid TOML: {error}"]) from error
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(source, problems_of(error, RunConfig, locate(text))) from error

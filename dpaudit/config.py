"""Run configuration: TOML to typed, frozen models; every problem at once, with its line and the nearest valid key."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dpaudit._toml import locate, problems_of
from dpaudit.config_canaries import GRADIENT_KINDS, CanaryFamily, CanarySection, FamilyKind
from dpaudit.config_fields import Count, NonNegative, OpenUnit, Positive, Section
from dpaudit.config_training import AGGREGATORS, DISTRIBUTED_NOISE, Aggregator, Algorithm, TrainingSection
from dpaudit.errors import ConfigError, DataError
from dpaudit.records import Relation, Unit

__all__ = [
    "AGGREGATORS", "DISTRIBUTED_NOISE", "GRADIENT_KINDS", "Aggregator", "Algorithm", "AuditSection",
    "CanaryFamily", "CanaryMethod", "CanarySection", "ClaimSection", "DataSection", "DemonstrationSection",
    "FamilyKind", "IotOptions", "ModelSection", "PartitionSection", "RunConfig", "RunSection", "Section",
    "TrainingSection", "load", "parse",
]  # fmt: skip

CanaryMethod = Literal["one-run", "one-run-fdp", "one-run-max", "mean-shift", "per-step"]


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

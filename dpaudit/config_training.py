"""The section of a run configuration that says how is trained: algorithm, sampling, aggregator and noise."""

import difflib
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dpaudit._objects import is_object_name
from dpaudit.config_fields import Count, Positive, Rate, Section

DISTRIBUTED_NOISE = ("discrete-gaussian", "skellam")
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

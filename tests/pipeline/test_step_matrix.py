"""The step test of a run passes in every setting of training, and fails in each of them when the noise is halved."""

import numpy as np
import pytest

from dpaudit.config import DISTRIBUTED_NOISE, RunConfig
from dpaudit.federated.aggregation import aggregator_of
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.sampling import expected_contributions
from dpaudit.federated.trainer import population_of
from dpaudit.pipeline.step_check import check_training_step
from dpaudit.records import Status

pytest.importorskip("tensorflow")
CLIENTS, Z = 24, 1.2
MOMENTUM, ADAM = {"server_momentum": 0.5}, {"server_optimizer": "adam", "server_learning_rate": 0.05}


def fleet():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=240).astype(np.int32)
    x = (2.0 * np.eye(3, 10)[y] + rng.standard_normal((240, 10))).astype(np.float32)
    data = Dataset(x=x, y=y, client=(np.arange(240) % CLIENTS).astype(np.int32), classes=3, name="blobs")
    return FederatedData(train=data, holdout=data, clients=CLIENTS)


def config_of(algorithm, sampler, aggregator, optimizer, factor):
    example = algorithm == "dp-fedsgd"
    rates = {"client_sampling_rate": 0.5}
    if example:
        rates = {"client_sampling_rate": 0.5 if sampler == "poisson" else 1.0, "example_sampling_rate": 0.25}
    limit: dict[str, int] = {"cohort_limit": 200} if sampler == "poisson-padded" else {}
    limit |= {"minimum_contributions": 2} if aggregator in DISTRIBUTED_NOISE else {}
    training = {"algorithm": algorithm, "sampler": sampler, "aggregator": aggregator, "rounds": 4, **rates, **limit}
    return RunConfig.model_validate({
        "run": {"name": "matrix", "seed": 1},
        "claim": {"epsilon": 8.0, "delta": 1e-5, "unit": "example" if example else "client"},
        "data": {"source": "digits"},
        "partition": {"kind": "iid", "clients": CLIENTS},
        "model": {"hidden": [64]},
        "training": {**training, "local_batch_size": 4, "clip_norm": 0.7, **optimizer},
        "canaries": {"count": 20},
        "demonstration": {"noise_factor": factor},
    })  # fmt: skip


def cases():
    quick, slow = [], []
    for algorithm in ("dp-fedsgd", "dp-fedavg"):
        for number, sampler in enumerate(("poisson", "poisson-padded", "without-replacement", "shuffle")):
            quick.append((algorithm, sampler, "gaussian", ADAM if number % 2 else MOMENTUM))
            slow.append((algorithm, sampler, "gaussian", MOMENTUM if number % 2 else ADAM))
            slow += [
                (algorithm, sampler, other, ADAM if number % 2 else MOMENTUM)
                for other in ("tfp-gaussian", "tfp-adaptive-clip")
                if (sampler, other) != ("poisson-padded", "tfp-adaptive-clip")
            ]
    quick += [("dp-fedavg", "shuffle", "discrete-gaussian", MOMENTUM)]
    slow += [("dp-fedsgd", "without-replacement", "skellam", ADAM)]
    quick += [("dp-ftrl", "shuffle", "gaussian", MOMENTUM), ("dp-ftrl", "shuffle", "gaussian", ADAM)]
    slow += [("dp-ftrl", "shuffle", "tfp-tree", MOMENTUM), ("dp-ftrl", "shuffle", "tfp-tree", ADAM)]
    marked = [pytest.param(*case, marks=pytest.mark.slow) for case in slow]
    return [*(pytest.param(*case) for case in quick), *marked]


@pytest.mark.statistical(failure_probability=0.02)
@pytest.mark.parametrize(("algorithm", "sampler", "aggregator", "optimizer"), cases())
def test_the_honest_step_passes_and_half_the_noise_fails(algorithm, sampler, aggregator, optimizer):
    if aggregator.startswith("tfp"):
        pytest.importorskip("tensorflow_privacy")
    data = fleet()
    for factor in (1.0, 0.5):
        config = config_of(algorithm, sampler, aggregator, optimizer, factor)
        expected = expected_contributions(config.training, population_of(config, data))
        made = aggregator_of(config.training, noise_multiplier=Z, expected=expected)
        promised = made.noise_stddev / config.training.clip_norm
        results = check_training_step(
            config, data, noise_multiplier=Z, promised=promised, significance=0.01, root=5
        )  # fmt: skip
        wrong = {result.id: result.status for result in results if result.status != Status.PASS}
        assert wrong == ({} if factor == 1.0 else {"step.sensitivity": Status.FAIL})
        assert {"step.seeded", "step.randomness", "step.sensitivity", "step.noise", "step.denominator", "step.robust",
                "step.noise-shape", "step.noise-reuse"} <= {result.id for result in results}  # fmt: skip

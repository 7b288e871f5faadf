"""A small fleet: three clusters of points, six clients on three nodes of this process."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dpaudit.config import RunConfig
from dpaudit.federated.data import Dataset, FederatedData

pytest.importorskip("flwr")
pytest.importorskip("tensorflow")
CLIENTS = 6


def blobs(n: int = 90, *, clients: int = CLIENTS, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n).astype(np.int32)
    x = (2.0 * np.eye(3, 4)[y] + 0.5 * rng.standard_normal((n, 4))).astype(np.float32)
    return Dataset(x=x, y=y, client=(np.arange(n) % clients).astype(np.int32), classes=3, name="blobs")


@pytest.fixture
def make_config() -> Callable[..., RunConfig]:
    def make(algorithm: str = "dp-fedavg", *, canaries: int = 20, **training: Any) -> RunConfig:
        unit = "example" if algorithm == "dp-fedsgd" else "client"
        rate = {"client_sampling_rate": 0.5} if algorithm == "dp-ftrl" else {"client_sampling_rate": 0.6}
        body = {
            "run": {"name": "test", "seed": 7},
            "claim": {"epsilon": 8.0, "delta": 1e-5, "unit": unit},
            "data": {"source": "digits"},
            "partition": {"kind": "iid", "clients": CLIENTS},
            "model": {"hidden": [5]},
            "training": {
                "algorithm": algorithm, "rounds": 4, "checkpoint_every": 2, "local_batch_size": 4, **rate, **training,
            },
            "canaries": {"count": canaries},
        }  # fmt: skip
        return RunConfig.model_validate(body)

    return make


@pytest.fixture
def data() -> FederatedData:
    return FederatedData(train=blobs(), holdout=blobs(30, clients=3, seed=1), clients=CLIENTS)


@pytest.fixture(scope="session")
def functions() -> Any:
    from dpaudit.config import ModelSection
    from dpaudit.federated import clients, models

    clients.deterministic_tensorflow()
    return clients.ClientFunctions(models.build_model(ModelSection(hidden=(5,)), (4,), 3, root=0), (4,))


@pytest.fixture
def fleet_of(functions: Any, data: FederatedData) -> Callable[..., Any]:
    """Make LoopbackNodes (or a subclass with planted faults) with the six clients on three nodes 100, 101, 102."""
    from dpaudit.flower.local_nodes import local_nodes

    return lambda kind: kind(local_nodes(functions, data.train, nodes=3))


@pytest.fixture
def serve(functions: Any, data: FederatedData) -> Callable[..., Any]:
    """Make a server and an engine over a fleet; `.run(number)` does a round, `.ledger` is what was recorded."""
    from dpaudit.federated.aggregation import aggregator_of
    from dpaudit.federated.canaries import make_canaries
    from dpaudit.federated.optimizers import make_optimizer
    from dpaudit.federated.secure_engine import secured
    from dpaudit.federated.server import Plan, Server
    from dpaudit.federated.trainer import population_of
    from dpaudit.flower.fleet import Terms
    from dpaudit.flower.local_nodes import engine_over
    from dpaudit.flower.loopback import loopback_grid
    from dpaudit.ledger import PrivacyLedger

    def make(config: RunConfig, fleet: Any, *, grid: Any = None, register: Any = None, **terms: Any) -> Any:
        grid = loopback_grid(fleet) if grid is None else grid
        limits = Terms(**{"timeout": 0.4, "pause": 0.005, "patience": 0.5, "least": 0.3, **terms})
        engine = engine_over(
            grid, functions, data.train, config.training, root=3, name="test", terms=limits, register=register
        )
        population, ledger = population_of(config, data), PrivacyLedger()
        canaries = make_canaries(config.canaries, population, root=3)
        plan = Plan(
            training=config.training, population=population, canaries=canaries, root=3, direction=engine.direction
        )
        aggregator = aggregator_of(config.training, noise_multiplier=1.1, expected=plan.denominator)
        engine = secured(engine, aggregator, width=functions.parameters + canaries.count, root=3)
        server = Server(
            plan,
            aggregator=aggregator,
            optimizer=make_optimizer(config.training),
            weights=np.zeros(functions.parameters),
            ledger=ledger,
        )

        def run(number: int) -> Any:
            return server.run_round(number, engine.run_cohort)

        return SimpleNamespace(run=run, server=server, ledger=ledger, engine=engine, plan=plan)

    return make

"""Small runs for the tests of training: three clusters of points, a handful of clients, a few rounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpaudit.config import RunConfig
from dpaudit.federated.data import Dataset, FederatedData

MakeConfig = Callable[..., RunConfig]


def make_blobs(n: int = 90, *, clients: int | None = 6, seed: int = 0, features: int = 4) -> Dataset:
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n).astype(np.int32)
    centres = 2.0 * np.eye(3, features)
    x = (centres[y] + 0.5 * rng.standard_normal((n, features))).astype(np.float32)
    client = None if clients is None else (np.arange(n) % clients).astype(np.int32)
    return Dataset(x=x, y=y, client=client, classes=3, name="blobs")


@pytest.fixture
def make_config() -> MakeConfig:
    def make(*, client_level: bool = False, **tables: dict[str, Any]) -> RunConfig:
        body: dict[str, dict[str, Any]] = {
            "run": {"name": "test", "seed": 7},
            "claim": {"epsilon": 8.0, "delta": 1e-5, "unit": "client" if client_level else "example"},
            "data": {"source": "digits"},
            "partition": {"kind": "iid", "clients": 6},
            "model": {"hidden": [5]},
            "training": {
                "algorithm": "dp-fedavg" if client_level else "dp-fedsgd",
                "rounds": 6,
                "client_sampling_rate": 0.6,
                "checkpoint_every": 2,
                "local_batch_size": 4,
            },
            "canaries": {"count": 20},
        }
        for name, table in tables.items():
            body.setdefault(name, {}).update(table)
        return RunConfig.model_validate(body)

    return make


@pytest.fixture(scope="session")
def blobs() -> Callable[..., Dataset]:
    return make_blobs


@pytest.fixture
def data() -> FederatedData:
    return FederatedData(train=make_blobs(), holdout=make_blobs(30, clients=3, seed=1), clients=6)


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    def write(**arrays: Any) -> Path:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write

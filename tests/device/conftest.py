"""One small client file for all tests of the device, and the model that it was made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dpaudit.config import TrainingSection
from dpaudit.federated.data import Dataset


def training(**options: Any) -> TrainingSection:
    body = {"algorithm": "dp-fedavg", "rounds": 3, "client_sampling_rate": 0.5, "local_batch_size": 4}
    return TrainingSection.model_validate({**body, "local_epochs": 2, "clip_norm": 0.1, **options})


def dataset(n: int = 40, *, shape: tuple[int, ...] = (4,), classes: int = 3, tokens: int = 0) -> Dataset:
    rng = np.random.default_rng(n)
    x = rng.integers(0, tokens, (n, *shape)) if tokens else rng.standard_normal((n, *shape))
    y = rng.integers(classes, size=n).astype(np.int32)
    client = (np.arange(n) % 5).astype(np.int32)
    return Dataset(x=x.astype(np.float32), y=y, client=client, classes=classes, name="noise")


@dataclass(frozen=True, kw_only=True)
class Made:
    model: Any
    training: TrainingSection
    data: Dataset
    file: bytes
    weights: np.ndarray
    functions: Any


def make(model: Any, data: Dataset, options: TrainingSection, **more: Any) -> Made:
    from dpaudit.federated import models
    from dpaudit.federated.clients import ClientFunctions
    from dpaudit.federated.device_export import make_client

    functions = ClientFunctions(model, data.x.shape[1:])
    file = make_client(model, options, data, functions=functions, **more)
    weights = models.get_weights(model)
    return Made(model=model, training=options, data=data, file=file, weights=weights, functions=functions)


@pytest.fixture(scope="session")
def make_training():
    return training


@pytest.fixture(scope="session")
def make_dataset():
    return dataset


@pytest.fixture(scope="session")
def make_made():
    return make


@pytest.fixture(scope="session")
def small() -> Made:
    keras = pytest.importorskip("keras")
    pytest.importorskip("ai_edge_litert")
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3)]
    return make(keras.Sequential([keras.Input((4,)), *layers]), dataset(), training())


@pytest.fixture(scope="session")
def private() -> Made:
    from dpaudit.device import LocalDp

    keras = pytest.importorskip("keras")
    pytest.importorskip("ai_edge_litert")
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3)]
    options = training(clip_norm=5.0)
    local_dp = LocalDp(noise_multiplier=1.5, clip_norm=0.2)
    return make(keras.Sequential([keras.Input((4,)), *layers]), dataset(), options, local_dp=local_dp)

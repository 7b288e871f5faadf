"""A whole run with clients in LiteRT ends where the run in process ends."""

from pathlib import Path

import numpy as np
import pytest

from dpaudit.config import RunConfig
from dpaudit.federated import models, run_files
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.engine import make_engine
from dpaudit.federated.litert_engine import LiteRtEngine
from dpaudit.federated.sampling import Cohort
from dpaudit.federated.trainer import train
from dpaudit.ledger import PrivacyLedger

keras = pytest.importorskip("keras")
pytest.importorskip("ai_edge_litert")
CLIENTS = 12


def data(*, poisoned=False) -> FederatedData:
    """Clients of 1 to 23 examples: fewer than a batch, whole batches, and a rest."""
    rng = np.random.default_rng(0)
    sizes = 1 + 2 * np.arange(CLIENTS)
    client = np.repeat(np.arange(CLIENTS), sizes).astype(np.int32)
    y = rng.integers(3, size=client.size).astype(np.int32)
    x = (2 * np.eye(3, 4)[y] + rng.standard_normal((client.size, 4))).astype(np.float32)
    if poisoned:
        x[client == 5] = np.nan
    held = Dataset(x=x[::3], y=y[::3], client=None, classes=3, name="blobs")
    return FederatedData(train=Dataset(x=x, y=y, client=client, classes=3, name="blobs"), holdout=held, clients=CLIENTS)


def config(**training) -> RunConfig:
    body = {
        "algorithm": "dp-fedavg", "rounds": 20, "client_sampling_rate": 0.5, "local_epochs": 2, "local_batch_size": 5,
        "local_learning_rate": 0.2, "clip_norm": 0.5, "dropout_rate": 0.1, **training,
    }  # fmt: skip
    return RunConfig.model_validate(
        {
            "run": {"name": "test", "seed": 7},
            "claim": {"epsilon": 8.0, "delta": 1e-5, "unit": "client"},
            "data": {"source": "digits"},
            "partition": {"kind": "iid", "clients": CLIENTS},
            "model": {"hidden": [7]},
            "training": body,
            "canaries": {"count": 10},
        }
    )


def ended(settings: RunConfig, out: Path, make_runner, fed: FederatedData) -> np.ndarray:
    train(
        settings, fed, root=2**100 + 3, out=out, noise_multiplier=0.8, resume=False,
        progress=lambda done, planned: None, ledger_facts={}, make_runner=make_runner,
    )  # fmt: skip
    return models.get_weights(models.load_model(out / run_files.MODEL))


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"algorithm": "dp-ftrl", "client_sampling_rate": 0.25, "sampler": "shuffle"},
        {"sampler": "without-replacement", "server_optimizer": "adam", "server_learning_rate": 0.05},
    ],
)
def test_twenty_noisy_rounds_end_in_the_same_weights(tmp_path, training):
    settings, fed = config(**training), data()
    ends = [ended(settings, tmp_path / make.__name__, make, fed) for make in (make_engine, LiteRtEngine)]
    start = models.get_weights(models.build_model(settings.model, (4,), 3, root=2**100 + 3))
    assert np.abs(ends[0] - start).max() > 0.1
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)
    ledgers = [PrivacyLedger.open(tmp_path / make.__name__ / run_files.LEDGER) for make in (make_engine, LiteRtEngine)]
    assert [ledger.facts["engine"] for ledger in ledgers] == ["in-process", "litert"]
    counted = ("round", "realised_units", "realised_clients", "dropouts", "rejected", "clip_norm", "noise_stddev")
    rounds = [
        [{name: entry.facts[name] for name in counted} for entry in ledger.entries if "release_sha256" in entry.facts]
        for ledger in ledgers
    ]
    assert rounds[0] == rounds[1]
    assert len(rounds[0]) == 20
    np.testing.assert_array_equal(
        (tmp_path / "make_engine" / run_files.PARTICIPATION).read_bytes(),
        (tmp_path / "LiteRtEngine" / run_files.PARTICIPATION).read_bytes(),
    )


def test_clients_with_nan_are_rejected_by_the_server_as_in_process(tmp_path):
    """The check of the export uses the first examples, which are whole."""
    settings, fed = config(rounds=4, client_sampling_rate=1.0, dropout_rate=0.0), data(poisoned=True)
    ends = [ended(settings, tmp_path / make.__name__, make, fed) for make in (make_engine, LiteRtEngine)]
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)
    ledger = PrivacyLedger.open(tmp_path / "LiteRtEngine" / run_files.LEDGER)
    notes = [
        entry.facts for entry in ledger.entries if entry.facts.get("what") == "contributions rejected before the sum"
    ]
    assert [note["first"] for note in notes] == 4 * [[{"unit": 5, "reason": "NaN or infinity"}]]


def test_blocks_and_an_empty_cohort(monkeypatch):
    from dpaudit.federated import engine

    settings, fed = config(), data()
    model = models.build_model(settings.model, (4,), 3, root=1)
    runner = LiteRtEngine(ClientFunctions(model, (4,)), fed.train, settings.training, root=1)
    weights = models.get_weights(model)

    def rows(units):
        nobody = np.zeros(CLIENTS, bool)
        cohort = Cohort(number=3, sampled=nobody, answered=nobody, units=np.array(units, np.int64))
        return list(runner.run_cohort(weights, cohort))

    assert rows([]) == []
    (whole,) = rows([2, 7, 11])
    monkeypatch.setattr(engine, "CHUNK_BYTES", 1)
    parts = rows([2, 7, 11])
    assert [part.units.tolist() for part in parts] == [[2], [7], [11]]
    np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), whole.rows)

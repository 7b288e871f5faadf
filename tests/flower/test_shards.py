import numpy as np
import pytest

from dpaudit import serialize
from dpaudit.config import ModelSection
from dpaudit.errors import DataError, OutputExists, UsageError
from dpaudit.federated import models
from dpaudit.flower import shards
from dpaudit.flower.chain_compute import CHAIN
from dpaudit.flower.keras_compute import MODEL


@pytest.fixture(scope="module")
def model():
    return models.build_model(ModelSection(hidden=(5,)), (4,), 3, root=0)


def test_nodes_hold_everything_once_and_the_server_no_training_data(tmp_path, data, model):
    folders = shards.write_shards(tmp_path / "out", data, model, nodes=4)
    assert [folder.name for folder in folders] == [f"node-{n:05d}" for n in range(4)]
    nodes = [shards.open_node(folder) for folder in folders]
    held = [client for node in nodes for client in node.holdings().clients]
    assert held == list(range(6))
    for node in nodes:
        for client in node.data.clients.tolist():
            mine = node.data.positions(client)
            np.testing.assert_array_equal(node.data.x[mine], data.train.x[data.train.client == client])
            np.testing.assert_array_equal(node.data.y[mine], data.train.y[data.train.client == client])
    assert all((folder / shards.DATA).stat().st_mode & 0o077 == 0 for folder in folders)
    federation = shards.open_federation(tmp_path / "out")
    assert federation.data.train.x.shape == (0, 4)
    assert federation.data.train.y.size == 0
    np.testing.assert_array_equal(np.bincount(federation.data.train.client), np.bincount(data.train.client))
    np.testing.assert_array_equal(federation.data.holdout.x, data.holdout.x)
    assert [c for clients in federation.nodes.values() for c in clients] == list(range(6))
    assert federation.frozen == models.frozen_digest(model)


def test_no_root_seed_is_in_a_shard(tmp_path, data, model):
    folders = shards.write_shards(tmp_path / "out", data, model, nodes=1)
    said = serialize.loads((folders[0] / shards.NODE).read_bytes())
    assert set(said) == {"schema", "clients", "sizes", "compute", "parameters"}
    assert sorted(path.name for path in folders[0].iterdir()) == [CHAIN, shards.DATA, MODEL, shards.NODE]


def test_wrong_numbers_of_nodes_and_taken_folders_are_refused(tmp_path, data, model):
    for nodes in (0, 7):
        with pytest.raises(UsageError, match="use between 1 and 6"):
            shards.write_shards(tmp_path / "out", data, model, nodes=nodes)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputExists):
        shards.write_shards(tmp_path / "taken", data, model, nodes=1)


@pytest.mark.parametrize("damage", ["cut", "nan", "other", "schema", "missing"])
def test_a_damaged_shard_is_refused_with_its_name(tmp_path, data, model, damage):
    (folder,) = shards.write_shards(tmp_path / "out", data, model, nodes=1)
    path = folder / shards.DATA
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "nan":
        np.savez(path, x=np.full((3, 4), np.nan), y=np.zeros(3, int), client=np.zeros(3, int))
    elif damage == "other":
        np.savez(path, x=np.ones((3, 4)), y=np.zeros(3, int), client=np.zeros(3, int))
    elif damage == "schema":
        (folder / shards.NODE).write_text("{}")
    else:
        (folder / shards.NODE).unlink()
    with pytest.raises(DataError, match=str(folder)):
        shards.open_node(folder)


def test_what_computes_is_chosen_by_the_node(tmp_path, data, model, monkeypatch):
    (folder,) = shards.write_shards(tmp_path / "out", data, model, nodes=1)
    about = serialize.loads((folder / shards.NODE).read_bytes())
    (folder / shards.NODE).write_text(serialize.dumps({**about, "compute": "device_compute:make"}))
    (tmp_path / "device_compute.py").write_text(
        "class Device:\n    parameters = 43\n\ndef make(folder, data):\n    return Device()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert type(shards.open_node(folder).compute).__name__ == "Device"


def job_of(kind, **changes):
    from dpaudit.federated.engine import RoundSeeds
    from dpaudit.flower.messages import Job, LocalTraining

    fields = {
        "token": "t", "number": 0, "kind": kind, "clients": np.array([1, 4]), "counts": np.array([2, 3]),
        "weights": np.random.default_rng(1).normal(0, 0.3, 43).astype(np.float32), "clip_norm": 0.5,
        "seeds": RoundSeeds(dropout=(1, 2), order=77), "positions": np.array([14, 0, 2, 3, 9]),
        "local": LocalTraining(epochs=3, batch_size=4, learning_rate=0.2),
    }  # fmt: skip
    return Job(**{**fields, **changes})


@pytest.mark.parametrize("kind", ["updates", "sums", "gradients"])
def test_a_node_without_tensorflow_computes_what_keras_computes(tmp_path, data, model, monkeypatch, kind):
    """The twin: the same model through the graph of TensorFlow."""
    from dpaudit.federated.clients import ClientFunctions

    folder, other = (shards.write_shards(tmp_path / name, data, model, nodes=1)[0] for name in ("a", "b"))
    about = serialize.loads((other / shards.NODE).read_bytes())
    (other / shards.NODE).write_text(serialize.dumps({**about, "compute": "keras"}))
    by_hand = shards.open_node(folder).answer(job_of(kind))
    monkeypatch.setattr(ClientFunctions, "no_chain", "switched off")
    by_keras = shards.open_node(other).answer(job_of(kind))
    np.testing.assert_allclose(by_hand.rows, by_keras.rows, rtol=0, atol=2e-6)
    if kind == "sums":
        np.testing.assert_allclose(by_hand.norms, by_keras.norms, rtol=1e-4)


def test_an_example_that_is_not_a_number_is_left_out_by_a_node(tmp_path, data, model):
    (folder,) = shards.write_shards(tmp_path / "out", data, model, nodes=1)
    node = shards.open_node(folder)
    whole = node.answer(job_of("sums"))
    node.data.x[node.data.positions(4)[3], 0] = np.nan
    hurt = node.answer(job_of("sums"))
    assert np.flatnonzero(np.isnan(hurt.norms)).tolist() == [3]
    np.testing.assert_array_equal(hurt.rows[0], whole.rows[0])
    assert np.isfinite(hurt.rows).all()
    rest = node.answer(job_of("sums", counts=np.array([2, 2]), positions=np.array([14, 0, 2, 9])))
    np.testing.assert_allclose(hurt.rows[1], rest.rows[1], rtol=1e-5, atol=1e-7)


def test_a_node_of_a_chain_needs_no_tensorflow(tmp_path, data, model):
    import subprocess
    import sys

    (folder,) = shards.write_shards(tmp_path / "out", data, model, nodes=1)
    code = (
        "import sys; from pathlib import Path; from dpaudit.flower.shards import open_node;"
        f"node = open_node(Path({str(folder)!r})); node.holdings(); node.compute;"
        "print([m for m in ('tensorflow', 'keras', 'ray') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"

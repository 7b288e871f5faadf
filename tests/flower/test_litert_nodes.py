"""Nodes that compute by LiteRT: the same run over Flower's messages, on nodes without TensorFlow."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from dpaudit import serialize
from dpaudit.cli.main import run as dpaudit
from dpaudit.config import ModelSection, TrainingSection
from dpaudit.device import DeviceClient
from dpaudit.errors import DataError
from dpaudit.federated import models, run_files
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.device_export import make_client
from dpaudit.federated.engine import RoundSeeds, make_engine
from dpaudit.federated.trainer import train
from dpaudit.flower import local_nodes, shards
from dpaudit.flower.litert_compute import CLIENT, LiteRtCompute
from dpaudit.flower.loopback import LoopbackNodes, loopback_grid
from dpaudit.flower.messages import Job, LocalTraining
from dpaudit.flower.node import Node
from dpaudit.ledger import PrivacyLedger

pytest.importorskip("ai_edge_litert")
LOCAL = {"local_epochs": 2, "local_batch_size": 4, "local_learning_rate": 0.2, "clip_norm": 0.3}


@pytest.fixture(scope="module")
def client():
    """The client of the configurations of these tests."""
    return {}


@pytest.fixture
def file(client, data):
    if "file" not in client:
        model = models.build_model(ModelSection(hidden=(5,)), (4,), 3, root=0)
        training = TrainingSection(algorithm="dp-fedavg", rounds=1, client_sampling_rate=1.0, **LOCAL)
        client["file"] = make_client(model, training, data.train)
    return client["file"]


def job(**changes):
    fields = {
        "token": "t", "number": 0, "kind": "updates", "clients": np.array([1, 4]), "counts": np.array([15, 15]),
        "weights": np.random.default_rng(1).normal(0, 0.3, 43).astype(np.float32), "clip_norm": 0.3,
        "seeds": RoundSeeds(dropout=(1, 2), order=77), "positions": np.arange(0),
        "local": LocalTraining(epochs=2, batch_size=4, learning_rate=0.2),
    }  # fmt: skip
    return Job(**{**fields, **changes})


@pytest.mark.parametrize("algorithm", ["dp-fedavg", "dp-ftrl"])
def test_twenty_noisy_rounds_over_flower_s_messages(make_config, data, tmp_path, file, algorithm):
    config = make_config(algorithm, rounds=20, dropout_rate=0.1, **LOCAL)

    def on_devices(functions, dataset, training, *, root):
        nodes = local_nodes.local_nodes(functions, dataset, nodes=3)
        devices = {
            number: Node(node.data, 43, partial(LiteRtCompute, DeviceClient(file), node.data))
            for number, node in nodes.items()
        }
        terms = local_nodes.Terms(pause=0.0, least=1e-9)
        grid = loopback_grid(LoopbackNodes(devices))
        return local_nodes.engine_over(grid, functions, dataset, training, root=root, name="devices", terms=terms)

    ends = {}
    for name, make in (("here", make_engine), ("devices", on_devices)):
        train(
            config, data, root=9, out=tmp_path / name, noise_multiplier=1.1, resume=False,
            progress=lambda done, planned: None, ledger_facts={}, make_runner=make,
        )  # fmt: skip
        with np.load(tmp_path / name / run_files.CHECKPOINT) as archive:
            ends[name] = archive["weights"]
    np.testing.assert_allclose(ends["devices"], ends["here"], rtol=0, atol=1e-5)
    ledgers = [PrivacyLedger.open(tmp_path / name / run_files.LEDGER) for name in ends]
    names = ("round", "realised_units", "rejected")
    counted = [[[entry.facts[name] for name in names] for entry in ledger.events()] for ledger in ledgers]
    assert counted[0] == counted[1]


def held_by_one_node(data):
    functions = ClientFunctions(models.build_model(ModelSection(hidden=(5,)), (4,), 3, root=0), (4,))
    return local_nodes.local_nodes(functions, data.train, nodes=1)[100].data


def test_a_client_that_cannot_train_is_rejected_alone(data, file):
    held = held_by_one_node(data)
    compute = LiteRtCompute(DeviceClient(file), held)
    whole = compute.updates(job().weights, job().clients, job())
    held.x[held.positions(4)[2], 1] = np.nan
    hurt = compute.updates(job().weights, job().clients, job())
    np.testing.assert_array_equal(hurt[0], whole[0])
    assert np.isnan(hurt[1]).all()


def test_what_does_not_fit_is_refused(data, file):
    held = held_by_one_node(data)
    compute = LiteRtCompute(DeviceClient(file), held)
    for changes in ({"epochs": 3}, {"batch_size": 5}, {"learning_rate": 0.1}):
        local = LocalTraining(**{"epochs": 2, "batch_size": 4, "learning_rate": 0.2, **changes})
        with pytest.raises(DataError, match="this client was made for"):
            compute.updates(job().weights, job().clients, job(local=local))
    with pytest.raises(DataError, match=r"clips to 0\.3 already"):
        compute.updates(job().weights, job().clients, job(clip_norm=0.5))
    for ask in (compute.gradients, compute.clipped_sum):
        with pytest.raises(DataError, match="whole updates"):
            ask(job().weights, np.arange(2), job())
    wide = type(held)(x=np.zeros((2, 5), np.float32), y=np.zeros(2, np.int32), client=np.zeros(2, np.int32))
    with pytest.raises(DataError, match="the client takes"):
        LiteRtCompute(DeviceClient(file), wide)


def test_shards_for_devices_are_opened_without_tensorflow(data, file, tmp_path):
    model = models.build_model(ModelSection(hidden=(5,)), (4,), 3, root=0)
    folders = shards.write_shards(tmp_path / "out", data, model, nodes=2, client=file)
    assert sorted(path.name for path in folders[0].iterdir()) == [CLIENT, shards.DATA, shards.NODE]
    assert serialize.loads((folders[0] / shards.NODE).read_bytes())["compute"] == "litert"
    code = f"""
import sys
from pathlib import Path
import numpy as np
from dpaudit.federated.engine import RoundSeeds
from dpaudit.flower.messages import Job, LocalTraining
from dpaudit.flower.shards import open_node
node = open_node(Path({str(folders[0])!r}))
answer = node.answer(Job(
    token="t", number=0, kind="updates", weights=np.zeros(43, np.float32), seeds=RoundSeeds(dropout=(1, 2), order=7),
    clients=np.array([1]), counts=np.array([15]), positions=np.arange(0), clip_norm=0.3,
    local=LocalTraining(epochs=2, batch_size=4, learning_rate=0.2),
))
heavy = [m for m in ("tensorflow", "keras", "ray") if m in sys.modules]
print(heavy, answer.rows.shape, np.abs(answer.rows).max() > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[] (1, 43) True"
    (folders[1] / CLIENT).write_bytes(file[:-5])
    with pytest.raises(DataError, match="cut off"):
        shards.open_node(folders[1]).compute.parameters  # noqa: B018 - a compute may be made when it is first used


def test_the_command_line_writes_them(tmp_path, capsys):
    text = """
        run = {name = "small", seed = 5}
        claim = {epsilon = 8.0, delta = 1e-4, unit = "client"}
        data = {source = "iot", iot = {devices = 20, windows_per_device = 8}}
        partition = {kind = "by-client"}
        model = {hidden = [4]}
        training = {algorithm = "dp-fedavg", rounds = 3, client_sampling_rate = 0.5, noise_multiplier = 1.0}
    """
    (tmp_path / "c.toml").write_text(text.replace("        ", ""))
    asked = ["federation", "shards", str(tmp_path / "c.toml"), "--nodes", "3", "--litert", "--out"]
    assert dpaudit([*asked, str(tmp_path / "out")]) == 0
    assert "3 nodes" in capsys.readouterr().out
    about = DeviceClient(tmp_path / "out" / "node-00002" / CLIENT).description
    assert (about.input_shape, about.batch_size) == ((24,), 16)
    example = text.replace('"client"}', '"example"}').replace("dp-fedavg", "dp-fedsgd").replace("        ", "")
    (tmp_path / "c.toml").write_text(example)
    assert dpaudit([*asked, str(tmp_path / "no")]) == 2
    assert "Use dp-fedavg or dp-ftrl" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()

"""What a node holds on disk, and what the server keeps instead of data: cut from a configured run.

    node-00000/data.npz     x, y, client (ids of the run) of this node's clients
    node-00000/model.keras  the model; its weights are replaced by the server's in every round
    node-00000/chain.json   the same model as a chain of Dense layers, where it is one: computed without TensorFlow
    node-00000/client.tflite  instead of the model, where the node is a device: computed by LiteRT
    node-00000/node.json    sizes, and what computes ("chain", "keras", "litert", or module:function)
    server/holdout.npz      what nobody trains on, to measure accuracy
    server/federation.json  how many examples every client holds, which clients every node speaks for: public

Nothing in it is secret but the data themselves: no root seed, no noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit._objects import load_object
from dpaudit.errors import DataError, OutputExists, UsageError
from dpaudit.federated import models
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.run_files import npz_bytes
from dpaudit.flower.chain_compute import chain_compute, write_chain
from dpaudit.flower.keras_compute import MODEL, keras_compute
from dpaudit.flower.litert_compute import CLIENT, litert_compute
from dpaudit.flower.node import Compute, Node, NodeData

NODE, DATA, SERVER, HOLDOUT, FEDERATION = "node.json", "data.npz", "server", "holdout.npz", "federation.json"
NODE_SCHEMA, FEDERATION_SCHEMA = "dpaudit.node/v1", "dpaudit.federation-server/v1"
_COMPUTES: dict[str, Callable[[Path, NodeData], Compute]] = {
    "keras": keras_compute,
    "chain": chain_compute,
    "litert": litert_compute,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What the server knows of a federation: the data it has itself, and the clients of every node, by folder name."""

    data: FederatedData
    nodes: Mapping[str, tuple[int, ...]]
    frozen: str


def folder_of(out: Path, number: int) -> Path:
    """Return the folder of a node."""
    return out / f"node-{number:05d}"


def write_shards(out: Path, data: FederatedData, model: Any, *, nodes: int, client: bytes | None = None) -> list[Path]:
    """Cut the data of a run into the folders of nodes, clients in order and evenly; return those folders.

    Args:
        out: a new or empty folder.
        data: the run's data.
        model: the run's Keras model.
        nodes: how many; at most one per client.
        client: device client of `dpaudit.federated.device_export.make_client`, which nodes then run instead of `model`.

    Raises: OutputExists when `out` holds something; UsageError for a wrong number of nodes; DataError.
    """
    owner = data.train.client
    if owner is None:
        raise DataError("the training data must say which client holds each example.")
    if not 1 <= nodes <= data.clients:
        raise UsageError(f"{nodes} nodes for {data.clients} clients: use between 1 and {data.clients}.")
    if out.is_dir() and any(out.iterdir()):
        raise OutputExists(f"{out} already holds something. Choose another folder.")
    folders, held = [], {}
    for number, clients in enumerate(np.array_split(np.arange(data.clients), nodes)):
        folder = folder_of(out, number)
        folder.mkdir(parents=True)
        _write_node(folder, data.train.take(np.flatnonzero(np.isin(owner, clients))), model, client)
        folders.append(folder)
        held[folder.name] = clients.tolist()
    _write_server(out / SERVER, data, np.bincount(owner), held, models.frozen_digest(model))
    return folders


def _write_node(folder: Path, data: Dataset, model: Any, client: bytes | None) -> None:
    serialize.write_atomic(folder / DATA, npz_bytes(x=data.x, y=data.y, client=np.asarray(data.client)), mode=0o600)
    if client is None:
        models.save_model(model, folder / MODEL)
        compute = "chain" if write_chain(folder, model) else "keras"
    else:
        serialize.write_atomic(folder / CLIENT, client)
        compute = "litert"
    clients, sizes = np.unique(np.asarray(data.client), return_counts=True)
    about = {
        "schema": NODE_SCHEMA,
        "clients": clients.tolist(),
        "sizes": sizes.tolist(),
        "parameters": models.get_weights(model).size,
        "compute": compute,
    }
    serialize.write_atomic(folder / NODE, serialize.dumps(about))


def _write_server(
    folder: Path, data: FederatedData, sizes: NDArray[np.int64], held: Mapping[str, list[int]], frozen: str
) -> None:
    folder.mkdir()
    serialize.write_atomic(folder / HOLDOUT, npz_bytes(x=data.holdout.x, y=data.holdout.y))
    about = {
        "schema": FEDERATION_SCHEMA,
        "name": data.train.name,
        "classes": data.train.classes,
        "sizes": sizes.tolist(),
        "nodes": dict(held),
        "frozen": frozen,
    }
    serialize.write_atomic(folder / FEDERATION, serialize.dumps(about))


@lru_cache(maxsize=64)
def open_node(folder: Path) -> Node:
    """Return the node whose data are in a folder, once per process. Raises: DataError when it cannot be used."""
    about = _read(folder / NODE, NODE_SCHEMA)
    data = _read_data(folder / DATA)
    if about.get("clients") != data.clients.tolist():
        raise DataError(f"{folder / DATA} holds other clients than {NODE} says.")
    name = str(about.get("compute"))
    make = _COMPUTES[name] if name in _COMPUTES else load_object(name)
    return Node(data, int(about["parameters"]), partial(make, folder, data))


def _read_data(path: Path) -> NodeData:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            x, y, client = (np.asarray(archive[name]) for name in ("x", "y", "client"))
    except Exception as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not (y.shape == client.shape == x.shape[:1] and y.size > 0 and np.isfinite(x).all()):
        raise DataError(f"{path} must hold finite x (n, ...), y (n,) and client (n,), n > 0.")
    return NodeData(x=x.astype(np.float32), y=y.astype(np.int32), client=client.astype(np.int32))


def _read(path: Path, schema: str) -> dict[str, Any]:
    try:
        found = serialize.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != schema:
        raise DataError(f"{path} is not of schema {schema}.")
    return found


def open_federation(folder: Path) -> Federation:
    """Return what the server of a federation needs, from the folder that `write_shards` filled.

    The training data are with the nodes: `train` has the client of every example, and no features and no labels.

    Raises: DataError when the folder cannot be used.
    """
    about = _read(folder / SERVER / FEDERATION, FEDERATION_SCHEMA)
    try:
        with (folder / SERVER / HOLDOUT).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            x, y = np.asarray(archive["x"], np.float32), np.asarray(archive["y"], np.int32)
    except Exception as error:
        raise DataError(f"{folder / SERVER / HOLDOUT} cannot be read: {type(error).__name__}: {error}") from error
    sizes = np.array(about["sizes"], dtype=np.int64)
    name, classes = str(about["name"]), int(about["classes"])
    owner = np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)
    train = Dataset(x=x[:0], y=y[:0], client=owner, classes=classes, name=name)
    holdout = Dataset(x=x, y=y, client=None, classes=classes, name=name)
    nodes = {str(node): tuple(int(c) for c in clients) for node, clients in about["nodes"].items()}
    data = FederatedData(train=train, holdout=holdout, clients=int(sizes.size))
    return Federation(data=data, nodes=nodes, frozen=str(about["frozen"]))

"""Engines over nodes of this process, made as `make_engine` makes the one in process."""

from functools import partial
from typing import Any

import numpy as np

from dpaudit.config import TrainingSection
from dpaudit.errors import DataError
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.data import Dataset
from dpaudit.federated.engine import Engine
from dpaudit.flower.engine import FlowerEngine
from dpaudit.flower.fleet import Register, Terms
from dpaudit.flower.keras_compute import KerasCompute
from dpaudit.flower.loopback import LoopbackNodes, loopback_grid
from dpaudit.flower.node import Node, NodeData

LOOPBACK, _NODES = "flower-loopback", 4


def engine_over(
    grid: Any,
    functions: ClientFunctions,
    data: Dataset,
    training: TrainingSection,
    *,
    root: int,
    name: str,
    terms: Terms,
    register: Register | None = None,
) -> Engine:
    """Return the engine of a run over a grid; of `data` it reads who holds how many examples, and nothing else."""
    if data.client is None:
        raise DataError("the training data must say which client holds each example.")
    return FlowerEngine(
        grid,
        name=name,
        training=training,
        owner=data.client,
        parameters=functions.parameters,
        root=root,
        terms=terms,
        register=register,
    )


def local_nodes(functions: ClientFunctions, data: Dataset, *, nodes: int) -> dict[int, Node]:
    """Return nodes that share the clients of a data set evenly, by ids 100, 101, ..."""
    owner = np.asarray(data.client)
    found = {}
    for number, clients in enumerate(np.array_split(np.unique(owner), nodes)):
        mine = np.flatnonzero(np.isin(owner, clients))
        held = NodeData(x=data.x[mine], y=data.y[mine], client=owner[mine])
        found[100 + number] = Node(held, functions.parameters, partial(KerasCompute, functions, held))
    return found


def loopback_engine(functions: ClientFunctions, data: Dataset, training: TrainingSection, *, root: int) -> Engine:
    """Return an engine over nodes of this process: `dpaudit.federated.engine.MakeRunner`."""
    count = min(_NODES, int(np.unique(np.asarray(data.client)).size))
    grid = loopback_grid(LoopbackNodes(local_nodes(functions, data, nodes=count)))
    return engine_over(grid, functions, data, training, root=root, name=LOOPBACK, terms=Terms(pause=0.0, least=1e-9))

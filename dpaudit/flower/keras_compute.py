"""`Compute` with the very functions of the in-process engine: the same graph, the same orders, the same seeds."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.config import TrainingSection
from dpaudit.federated import clients as federated_clients
from dpaudit.federated import models
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.clipping import Block, ClippedSum
from dpaudit.federated.data import Dataset
from dpaudit.federated.engine import FedAvgEngine, FedSgdEngine
from dpaudit.flower.messages import Job
from dpaudit.flower.node import Floats, Ints, NodeData, clip_rows

_NO_ROOT = 0  # nodes get the seeds of each round from the server, never its root


class KerasCompute:
    """Runs `ClientFunctions` on the data of a node."""

    def __init__(self, functions: ClientFunctions, data: NodeData) -> None:
        """Hold the data; they are placed with the first job of each kind."""
        self._functions, self._clients = functions, data.clients
        local = np.searchsorted(self._clients, data.client).astype(np.int32)
        self._data = Dataset(x=data.x, y=data.y, client=local, classes=0, name="node")
        self._engines: dict[Any, Any] = {}

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._functions.parameters

    def updates(self, weights: Floats, clients: Ints, job: Job) -> Floats:
        """Return local updates by the engine of dp-fedavg."""
        engine = self._engine(("updates", job.local), lambda: self._averaging(job))
        blocks = engine.updates(weights, np.searchsorted(self._clients, clients), job.seeds)
        return np.concatenate([np.asarray(block.rows, dtype=np.float32) for block in blocks])

    def _averaging(self, job: Job) -> FedAvgEngine:
        training = TrainingSection(
            algorithm="dp-fedavg",
            rounds=1,
            client_sampling_rate=1.0,
            local_epochs=job.local.epochs,
            local_batch_size=job.local.batch_size,
            local_learning_rate=job.local.learning_rate,
        )
        return FedAvgEngine(self._functions, self._data, training, root=_NO_ROOT)

    def gradients(self, weights: Floats, positions: Ints, job: Job) -> Floats:
        """Return gradients by the engine of dp-fedsgd."""
        engine = self._engine("gradients", lambda: FedSgdEngine(self._functions, self._data, root=_NO_ROOT))
        blocks = engine.gradients(weights, positions, job.seeds)
        return np.concatenate([np.asarray(block.rows, dtype=np.float32) for block in blocks])

    def clipped_sum(self, weights: Floats, positions: Ints, job: Job) -> tuple[Floats, Floats]:
        """Return the clipped sum by book-keeping where the model allows it, else by clipping single gradients."""
        clip_norm = job.clip_norm
        engine = self._engine(
            ("sums", clip_norm),
            lambda: FedSgdEngine(self._functions, self._data, root=_NO_ROOT, clip_norm=clip_norm),
        )
        total = np.zeros(self.parameters, dtype=np.float64)
        norms: dict[int, float] = {}
        for block in engine.gradients(weights, positions, job.seeds):
            part, found = _summed(block, self.parameters, clip_norm)
            total += part
            norms.update(zip(block.units.tolist(), found.tolist(), strict=True))
        return total.astype(np.float32), np.array([norms[place] for place in positions.tolist()], dtype=np.float32)

    def _engine(self, key: Any, make: Any) -> Any:
        if key not in self._engines:
            self._engines = {key: make()}  # a run asks for one kind
        return self._engines[key]


def _summed(block: Block | ClippedSum, parameters: int, clip_norm: float) -> tuple[NDArray[np.float64], Floats]:
    if isinstance(block, ClippedSum):
        return block.total, block.norms
    total, norms = clip_rows(block.rows, parameters=parameters, clip_norm=clip_norm)
    return total.astype(np.float64), norms


def keras_compute(folder: Path, data: NodeData) -> KerasCompute:
    """Return what computes on `data` with the model in a node's folder. Raises: DataError when it cannot be read."""
    model = folder / MODEL
    shape = tuple(int(size) for size in data.x.shape[1:])
    return KerasCompute(_functions(str(model), serialize.sha256_file(model), shape), data)


MODEL = "model.keras"


@lru_cache(maxsize=4)
def _functions(path: str, digest: str, shape: tuple[int, ...]) -> ClientFunctions:
    """Compile the functions of a model once per process, whichever folders hold it."""
    del digest
    federated_clients.deterministic_tensorflow()
    model = models.load_model(Path(path))
    models.check_private(model, shape, dtype=np.float32)
    return ClientFunctions(model, shape)

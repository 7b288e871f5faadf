"""`Compute` without TensorFlow, for chains of Dense layers: NumPy alone (`dpaudit.federated.dense_chain`).

Flower starts a process for every message, in which importing TensorFlow takes about 5 s of a processor; this, nothing.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dpaudit import serialize
from dpaudit.errors import DataError
from dpaudit.federated.dense_chain import DenseChain
from dpaudit.federated.dense_links import Link
from dpaudit.federated.dense_local import DenseLocal, Examples
from dpaudit.federated.engine import cohort_batches, example_table
from dpaudit.federated.layer_rules import Unsupported
from dpaudit.flower.messages import Job
from dpaudit.flower.node import Floats, Ints, NodeData, clip_rows

CHAIN, SCHEMA = "chain.json", "dpaudit.dense-chain/v1"


class ChainCompute:
    """Runs a `DenseChain` on the data of a node."""

    def __init__(self, chain: DenseChain, data: NodeData) -> None:
        """Hold the data."""
        self._chain, self._data, self._clients = chain, data, data.clients
        local = np.searchsorted(self._clients, data.client).astype(np.int32)
        self._table, self._sizes = example_table(local)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._chain.parameters

    def updates(self, weights: Floats, clients: Ints, job: Job) -> Floats:
        """Return local updates, (clients, parameters)."""
        own = np.searchsorted(self._clients, clients)
        index, mask = cohort_batches(
            job.seeds.order, self._table[own], self._sizes[own], epochs=job.local.epochs, size=job.local.batch_size
        )
        rate = np.float32(job.local.learning_rate)
        shares = rate * mask / np.maximum(mask.sum(axis=2, keepdims=True), np.float32(1.0))
        local, examples = self._local
        return local.descend(weights, examples, index=index, shares=shares)

    @cached_property
    def _local(self) -> tuple[DenseLocal, Examples]:
        """Local training, and the data as it takes them: prepared when a server first asks for updates."""
        local = DenseLocal(self._chain)
        return local, local.place(self._data.x, self._data.y)

    def gradients(self, weights: Floats, positions: Ints, job: Job) -> Floats:
        """Return one gradient per example, (n, parameters)."""
        del job
        stacks = np.repeat(weights[None], positions.size, axis=0)
        x, y = self._data.x[positions][:, None], self._data.y[positions][:, None]
        return self._chain.gradients(stacks, x, y, np.ones((positions.size, 1), np.float32))

    def clipped_sum(self, weights: Floats, positions: Ints, job: Job) -> tuple[Floats, Floats]:
        """Return the clipped sum, and the norms; single gradients where a norm is NaN, or too large to square."""
        x, y = self._data.x[positions], self._data.y[positions]
        sums, norms = self._chain.clipped_sums(weights[None], x[None], y[None], clip_norm=job.clip_norm)
        if np.isfinite(norms).all():
            return sums[0], norms[0]
        return clip_rows(self.gradients(weights, positions, job), parameters=self.parameters, clip_norm=job.clip_norm)


def write_chain(folder: Path, model: Any) -> bool:
    """Write a model's description as a chain of Dense layers; return whether it is one."""
    try:
        chain = DenseChain.of(model)
    except Unsupported:
        return False
    links = [
        {"inputs": link.inputs, "units": link.units, "bias": link.bias, "activation": link.activation}
        for link in chain.links
    ]
    about = {"schema": SCHEMA, "links": links, "scale": chain.scale, "offset": chain.offset}
    serialize.write_atomic(folder / CHAIN, serialize.dumps(about))
    return True


def chain_compute(folder: Path, data: NodeData) -> ChainCompute:
    """Return what computes on `data` by a node's chain. Raises: DataError when it cannot be read."""
    path = folder / CHAIN
    try:
        about = serialize.loads(path.read_bytes())
        links = tuple(Link(**link) for link in about["links"])
        chain = DenseChain(links, scale=float(about["scale"]), offset=float(about["offset"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a chain of Dense layers: {type(error).__name__}: {error}") from error
    return ChainCompute(chain, data)

"""The other side: a node that holds the data of some clients and computes what the server asks for.

What computes is exchangeable (`Compute`): Keras here, another runtime on small devices, chosen by the node's own
configuration. It gets weights, data and the round's seeds and keeps nothing between rounds.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.federated.bookkeeping import ROUNDING
from dpaudit.federated.clipping import clip_factors
from dpaudit.flower.messages import Answer, Holdings, Job

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeData:
    """The examples that a node holds: `x` (n, ...), `y` (n,), and `client` (n,), the id of who each belongs to."""

    x: Floats
    y: NDArray[np.int32]
    client: NDArray[np.int32]

    @property
    def clients(self) -> Ints:
        """The ids of the clients, ascending."""
        return np.unique(self.client).astype(np.int64)

    def positions(self, client: int) -> Ints:
        """Return where the examples of a client are, in their order."""
        return np.flatnonzero(self.client == client)


class Compute(Protocol):
    """Computes contributions on the data of one node; positions are those in its `NodeData`.

    A compute may refuse what it cannot do with a DataError, which reaches the server as this node's error reply.
    """

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""

    def updates(self, weights: Floats, clients: Ints, job: Job) -> Floats:
        """Return local minus global weights, (clients, parameters), after `job.local` training of each client."""

    def gradients(self, weights: Floats, positions: Ints, job: Job) -> Floats:
        """Return one gradient per example, (n, parameters)."""

    def clipped_sum(self, weights: Floats, positions: Ints, job: Job) -> tuple[Floats, Floats]:
        """Return the sum of the gradients, each clipped to `job.clip_norm`, and their norms (n,) before the clip.

        An example whose gradient is NaN or infinite is left out, and its norm is NaN.
        """


class Node:
    """A node: its data, and what computes on them."""

    def __init__(self, data: NodeData, parameters: int, make: Callable[[], Compute]) -> None:
        """`make` is called with the first job: to say what a node holds needs no TensorFlow.

        Args:
            data: what it holds.
            parameters: width of its model.
            make: returns what computes.
        """
        self.data, self._parameters, self._make = data, parameters, make

    @cached_property
    def compute(self) -> Compute:
        """What computes."""
        return self._make()

    def holdings(self) -> Holdings:
        """Return what the server may know of this node."""
        clients, sizes = np.unique(self.data.client, return_counts=True)
        return Holdings(clients=tuple(clients.tolist()), sizes=tuple(sizes.tolist()), parameters=self._parameters)

    def answer(self, job: Job) -> Answer:
        """Compute what a job asks for. Raises: DataError for one that does not fit this node."""
        self._refuse_unfit(job)
        if job.kind == "updates":
            rows = self.compute.updates(job.weights, job.clients, job)
            return Answer(token=job.token, clients=job.clients, rows=rows, norms=None)
        wanted = self._positions(job)
        if job.kind == "gradients":
            rows = self.compute.gradients(job.weights, np.concatenate(wanted), job)
            return Answer(token=job.token, clients=job.clients, rows=rows, norms=None)
        sums, norms = zip(*(self.compute.clipped_sum(job.weights, each, job) for each in wanted), strict=True)
        return Answer(token=job.token, clients=job.clients, rows=np.stack(sums), norms=np.concatenate(norms))

    def _refuse_unfit(self, job: Job) -> None:
        if job.weights.size != self.compute.parameters:
            raise DataError(f"{job.weights.size} weights for a model of {self.compute.parameters} parameters.")
        if job.clients.size == 0 or np.unique(job.clients).size != job.clients.size:
            raise DataError("a job must name clients, and each once.")
        strange = sorted(set(job.clients.tolist()) - set(self.data.clients.tolist()))
        if strange:
            raise DataError(f"clients {strange[:5]} are not on this node.")
        if not (job.clip_norm > 0 and math.isfinite(job.clip_norm)):
            raise DataError(f"clip_norm must be a number above 0; got {job.clip_norm}.")

    def _positions(self, job: Job) -> list[Ints]:
        """Return the wanted examples of each client as positions in the node's data."""
        if job.counts.sum() != job.positions.size or job.counts.min() < 1:
            raise DataError("a job's positions do not add up to its counts.")
        found = []
        for client, places in zip(job.clients, np.split(job.positions, np.cumsum(job.counts)[:-1]), strict=True):
            own = self.data.positions(int(client))
            if places.min() < 0 or places.max() >= own.size or np.unique(places).size != places.size:
                raise DataError(f"client {client} does not have these examples, or not so often.")
            found.append(own[places])
        return found


def clip_rows(rows: Iterable[Floats], *, parameters: int, clip_norm: float) -> tuple[Floats, Floats]:
    """Clip single gradients and sum them, as `Compute.clipped_sum` must; norms are raised by `ROUNDING`."""
    total, norms = np.zeros(parameters), []
    for row in rows:
        wide = np.asarray(row, dtype=np.float64)[None]
        if not np.isfinite(wide).all():
            norms.append(math.nan)
            continue
        norm = float(np.sqrt(np.einsum("ij,ij->i", wide, wide))[0]) * (1.0 + ROUNDING)
        total += wide[0] * clip_factors(wide * (1.0 + ROUNDING), clip_norm=clip_norm)[0]
        norms.append(min(norm, float(np.finfo(np.float32).max)))
    return total.astype(np.float32), np.array(norms, dtype=np.float32)

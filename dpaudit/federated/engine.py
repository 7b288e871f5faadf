"""Engines run the clients of a round: one method, so that in-process, network and device engines are exchangeable.

In process, the units of a cohort are vectorised in one graph and cut into chunks that fit in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import TrainingSection
from dpaudit.device.order import local_orders
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.clipping import Block, ClippedSum, Rejected
from dpaudit.federated.data import Dataset
from dpaudit.federated.sampling import Cohort

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]
Found = Block | ClippedSum | Rejected
CHUNK_BYTES = 128 * 2**20


class Engine(Protocol):
    """Computes the contributions of a cohort's units; never sees noise, and the server does the clipping.

    One exception: an engine of the server's own process may clip and sum by book-keeping (`ClippedSum`).
    """

    @property
    def name(self) -> str:
        """Where clients are computed, for the ledger."""

    @property
    def parameters(self) -> int:
        """Width of a contribution."""

    @property
    def direction(self) -> float:
        """+1 where contributions are gradients, -1 where they are weight updates (descent directions)."""

    @property
    def clipping_path(self) -> str:
        """How and where contributions are clipped, for the ledger."""

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Found]:
        """Yield the contributions of `cohort.units`, in blocks, and which of them failed to come, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSeeds:
    """The randomness of a round that clients share: `dropout` of the model, `order` of their examples; no secret."""

    dropout: tuple[int, int]
    order: int


def round_seeds(root: int, number: int) -> RoundSeeds:
    """Return the seeds of round `number`; they are hashes of the root seed, which they do not give away."""
    dropout = _rng.seed_of(root, "model-dropout", number), _rng.seed_of(root, "model-dropout", number, 1)
    return RoundSeeds(dropout=dropout, order=_rng.seed_of(root, "local-order", number))


def chunks(units: Indices, bytes_per_unit: int) -> Iterator[Indices]:
    """Cut the units of a cohort into parts whose contributions fit in memory together."""
    size = max(1, CHUNK_BYTES // max(bytes_per_unit, 1))
    for start in range(0, units.size, size):
        yield units[start : start + size]


def spared(units: Indices, compute: Callable[[Indices], Iterable[Block | ClippedSum]]) -> Iterator[Found]:
    """Yield what `compute` makes of the units; those whose data TensorFlow refuses fail alone, not the round.

    A token that the vocabulary lacks raises an error for the whole batch; halves are tried until it is known whose it
    is. The reason names no value: the ledger is shown to others.
    """
    import tensorflow as tf

    try:
        found = list(compute(units))
    except tf.errors.InvalidArgumentError:
        if units.size == 1:
            yield Rejected(unit=int(units[0]), reason="its data cannot be computed with")
            return
        for half in np.array_split(units, 2):
            yield from spared(half, compute)
    else:
        yield from found


class FedSgdEngine:
    """One gradient per sampled example, at the global weights (dp-fedsgd).

    With a `clip_norm` the gradients are clipped and summed by book-keeping, if the model allows it. An example whose
    gradient is NaN, infinite or too large to square then goes the way of single rows, so that the server rejects or
    clips it as it does elsewhere.
    """

    name, direction = "in-process", 1.0

    def __init__(self, functions: ClientFunctions, data: Dataset, *, root: int, clip_norm: float | None = None) -> None:
        """Place the data once; units are positions in `data`."""
        import tensorflow as tf

        self._functions, self._root, self._clip_norm = functions, root, clip_norm
        self._x, self._y = tf.constant(data.x), tf.constant(data.y)
        no_sums = "the aggregator clips single rows" if clip_norm is None else functions.no_bookkeeping
        self._bookkeeping = no_sums is None
        by_hand = "" if functions.no_chain is not None else " (dense chain)"
        self._path = f"book-keeping{by_hand}" if no_sums is None else f"vectorized_map: {no_sums}"

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._functions.parameters

    @property
    def clipping_path(self) -> str:
        """How per-example gradients are made and clipped, and why."""
        return self._path

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Found]:
        """Yield clipped sums or per-example gradients; nothing for an empty cohort."""
        return self.gradients(weights, cohort.units, round_seeds(self._root, cohort.number))

    def gradients(self, weights: Vector, wanted: Indices, seeds: RoundSeeds) -> Iterator[Found]:
        """Yield clipped sums or gradients of the examples `wanted`, by the seeds of a round."""
        path = self._summed if self._bookkeeping else self._rows
        for units in chunks(wanted, self._bytes_per_unit):
            yield from spared(units, partial(path, weights, seed=seeds.dropout))

    @property
    def _bytes_per_unit(self) -> int:
        return self._functions.bookkeeping_bytes if self._bookkeeping else 32 * self.parameters

    def _summed(self, weights: Vector, units: Indices, *, seed: tuple[int, int]) -> Iterator[Block | ClippedSum]:
        total, norms = self._sum(weights, units, seed)
        fit = np.isfinite(norms)
        if fit.all():
            yield self._clipped(units, total, norms)
            return
        yield from self._rows(weights, units[~fit], seed=seed)
        if fit.any():
            yield self._clipped(units[fit], *self._sum(weights, units[fit], seed))

    def _clipped(self, units: Indices, total: Vector, norms: NDArray[np.float32]) -> ClippedSum:
        return ClippedSum(units=units, total=total, norms=norms, clip_norm=self._clip_norm or 0.0)

    def _sum(self, weights: Vector, units: Indices, seed: tuple[int, int]) -> tuple[Vector, NDArray[np.float32]]:
        clip_norm = self._clip_norm or 0.0
        return self._functions.clipped_sum(weights, self._x, self._y, units, clip_norm=clip_norm, seed=seed)

    def _rows(self, weights: Vector, wanted: Indices, *, seed: tuple[int, int]) -> Iterator[Block | ClippedSum]:
        for units in chunks(wanted, 32 * self.parameters):
            rows = self._functions.per_example_gradients(weights, self._x, self._y, units, seed=seed)
            yield Block(units=units, rows=rows)


class FedAvgEngine:
    """Local epochs of SGD on every client of the cohort; the contribution is local minus global weights (dp-fedavg)."""

    name, direction = "in-process", -1.0

    def __init__(self, functions: ClientFunctions, data: Dataset, training: TrainingSection, *, root: int) -> None:
        """Place the data once; units are client ids 0..K-1 of `data.client`."""
        self._functions, self._training, self._root = functions, training, root
        self._examples, self._features = functions.place(data.x, data.y), int(np.prod(data.x.shape[1:]))
        self._table, self._sizes = example_table(np.asarray(data.client))

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._functions.parameters

    @property
    def clipping_path(self) -> str:
        """Where updates are clipped, and how clients are run."""
        why, how = self._functions.unstacked, "one after the other" if self._functions.looped else "mapped"
        stacked = "stacked" if self._functions.no_chain is not None else "stacked (dense chain)"
        return "server: whole client updates; clients " + (stacked if why is None else f"{how}: {why}")

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Found]:
        """Yield local updates; nothing for an empty cohort."""
        return self.updates(weights, cohort.units, round_seeds(self._root, cohort.number))

    def updates(self, weights: Vector, wanted: Indices, seeds: RoundSeeds) -> Iterator[Found]:
        """Yield the local updates of the clients `wanted`, by the seeds of a round."""
        examples = self._table.shape[1] * self._features
        for units in chunks(wanted, 4 * (4 * self.parameters + 2 * examples)):
            yield from spared(units, partial(self._updates_of, weights, seeds))

    def _updates_of(self, weights: Vector, seeds: RoundSeeds, units: Indices) -> Iterator[Block]:
        index, mask = self._batches(seeds.order, units)
        rows = self._functions.local_updates(
            weights,
            self._examples,
            index=index,
            mask=mask,
            learning_rate=self._training.local_learning_rate,
            seed=seeds.dropout,
        )
        yield Block(units=units, rows=rows)

    def _batches(self, key: int, units: Indices) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        epochs, size = self._training.local_epochs, self._training.local_batch_size
        return cohort_batches(key, self._table[units], self._sizes[units], epochs=epochs, size=size)


def cohort_batches(
    key: int, table: NDArray[np.int32], sizes: Indices, *, epochs: int, size: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return index and mask (clients, epochs x batches, batch size): each epoch a fresh order, padding last.

    `table` and `sizes` are rows of `example_table`, one per client. The order of a client's examples depends on the key
    of the round and on how many they are.
    """
    longest = int(sizes.max())
    padded = -(-longest // size) * size
    table = table[:, :longest]
    order = local_orders(key, sizes, epochs=epochs, longest=longest)
    shape = (sizes.size, epochs * padded // size, size)
    if len(order) == 1 and padded == longest:  # all hold as many, and whole batches: there is no padding
        return table.take(order.ravel(), axis=1).reshape(shape), np.ones(shape, np.float32)
    index = np.empty((sizes.size, epochs, padded), dtype=np.int32)
    index[:] = table[:, :1, None]  # padding is the client's own: a NaN in somebody else's must not reach it
    if len(order) == 1:
        index[:, :, :longest] = table[:, order[0]]
    else:
        index[:, :, :longest] = np.take_along_axis(table[:, None, :], order, axis=2)
    present = np.arange(padded) < sizes[:, None, None]
    mask = np.broadcast_to(present, index.shape).astype(np.float32)
    return index.reshape(shape), mask.reshape(shape)


def example_table(client: NDArray[np.integer], *, clients: int = 0) -> tuple[NDArray[np.int32], Indices]:
    """Return the positions of every client's examples, (K, longest) padded with 0, and how many each has (K,).

    K is at least `clients`, should the last of them hold nothing.
    """
    sizes = np.bincount(client, minlength=clients)
    order = np.argsort(client, kind="stable").astype(np.int32)
    table = np.zeros((sizes.size, int(sizes.max(initial=0))), dtype=np.int32)
    starts = np.cumsum(sizes) - sizes
    owner = client[order]
    table[owner, np.arange(order.size) - starts[owner]] = order
    return table, sizes


def make_engine(functions: ClientFunctions, data: Dataset, training: TrainingSection, *, root: int) -> Engine:
    """Return the in-process engine of the configured algorithm."""
    if training.local_steps:
        from dpaudit.federated.local_engine import LocalDpEngine

        return LocalDpEngine(functions, data, training, root=root)
    if training.protects_clients:
        return FedAvgEngine(functions, data, training, root=root)
    clip_norm = training.clip_norm if training.aggregator == "gaussian" else None
    return FedSgdEngine(functions, data, root=root, clip_norm=clip_norm)


class MakeRunner(Protocol):
    """Returns the engine of a run: `make_engine`, or one that reaches other processes or devices."""

    def __call__(self, functions: ClientFunctions, data: Dataset, training: TrainingSection, *, root: int) -> Engine:
        """Return the engine; an engine whose clients hold their own data leaves `data` alone."""

"""Who is in which local batch of dp-local: every example, and every canary, by a coin of its own in every step.

The coins of a client come from its own stream of (round, attempt): its examples first, then its canaries, so that a
canary is sampled by the same code as an example. A further attempt at a round draws new coins; with the old ones two
releases would share a sample, and two Poisson-sampled events would understate that.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.federated.engine import example_table

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What every client holds: positions (K, longest) padded with 0 behind the `sizes` (K,) that count."""

    table: Ints
    sizes: Indices

    @classmethod
    def of(cls, client: NDArray[np.integer], *, clients: int) -> "Holdings":
        """Return the positions of every client's items from the client of each item."""
        table, sizes = example_table(client, clients=clients)
        return cls(table=table, sizes=sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBatches:
    """The local batches of `clients` (n,): `examples` (n, steps, longest) and `canaries` (n, steps, most) of each.

    The last axis runs over what a client holds, in the order of its `Holdings`.
    """

    clients: Indices
    examples: Bools
    canaries: Bools

    def take(self, rows: Indices) -> "LocalBatches":
        """Return the batches of some of the clients."""
        return LocalBatches(clients=self.clients[rows], examples=self.examples[rows], canaries=self.canaries[rows])


class Streams:
    """NumPy's Philox4x64 under one key, with a stream for each client: the highest word of its counter."""

    def __init__(self, root: int, purpose: str, *indices: int) -> None:
        """Prepare the generator of (purpose, indices)."""
        self.generator = _rng.stream(root, purpose, *indices)
        self._bits = self.generator.bit_generator
        state: dict[str, Any] = dict(self._bits.state)
        key, self._counter = state["state"]["key"].tolist(), [0, 0, 0, 0]
        # Lists, because NumPy takes the state number by number, and a number from an array costs it three times more.
        state |= {"state": {"counter": self._counter, "key": key}, "buffer": state["buffer"].tolist()}
        self._state = state | {"buffer_pos": 4, "has_uint32": 0, "uinteger": 0}

    def seek(self, client: int) -> None:
        """Set the generator to the start of `client`'s stream."""
        self._counter[-1] = client
        self._bits.state = self._state

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` 64-bit numbers."""
        return self._bits.random_raw(count)


def draw_batches(
    root: int, number: int, attempt: int, clients: Indices, *, rate: float, steps: int, examples: Holdings,
    canaries: Holdings,
) -> LocalBatches:  # fmt: skip
    """Draw the local batches of a round; `canaries` are sampled whatever their own coin (in or out) says."""
    streams = Streams(root, "local-examples", number, attempt)
    longest, most = int(examples.sizes[clients].max(initial=0)), canaries.table.shape[1]
    taken = np.zeros((clients.size, steps, longest), dtype=np.bool_)
    fakes = np.zeros((clients.size, steps, most), dtype=np.bool_)
    largest = np.uint64(_largest_below(rate))
    sizes = zip(clients.tolist(), examples.sizes[clients].tolist(), canaries.sizes[clients].tolist(), strict=True)
    for row, (client, own, planted) in enumerate(sizes):
        streams.seek(client)
        bits = streams.raw(steps * (own + planted)).reshape(steps, own + planted)
        np.less_equal(bits[:, :own], largest, out=taken[row, :, :own])
        if planted:
            np.less_equal(bits[:, own:], largest, out=fakes[row, :, :planted])
    return LocalBatches(clients=clients, examples=taken, canaries=fakes)


def _largest_below(rate: float) -> int:
    """Return the largest 64 bits that make a uniform number of NumPy's, (bits >> 11) / 2^53, below the rate > 0."""
    return min((math.ceil(rate * 2**53) << 11) - 1, 2**64 - 1)


def packed(batches: LocalBatches, holdings: Holdings, *, padding: int) -> tuple[Ints, NDArray[np.float32], Indices]:
    """Return the local batches as index and mask (n, steps, widest), and as (step, position) pairs (k, 2).

    Short batches are filled up with `padding`, whose mask is 0.
    """
    taken, held = batches.examples, holdings.table.shape[1]
    rows, longest = taken.shape[0] * taken.shape[1], taken.shape[2]
    hits = np.flatnonzero(taken)
    widths = np.diff(np.searchsorted(hits, np.arange(rows + 1) * longest))
    widest = max(1, int(widths.max(initial=0)))
    firsts, row, step = np.cumsum(widths) - widths, np.arange(rows), np.tile(np.arange(taken.shape[1]), taken.shape[0])
    behind = batches.clients.repeat(taken.shape[1]) * held - row * longest
    members = np.empty((hits.size, 2), dtype=np.int64)
    members[:, 0] = step.repeat(widths)
    members[:, 1] = holdings.table.reshape(-1).take(hits + behind.repeat(widths))
    index = np.full((*taken.shape[:2], widest), padding, dtype=np.int32)
    index.reshape(-1)[np.arange(hits.size) + (row * widest - firsts).repeat(widths)] = members[:, 1]
    mask = (np.arange(widest) < widths[:, None]).astype(np.float32).reshape(index.shape)
    return index, mask, members

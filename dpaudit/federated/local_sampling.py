"""Who is in which local batch of dp-local: every example, and every canary, by a coin of its own in every step.

The coins of a client come from its own stream of (round, attempt): its examples first, then its canaries, so that a
canary is sampled by the same code as an example. A further attempt at a round draws new coins; with the old ones two
releases would share a sample, and two Poisson-sampled events would understate that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated.engine import example_table
from dpaudit.federated.local_noise import Streams

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


def draw_batches(
    root: int, number: int, attempt: int, clients: Indices, *, rate: float, steps: int, examples: Holdings,
    canaries: Holdings,
) -> LocalBatches:  # fmt: skip
    """Draw the local batches of a round; `canaries` are sampled whatever their own coin (in or out) says."""
    streams = Streams(root, "local-examples", number, attempt)
    longest, most = int(examples.sizes[clients].max(initial=0)), canaries.table.shape[1]
    taken = np.zeros((clients.size, steps, longest), dtype=np.bool_)
    fakes = np.zeros((clients.size, steps, most), dtype=np.bool_)
    for row, client in enumerate(clients.tolist()):
        own, planted = int(examples.sizes[client]), int(canaries.sizes[client])
        streams.seek(client)
        coins = streams.generator.random((steps, own + planted)) < rate
        taken[row, :, :own], fakes[row, :, :planted] = coins[:, :own], coins[:, own:]
    return LocalBatches(clients=clients, examples=taken, canaries=fakes)


def packed(batches: LocalBatches, holdings: Holdings, *, padding: int) -> tuple[Ints, NDArray[np.float32], Indices]:
    """Return the local batches as index and mask (n, steps, widest), and as (step, position) pairs (k, 2).

    Short batches are filled up with `padding`, whose mask is 0.
    """
    taken = batches.examples
    widths = np.count_nonzero(taken, axis=2).ravel()
    widest = max(1, int(widths.max(initial=0)))
    index = np.full((*taken.shape[:2], widest), padding, dtype=np.int32)
    client, step, place = np.nonzero(taken)
    rank = np.arange(client.size) - np.repeat(np.cumsum(widths) - widths, widths)
    positions = holdings.table[batches.clients[client], place]
    index[client, step, rank] = positions
    mask = (np.arange(widest) < widths[:, None]).astype(np.float32).reshape(index.shape)
    return index, mask, np.stack([step, positions], axis=1).astype(np.int64)

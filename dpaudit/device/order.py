"""In which order a client uses its examples: the same numbers on a server, in a simulation and on a device."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def local_orders(key: int, sizes: Indices, *, epochs: int, longest: int) -> Indices:
    """Return an order of each client's examples in each epoch, (clients or 1, epochs, longest): padding comes last.

    Every (epoch, position) gets a number by SplitMix64 (Steele, Lea, Flood 2014) of the key; the order is that of
    the numbers. So it is one order for all clients, of which each takes the positions that it has: what a client does
    depends on its data and the round alone, not on its id or on who else takes part. No privacy rests on it.
    """
    place = (np.arange(epochs, dtype=np.uint64)[:, None] << np.uint64(32)) + np.arange(longest, dtype=np.uint64)
    first: NDArray[np.uint64] = np.full(1, key, dtype=np.uint64)
    everyone = np.argsort(_mix(np.add(_mix(first), place, dtype=np.uint64)), axis=1, kind="stable")[None]
    if sizes.min() == longest:
        return everyone
    has = everyone < sizes[:, None, None]
    order = np.zeros(has.shape, dtype=np.int64)
    client, epoch, _ = np.nonzero(has)
    order[client, epoch, (np.cumsum(has, axis=2) - 1)[has]] = np.broadcast_to(everyone, has.shape)[has]
    return order


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def local_batches(key: int, size: int, *, epochs: int, batch: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return index and mask (steps, batch) of one client with `size` examples; padding ends each epoch, mask 0."""
    order = local_orders(key, np.array([size]), epochs=epochs, longest=size)[0]
    padded = -(-size // batch) * batch
    index = np.zeros((epochs, padded), dtype=np.int32)
    index[:, :size] = order
    mask = np.broadcast_to((np.arange(padded) < size).astype(np.float32), index.shape)
    return index.reshape(-1, batch), mask.reshape(-1, batch)

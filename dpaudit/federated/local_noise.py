"""Gaussian noise of many devices at a time: a counter-based stream for each (round, attempt, client, local step).

Philox4x64 (Salmon et al. 2011) is keyed by SHA-256 of (root, "local-noise", round, attempt), and the highest word of
its counter is the client. The steps of a client take consecutive blocks of its counters. So no two clients, steps,
rounds or attempts share a counter under one key, and a client's noise does not depend on who else takes part.

Normals come in pairs from 64 bits by Box and Muller (1958): radius sqrt(-2 ln u), angle 2 pi v, in float32, the
precision in which devices train. numpy computes logarithm, sine and cosine with vector instructions, which makes a
number cost less than half of what numpy's ziggurat takes. Where the 32 bits of u are nearly all zero 64 more are drawn
for it, so that the tails do not end at 6.7 sigma.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng

Indices = NDArray[np.int64]
Normals = NDArray[np.float32]

SOURCE = "numpy Philox4x64, keyed by SHA-256 of (root, 'local-noise', round, attempt), counter by client; Box-Muller"
_MAIN, _TAIL = 0, 1
_RARE = 256
"""Of 2^32: below, u is refined."""


class Streams:
    """The counter-based streams of one key: one for each client."""

    def __init__(self, root: int, purpose: str, *indices: int) -> None:
        """Prepare the generator of (purpose, indices)."""
        self.generator = _rng.stream(root, purpose, *indices)
        self._bits = self.generator.bit_generator
        self._state: dict[str, Any] = dict(self._bits.state)

    def seek(self, client: int, *, block: int = 0, place: int = 0) -> None:
        """Set the generator to the start of `client`'s stream; `block` (and `place` in it) are kept apart as well."""
        self._state["state"]["counter"] = np.array([place, block, 0, client], dtype=np.uint64)
        self._state["buffer_pos"], self._state["has_uint32"], self._state["uinteger"] = 4, 0, 0
        self._bits.state = self._state

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` 64-bit numbers."""
        return self._bits.random_raw(count)


def device_noise(root: int, number: int, attempt: int, clients: Indices, *, steps: int, width: int) -> Normals:
    """Return independent standard normals for the local steps of clients, float32 (clients, steps, width).

    Args:
        root: root seed; on a real device its own generator of the operating system takes the place of all this.
        number: the round.
        attempt: how often this round was begun anew.
        clients: (n,) client ids, 0 or larger.
        steps: local steps.
        width: coordinates of a noised sum.
    """
    streams = Streams(root, "local-noise", number, attempt)
    pairs = -(-steps * width // 2)
    bits = np.empty((clients.size, pairs), dtype=np.uint64)
    for row, client in zip(bits, clients.tolist(), strict=True):
        streams.seek(client, block=_MAIN)
        row[:] = streams.raw(pairs)
    normal = _box_muller(bits, streams, clients)
    return normal[:, : steps * width].reshape(clients.size, steps, width)


def _box_muller(bits: NDArray[np.uint64], streams: Streams, clients: Indices) -> Normals:
    """Return (n, 2 pairs) normals from (n, pairs) numbers of 64 bits: the high half makes u, the low half v."""
    high = (bits >> np.uint64(32)).astype(np.uint32)
    radius = high.astype(np.float32)
    radius += np.float32(0.5)
    radius *= np.float32(2.0**-32)  # u, in (0, 1]
    if high.size and int(high.min()) < _RARE:
        for row, place in np.argwhere(high < _RARE).tolist():
            streams.seek(int(clients[row]), block=_TAIL, place=place)
            u = (float(high[row, place]) + float(streams.raw(1)[0]) * 2.0**-64 + 2.0**-66) * 2.0**-32
            radius[row, place] = u
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    angle = bits.astype(np.uint32).astype(np.float32)
    angle *= np.float32(2 * np.pi / 2**32)
    normal = np.empty((len(bits), 2, bits.shape[1]), dtype=np.float32)
    np.multiply(radius, np.cos(angle), out=normal[:, 0])
    np.multiply(radius, np.sin(angle), out=normal[:, 1])
    return normal.reshape(len(bits), 2 * bits.shape[1])

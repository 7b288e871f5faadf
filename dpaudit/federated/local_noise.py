"""Gaussian noise of many devices at a time: a counter-based stream for each (round, attempt, client, local step).

Philox4x64 (Salmon et al. 2011) is keyed by SHA-256 of (root, "local-noise", round, attempt), and the highest word of
its counter is the client. The steps of a client take consecutive blocks of its counters. So no two clients, steps,
rounds or attempts share a counter under one key, and a client's noise does not depend on who else takes part.

Normals come in pairs from 64 bits by Box and Muller (1958): radius sqrt(-2 ln u), angle 2 pi v, in float32, the
precision in which devices train. numpy computes logarithm, sine and cosine with vector instructions, which makes a
number cost less than half of what numpy's ziggurat takes. Where the 32 bits of u are nearly all zero 64 more are drawn
for it, so that the tails do not end at 6.7 sigma.
"""

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.federated.aligned import aligned

Indices = NDArray[np.int64]
Normals = NDArray[np.float32]
_Arrays = tuple[NDArray[np.uint32], Normals, Normals]

SOURCE = "numpy Philox4x64, keyed by SHA-256 of (root, 'local-noise', round, attempt), counter by client; Box-Muller"
_MAIN, _TAIL = 0, 1
_TOGETHER = 4
"""Clients whose numbers are transformed together, in the nearest caches."""
_RARE = 256
"""Of 2^32: below, u is refined."""
_HIGH = 1 if sys.byteorder == "little" else 0
_HALF, _UNIT, _TURN = (np.float32(v) for v in (0.5, 2.0**-32, 2 * np.pi / 2**32))


class Streams:
    """The counter-based streams of one key: one for each client."""

    def __init__(self, root: int, purpose: str, *indices: int) -> None:
        """Prepare the generator of (purpose, indices)."""
        self.generator = _rng.stream(root, purpose, *indices)
        self._bits = self.generator.bit_generator
        state: dict[str, Any] = dict(self._bits.state)
        key, self._counter = state["state"]["key"].tolist(), [0, 0, 0, 0]
        # Lists, because NumPy takes the state number by number, and a number from an array costs it three times more.
        state |= {"state": {"counter": self._counter, "key": key}, "buffer": state["buffer"].tolist()}
        self._state = state | {"buffer_pos": 4, "has_uint32": 0, "uinteger": 0}

    def seek(self, client: int, *, block: int = 0, place: int = 0) -> None:
        """Set the generator to the start of `client`'s stream; `block` (and `place` in it) are kept apart as well."""
        self._counter[:] = place, block, 0, client
        self._bits.state = self._state

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` 64-bit numbers."""
        return self._bits.random_raw(count)


def device_noise(
    root: int, number: int, attempt: int, clients: Indices, *, steps: int, width: int, stddev: float = 1.0,
    out: Normals | None = None,
) -> Normals:  # fmt: skip
    """Return independent normals of mean 0 for the local steps of clients, float32 (clients, steps, width).

    Args:
        root: root seed; on a real device its own generator of the operating system takes the place of all this.
        number: the round.
        attempt: how often this round was begun anew.
        clients: (n,) client ids, 0 or larger.
        steps: local steps.
        width: coordinates of a noised sum.
        stddev: their standard deviation.
        out: memory (>= n, >= steps * width, rounded up to even) to write to, rows contiguous; the result is a view.
    """
    streams = _SCRATCH.streams(root, number, attempt)
    pairs = -(-steps * width // 2)
    normal = np.empty((clients.size, 2 * pairs), np.float32) if out is None else out[: clients.size, : 2 * pairs]
    words, radius, angle = _SCRATCH.arrays(_TOGETHER, pairs)
    halves = normal.reshape(clients.size, 2, pairs)
    for first in range(0, clients.size, _TOGETHER):
        some = clients[first : first + _TOGETHER].tolist()
        drawn = [_bits(streams, client, pairs) for client in some]
        scratch = words[: len(some)], radius[: len(some)], angle[: len(some)]
        _box_muller(drawn, streams, some, scratch, stddev, halves[first : first + _TOGETHER])
    return normal[:, : steps * width].reshape(clients.size, steps, width)


def _bits(streams: Streams, client: int, count: int) -> NDArray[np.uint64]:
    streams.seek(client, block=_MAIN)
    return streams.raw(count)


class _Scratch(threading.local):
    """Memory that a thread uses for one client after the other, so that it stays in the nearest cache."""

    def __init__(self) -> None:
        self._held = aligned(3, 0, 0)
        self._streams: tuple[tuple[int, int, int], Streams] | None = None

    def streams(self, root: int, number: int, attempt: int) -> Streams:
        """Return the streams of a round's noise; they are kept, since a round asks for its clients group by group."""
        if self._streams is None or self._streams[0] != (root, number, attempt):
            self._streams = (root, number, attempt), Streams(root, "local-noise", number, attempt)
        return self._streams[1]

    def arrays(self, rows: int, count: int) -> _Arrays:
        """Return three arrays (rows, count) of undefined content, valid until the next call."""
        if self._held.shape[1] != rows or self._held.shape[2] < count:
            self._held = aligned(3, rows, -(-count // 16) * 16)
        words, radius, angle = self._held[:, :, :count]
        return words.view(np.uint32), radius, angle


_SCRATCH = _Scratch()


def _box_muller(
    drawn: list[NDArray[np.uint64]], streams: Streams, clients: list[int], scratch: _Arrays, stddev: float,
    out: Normals,
) -> None:  # fmt: skip
    """Write (n, 2, pairs) normals from 64 bits a pair, n times (pairs,): the high half makes u, the low half v."""
    words, radius, angle = scratch
    for row, bits in zip(words, drawn, strict=True):
        np.copyto(row, bits, casting="unsafe")
    np.copyto(angle, words, casting="unsafe")
    np.multiply(angle, _TURN, out=angle)
    for row, bits in zip(words, drawn, strict=True):
        np.copyto(row, bits.view(np.uint32)[_HIGH::2])
    np.copyto(radius, words, casting="unsafe")
    np.add(radius, _HALF, out=radius)
    np.multiply(radius, _UNIT, out=radius)  # u, in (0, 1]
    if np.minimum.reduce(words, axis=None, initial=_RARE) < _RARE:
        for row, place in np.argwhere(words < _RARE).tolist():
            streams.seek(clients[row], block=_TAIL, place=place)
            u = (float(words[row, place]) + float(streams.raw(1)[0]) * 2.0**-64 + 2.0**-66) * 2.0**-32
            radius[row, place] = u
    np.log(radius, out=radius)
    np.multiply(radius, np.float32(-2.0 * stddev**2), out=radius)
    np.sqrt(radius, out=radius)
    for form, half in ((np.cos, out[:, 0]), (np.sin, out[:, 1])):
        form(angle, out=half)
        np.multiply(radius, half, out=half)

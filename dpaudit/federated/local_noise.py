"""Gaussian noise of many devices at a time: a stream of its own for each (round, attempt, client, local step).

The bits are AES-128 in counter mode (NIST SP 800-38A), by the package `cryptography`: a cryptographic generator that
processors have an instruction for, a quarter of the price of NumPy's Philox. The key is SHA-256 of (root,
"local-noise", round, attempt), the upper half of the 128-bit counter is the client, and the steps of a client take
consecutive blocks. So no two clients, steps, rounds or attempts share a block under one key, and a client's noise does
not depend on who else takes part.

Normals come in pairs from 64 bits by Box and Muller (1958): radius sqrt(-2 ln u), angle 2 pi v, in float32, the
precision in which devices train. numpy computes logarithm, sine and cosine with vector instructions, which makes a
number cost less than half of what numpy's ziggurat takes. Where the 32 bits of u are nearly all zero 64 more are drawn
for it, so that the tails do not end at 6.7 sigma.
"""

import threading
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.errors import MissingDependency
from dpaudit.federated.aligned import aligned

Indices = NDArray[np.int64]
Normals = NDArray[np.float32]
Words = NDArray[np.uint32]
_Arrays = tuple[Words, Normals, Normals]

SOURCE = "AES-128-CTR, keyed by SHA-256 of (root, 'local-noise', round, attempt), counter by client; Box-Muller"
_TOGETHER, _CACHED = 4, 2**15
"""Clients whose pairs are transformed together, and how many pairs at most: they stay in the nearest caches."""
_RARE = 256
"""Of 2^32: below, u is refined."""
_HALF, _UNIT, _TWO, _TURN = (np.float32(v) for v in (0.5, 2.0**-32, -2.0, 2 * np.pi / 2**32))
_BLOCK, _WORD = 16, np.dtype("<u4")
_TAIL = 2**63
"""Blocks of a client from here on refine the numbers u; those before make the pairs."""


class Bits:
    """The random bits of all clients in one attempt at a round."""

    def __init__(self, root: int, number: int, attempt: int) -> None:
        """Raise MissingDependency without the package cryptography, 43 or later."""
        try:
            ciphers = import_module("cryptography.hazmat.primitives.ciphers")
            key = ciphers.algorithms.AES(_rng.key(root, "local-noise", number, attempt))
            self._cipher: Any = ciphers.Cipher(key, ciphers.modes.CTR(bytes(_BLOCK))).encryptor()
            self._seek = self._cipher.reset_nonce  # since version 43
        except (ImportError, AttributeError) as error:
            raise MissingDependency(
                "the noise of dp-local needs the package cryptography, 43 or later. Run: pip install 'dpaudit[train]'"
            ) from error
        self._zeros = memoryview(b"")

    def write(self, client: int, out: Words, *, block: int = 0) -> None:
        """Fill all but the last four words of `out`, 32 bits each, with the client's bits from `block` on."""
        size = 4 * out.size - _BLOCK  # the cipher wants a block of room
        if len(self._zeros) < size:
            self._zeros = memoryview(bytes(size))
        self._seek(client.to_bytes(8, "big") + block.to_bytes(8, "big"))
        self._cipher.update_into(self._zeros[:size], out.data.cast("B"))


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

    Raises: MissingDependency without the package cryptography.
    """
    bits = _SCRATCH.bits(root, number, attempt)
    pairs = -(-steps * width // 2)
    normal = np.empty((clients.size, 2 * pairs), np.float32) if out is None else out[: clients.size, : 2 * pairs]
    together = max(1, min(_TOGETHER, _CACHED // max(pairs, 1)))
    words, radius, angle = _SCRATCH.arrays(together, pairs)
    halves = normal.reshape(clients.size, 2, pairs)
    for first in range(0, clients.size, together):
        some = clients[first : first + together].tolist()
        scratch = words[: len(some)], radius[: len(some)], angle[: len(some)]
        for row, client in zip(scratch[0], some, strict=True):
            bits.write(client, row)
        _box_muller(scratch, bits, some, stddev, halves[first : first + together])
    return normal[:, : steps * width].reshape(clients.size, steps, width)


class _Scratch(threading.local):
    """Memory that a thread uses for one client after the other, so that it stays in the nearest cache."""

    def __init__(self) -> None:
        self._shape, self._held = (0, 0), (aligned(0, 0, dtype=_WORD), aligned(0, 0), aligned(0, 0))
        self._bits: tuple[tuple[int, int, int], Bits] | None = None

    def bits(self, root: int, number: int, attempt: int) -> Bits:
        """Return the bits of a round's noise; they are kept, since a round asks for its clients group by group."""
        if self._bits is None or self._bits[0] != (root, number, attempt):
            self._bits = (root, number, attempt), Bits(root, number, attempt)
        return self._bits[1]

    def arrays(self, rows: int, pairs: int) -> _Arrays:
        """Return words (rows, 2 pairs + 4) and two arrays (rows, pairs), undefined, valid until the next call."""
        if self._shape == (rows, pairs):
            return self._held
        arrays = aligned(rows, 2 * pairs + 4, dtype=_WORD), aligned(rows, pairs), aligned(rows, pairs)
        if rows * pairs <= _CACHED:  # those of a large model are not kept
            self._shape, self._held = (rows, pairs), arrays
        return arrays


_SCRATCH = _Scratch()


def _box_muller(scratch: _Arrays, bits: Bits, clients: list[int], stddev: float, out: Normals) -> None:
    """Write (n, 2, pairs) normals from words (n, 2 pairs + 4): first those that make u, then those that make v."""
    words, radius, angle = scratch
    pairs = radius.shape[1]
    np.copyto(angle, words[:, pairs : 2 * pairs], casting="unsafe")
    np.multiply(angle, _TURN, out=angle)
    high = words[:, :pairs]
    np.copyto(radius, high, casting="unsafe")
    np.add(radius, _HALF, out=radius)
    np.multiply(radius, _UNIT, out=radius)  # u, in (0, 1]
    if np.minimum.reduce(high, axis=None, initial=_RARE) < _RARE:
        more = np.empty(6, _WORD)
        for row, place in np.argwhere(high < _RARE).tolist():
            bits.write(clients[row], more, block=_TAIL + place)
            below = float(more[0]) * 2.0**-32 + float(more[1]) * 2.0**-64 + 2.0**-66
            radius[row, place] = (float(high[row, place]) + below) * 2.0**-32
    np.log(radius, out=radius)
    np.multiply(radius, _TWO, out=radius)
    np.sqrt(radius, out=radius)
    np.multiply(radius, np.float32(stddev), out=radius)  # its square under the root would be lost where it is tiny
    for form, half in ((np.cos, out[:, 0]), (np.sin, out[:, 1])):
        form(angle, out=half)
        np.multiply(radius, half, out=half)

"""Randomness: one root seed, named counter-based streams that never overlap.

Each stream is a Philox generator keyed by a hash of (root, purpose, indices), so a round's noise does not
depend on how many numbers other parts drew, and a resumed run draws what the unbroken run would have drawn.
Canary coins, cohorts, privacy noise and attacks use different purposes.
"""

import hashlib
import secrets

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import DTypeLike, NDArray

_WORD = 2**64 - 1


def root_from_entropy() -> int:
    """Return 128 fresh bits from the operating system, for real runs."""
    return secrets.randbits(128)


def key(root: int, purpose: str, *indices: int) -> bytes:
    """Return the 128 bits that stand for (root, purpose, indices): the first half of a SHA-256."""
    text = f"dpaudit/v1|{root}|{purpose}|{','.join(map(str, indices))}"
    return hashlib.sha256(text.encode()).digest()[:16]


def _key(root: int, purpose: str, indices: tuple[int, ...]) -> int:
    return int.from_bytes(key(root, purpose, *indices), "big")


class _Key(ISeedSequence):
    """A key for Philox. Handed over as `key=`, numpy first asks the system for entropy, twice the price of the rest."""

    def __init__(self, key: int) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[np.uint64]:
        """Return the 128 bits of the key as Philox takes them: low word first."""
        if (n_words, np.dtype(dtype)) != (2, np.dtype(np.uint64)):
            raise TypeError(f"Philox4x64 takes a key of two words of 64 bits, not {n_words} of {dtype}")
        return np.array([self._key & _WORD, self._key >> 64], np.uint64)


def stream(root: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return the generator of the stream (purpose, indices) under a root seed."""
    words = _Key(_key(root, purpose, indices))
    return np.random.Generator(np.random.Philox(words))  # type: ignore[arg-type] # numpy's stubs know SeedSequence only


def seed_of(root: int, purpose: str, *indices: int) -> int:
    """Return a 31-bit seed of the stream, for libraries that take only small integers."""
    return _key(root, purpose, indices) % (2**31 - 1)

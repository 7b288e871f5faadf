"""Randomness: one root seed, named counter-based streams that never overlap.

Each stream is a Philox generator keyed by a hash of (root, purpose, indices), so a round's noise does not
depend on how many numbers other parts drew, and a resumed run draws what the unbroken run would have drawn.
Canary coins, cohorts, privacy noise and attacks use different purposes.
"""

import hashlib
import secrets

import numpy as np


def root_from_entropy() -> int:
    """Return 128 fresh bits from the operating system, for real runs."""
    return secrets.randbits(128)


def _key(root: int, purpose: str, indices: tuple[int, ...]) -> int:
    text = f"dpaudit/v1|{root}|{purpose}|{','.join(map(str, indices))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def stream(root: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return the generator of the stream (purpose, indices) under a root seed."""
    return np.random.Generator(np.random.Philox(key=_key(root, purpose, indices)))


def seed_of(root: int, purpose: str, *indices: int) -> int:
    """Return a 31-bit seed of the stream, for libraries that take only small integers."""
    return _key(root, purpose, indices) % (2**31 - 1)

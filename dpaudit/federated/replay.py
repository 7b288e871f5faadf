"""What a ledger already holds of a run: releases to be reproduced and not repeated, and passes that are paid for."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from dpaudit.events import Event, ShuffledBatches
from dpaudit.ledger import PrivacyLedger

Vector = NDArray[np.float64]


def digest_of(vector: Vector) -> str:
    """Return the SHA-256 of a released vector, to the bit."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f8").tobytes()).hexdigest()


def recorded_rounds(ledger: PrivacyLedger) -> dict[int, list[str]]:
    """Return the digests of the releases that a ledger holds, by round, in the order of the attempts."""
    recorded: dict[int, list[str]] = {}
    for entry in ledger.events():
        if "round" in entry.facts and "release_sha256" in entry.facts:
            recorded.setdefault(int(entry.facts["round"]), []).append(str(entry.facts["release_sha256"]))
    return recorded


def recorded_passes(ledger: PrivacyLedger) -> dict[int, list[Event]]:
    """Return the events of whole passes that a ledger holds, by their first round."""
    passes: dict[int, list[Event]] = {}
    for entry in ledger.events():
        if isinstance(entry.event, ShuffledBatches) and "round" in entry.facts:
            passes.setdefault(int(entry.facts["round"]), []).append(entry.event)
    return passes

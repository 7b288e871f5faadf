"""What a ledger already holds of a run: releases to be reproduced, not repeated, and passes that are paid for."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpaudit.events import Event, ShuffledBatches
from dpaudit.ledger import LedgerEntry, PrivacyLedger

Vector = NDArray[np.float64]
T = TypeVar("T")
Entries = Iterable[LedgerEntry]
WITHHELD = "withheld"
"""In place of the digest of a round in which nothing was released; also the fact that says why."""


def digest_of(vector: Vector) -> str:
    """Return the SHA-256 of a released vector, to the bit."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f8").tobytes()).hexdigest()


def recorded_rounds(entries: Entries) -> dict[int, list[str]]:
    """Return the digests of the releases that ledger lines hold, by round, in the order of the attempts."""
    recorded: dict[int, list[str]] = {}
    for entry in entries:
        digest = WITHHELD if WITHHELD in entry.facts else entry.facts.get("release_sha256")
        if "round" in entry.facts and digest is not None:
            recorded.setdefault(int(entry.facts["round"]), []).append(str(digest))
    return recorded


def recorded_passes(entries: Entries) -> dict[int, list[tuple[Event, int]]]:
    """Return the events of whole passes that ledger lines hold, with the round of each, by the pass's first round."""
    passes: dict[int, list[tuple[Event, int]]] = {}
    for entry in entries:
        if isinstance(entry.event, ShuffledBatches) and "round" in entry.facts:
            number = int(entry.facts["round"])
            passes.setdefault(number - number % entry.event.batches, []).append((entry.event, number))
    return passes


def noted_rounds(entries: Entries) -> dict[int, list[str]]:
    """Return what the notes among ledger lines say, by round."""
    noted: dict[int, list[str]] = {}
    for entry in entries:
        if entry.type == "note" and "round" in entry.facts:
            noted.setdefault(int(entry.facts["round"]), []).append(str(entry.facts["what"]))
    return noted


class OfRounds(Generic[T]):
    """What a ledger holds of a round, by `read`; only rounds from the newest on are kept in memory.

    Rounds come in order, so that a long run keeps one or two. One that is asked for again, after later ones, is looked
    up in the ledger: what was recorded is never forgotten.
    """

    def __init__(
        self, ledger: PrivacyLedger, read: Callable[[Entries], dict[int, list[T]]], *, entries: Entries
    ) -> None:
        """Read what the ledger holds; `entries` are its lines, so that several of these share one reading."""
        self._ledger, self._read = ledger, read
        self._found, self._newest = read(entries), 0

    def of(self, number: int) -> list[T]:
        """Return what is recorded of a round."""
        if number < self._newest:
            self._found = self._read(self._ledger.entries)
        self._newest = number
        for older in [known for known in self._found if known < number]:
            del self._found[older]
        return self._found.get(number, [])

    def add(self, number: int, item: T) -> None:
        """Remember what was just recorded of the round that was asked for last."""
        self._found.setdefault(number, []).append(item)

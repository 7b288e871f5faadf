"""A curious server: which example took part in a round, and whose it is, from what clients sent.

Passive attacks on updates (Nasr, Shokri, Houmansadr, arXiv:1812.00910, section IV; Li, Rezaei, Liu, ICLR 2023): a
record's own gradient at the weights of the round agrees with an update that it helped to make.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.base import Floats
from dpaudit.attacks.rounds import CLIENT_UPDATES, ObservedRounds
from dpaudit.errors import DataError


def _updates(observed: ObservedRounds) -> NDArray[np.floating]:
    if observed.client_alignment is None:
        raise DataError("this attack needs the update of each client; with secure aggregation nobody sees them.")
    return observed.client_alignment


def took_part(observed: ObservedRounds) -> Floats:
    """Return, for each round and record, the best agreement with any client's update, shape (T, n)."""
    return np.asarray(_updates(observed).max(axis=1), dtype=np.float64)


def whose(observed: ObservedRounds) -> NDArray[np.int64]:
    """Return the client that most likely holds each record: largest agreement summed over rounds, shape (n,)."""
    return np.asarray(_updates(observed).sum(axis=0).argmax(axis=0), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ClientUpdateAttack:
    """Scores a record by the largest agreement of its gradient with one client's update in any round."""

    name: str = "client-update"
    threat_model: str = "the server, without secure aggregation: sees the update of every client in every round"
    needs: frozenset[str] = frozenset({CLIENT_UPDATES})

    def score(self, observed: ObservedRounds) -> Floats:
        """Return the score of each record, shape (n,)."""
        return np.asarray(took_part(observed).max(axis=0))

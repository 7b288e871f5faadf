"""What a curious server, or whoever reads what it releases, sees of a federation: rounds, updates, local models."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.base import Floats, check_finite
from dpaudit.errors import DataError

AGGREGATES = "aggregates"
CLIENT_UPDATES = "client-updates"
LOCAL_MODELS = "local-models"
SHADOW_ROUNDS = "shadow-rounds"


@dataclass(frozen=True, kw_only=True)
class ObservedRounds:
    """Statistics of n records over T rounds of C clients; nothing of who took part.

    Attributes:
        alignment: how well each record's own contribution agrees with the aggregate that was released in each round
            (see `alignments`), shape (T, n).
        client_alignment: the same with each client's update, as a server without secure aggregation sees it, shape
            (T, C, n), or None.
        local_loss: loss of each record under each client's local model, shape (C, n), or None.
        shadow_alignment: `alignment` of k records of the attacker's own shadow federation, shape (T, k), or None.
        shadow_in: whether those took part in each round there, bool (T, k), or None.

    Raises: DataError for shapes that do not fit, NaN or infinity.
    """

    alignment: NDArray[np.floating]
    client_alignment: NDArray[np.floating] | None = None
    local_loss: NDArray[np.floating] | None = None
    shadow_alignment: NDArray[np.floating] | None = None
    shadow_in: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.alignment.ndim != 2 or 0 in self.alignment.shape:
            raise DataError(f"alignment must have shape (rounds, records), none empty; got {self.alignment.shape}.")
        rounds, n = self.alignment.shape
        given = {"client_alignment": (self.client_alignment, (rounds, -1, n)), "local_loss": (self.local_loss, (-1, n))}
        given["shadow_alignment"] = (self.shadow_alignment, (rounds, -1))
        check_finite("alignment", self.alignment)
        for name, (values, shape) in given.items():
            if values is None:
                continue
            if values.ndim != len(shape) or any(a not in (-1, b) for a, b in zip(shape, values.shape, strict=True)):
                raise DataError(f"{name} must have shape {shape} (-1: any); got {values.shape}.")
            check_finite(name, values)
        if (self.shadow_alignment is None) != (self.shadow_in is None):
            raise DataError("shadow_alignment and shadow_in belong together; one of them is missing.")
        if self.shadow_alignment is None or self.shadow_in is None:
            return
        if self.shadow_in.shape != self.shadow_alignment.shape or self.shadow_in.dtype != np.bool_:
            raise DataError(f"shadow_in must be bool of shape {self.shadow_alignment.shape}.")

    @property
    def records(self) -> int:
        """Number of records under attack."""
        return int(self.alignment.shape[1])

    @property
    def has(self) -> frozenset[str]:
        """What was observed."""
        found = {
            AGGREGATES: True,
            CLIENT_UPDATES: self.client_alignment is not None,
            LOCAL_MODELS: self.local_loss is not None,
            SHADOW_ROUNDS: self.shadow_alignment is not None,
        }
        return frozenset(need for need, present in found.items() if present)


@runtime_checkable
class RoundsAttack(Protocol):
    """A membership attack on a federation: one score per record."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def threat_model(self) -> str:
        """What the attacker must be able to do, in a sentence."""

    @property
    def needs(self) -> frozenset[str]:
        """What must be observed, out of `ObservedRounds.has`."""

    def score(self, observed: ObservedRounds) -> Floats:
        """Return one score per record, shape (n,), higher meaning more likely a member."""


def alignments(contributions: NDArray[np.floating], updates: NDArray[np.floating]) -> Floats:
    """Return the cosine of each record's contribution with each update, shape (updates, n); 0 for a zero vector.

    Args:
        contributions: what each record would send by itself: its gradient (dp-fedsgd), or minus its gradient where
            updates are weight differences (dp-fedavg), shape (n, p).
        updates: one round's aggregate (1, p), or the clients' updates (C, p).

    Raises: DataError when the widths differ.
    """
    if contributions.ndim != 2 or updates.ndim != 2 or contributions.shape[1] != updates.shape[1]:
        raise DataError(f"both must be matrices of one width; got {contributions.shape} and {updates.shape}.")
    one = contributions.astype(np.float64)
    many = updates.astype(np.float64)
    one /= np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-300)
    many /= np.maximum(np.linalg.norm(many, axis=1, keepdims=True), 1e-300)
    return np.asarray(many @ one.T)

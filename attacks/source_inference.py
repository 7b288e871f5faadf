"""Source inference (Hu et al. 2021, arXiv:2109.05659): which client trained on this record?

The client whose local model has the smallest loss on the record. What counts is by how much that beats guessing, on the
same records.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.base import Floats
from dpaudit.attacks.rounds import LOCAL_MODELS, ObservedRounds
from dpaudit.errors import DataError
from dpaudit.estimation.binomial import lower_limit, upper_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceResult:
    """Accuracy of naming the holder, with a Clopper-Pearson interval, and the accuracy of the best constant guess."""

    accuracy: float
    accuracy_ci: tuple[float, float]
    baseline: float
    confidence: float
    n: int
    clients: int
    threat_model: str


@dataclass(frozen=True, slots=True)
class SourceInference:
    """Names the client whose local model fits a record best."""

    name: str = "source-inference"
    threat_model: str = "the server, without secure aggregation: sees every client's local model"
    needs: frozenset[str] = frozenset({LOCAL_MODELS})

    def sources(self, observed: ObservedRounds) -> NDArray[np.int64]:
        """Return the client named for each record, shape (n,); raise DataError when local models were not seen."""
        if observed.local_loss is None:
            raise DataError(
                "source inference needs the clients' local models; with secure aggregation nobody sees them."
            )
        return np.asarray(observed.local_loss.argmin(axis=0), dtype=np.int64)

    def score(self, observed: ObservedRounds) -> Floats:
        """Return how far the best local model is ahead of the mean of the others, shape (n,)."""
        if observed.local_loss is None:
            raise DataError(
                "source inference needs the clients' local models; with secure aggregation nobody sees them."
            )
        return np.asarray(observed.local_loss.mean(axis=0) - observed.local_loss.min(axis=0), dtype=np.float64)


def judge_sources(named: NDArray[np.integer], truth: NDArray[np.integer], *, confidence: float = 0.95) -> SourceResult:
    """Compare named with true holders; the baseline names the client that holds most records.

    Raises: DataError when shapes differ or nothing was named.
    """
    if named.shape != truth.shape or named.ndim != 1 or not named.size:
        raise DataError(f"named and true clients must be vectors of one length; got {named.shape} and {truth.shape}.")
    right, n, error = int(np.count_nonzero(named == truth)), named.size, (1 - confidence) / 2
    return SourceResult(
        accuracy=right / n,
        accuracy_ci=(lower_limit(right, n, error), upper_limit(right, n, error)),
        baseline=float(np.bincount(truth).max() / n),
        confidence=confidence,
        n=n,
        clients=int(np.unique(truth).size),
        threat_model=SourceInference().threat_model,
    )

"""Membership from all rounds together: sum, maximum, or per-round log-likelihood ratios.

Whoever follows the aggregates of a federation has one weak look per round. The sum is the right statistic where a
member takes part in most rounds, the maximum where in few; with a shadow federation of the attacker's own, each round
is worth a Gaussian log-likelihood ratio (as LiRA's, arXiv:2112.03570) and rounds add up.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dpaudit.attacks.base import Floats
from dpaudit.attacks.rounds import AGGREGATES, SHADOW_ROUNDS, ObservedRounds
from dpaudit.errors import DataError

Kind = Literal["sum", "max", "llr"]


def round_ratios(observed: ObservedRounds) -> Floats:
    """Return log p(alignment | took part) - log p(alignment | did not) of each round and record, shape (T, n).

    Means are per round, from the shadow records; the two variances are pooled over rounds.

    Raises: DataError without a shadow federation, or when it has fewer than 2 participations or absences.
    """
    shadow, inside = observed.shadow_alignment, observed.shadow_in
    if shadow is None or inside is None:
        raise DataError(
            "per-round likelihood ratios need a shadow federation of the attacker's own; none was observed."
        )
    logs = []
    for chosen in (inside, ~inside):
        if chosen.sum() < 2:
            raise DataError(f"the shadow federation must show both kinds of rounds twice; got {chosen.sum()} of one.")
        overall = shadow[chosen].mean()
        counts = chosen.sum(axis=1)
        sums = np.where(chosen, shadow, 0.0).sum(axis=1)
        mean = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
        freedom = max(1, int(chosen.sum() - np.count_nonzero(counts)))
        variance = max(float((np.where(chosen, shadow - mean[:, None], 0.0) ** 2).sum() / freedom), 1e-18)
        logs.append(-0.5 * (observed.alignment - mean[:, None]) ** 2 / variance - 0.5 * np.log(variance))
    return np.asarray(logs[0] - logs[1])


@dataclass(frozen=True, slots=True)
class TrajectoryAttack:
    """Scores a record by its agreement with the aggregates of all rounds."""

    kind: Kind = "sum"

    @property
    def name(self) -> str:
        """trajectory-sum, trajectory-max or trajectory-llr."""
        return f"trajectory-{self.kind}"

    @property
    def threat_model(self) -> str:
        """What the attacker must be able to do."""
        beside = ", and runs a shadow federation" if self.kind == "llr" else ""
        return f"follows the aggregated updates of all rounds, knows the records{beside}"

    @property
    def needs(self) -> frozenset[str]:
        """Aggregates; for llr a shadow federation, too."""
        return frozenset({AGGREGATES, SHADOW_ROUNDS} if self.kind == "llr" else {AGGREGATES})

    def score(self, observed: ObservedRounds) -> Floats:
        """Return the score of each record, shape (n,); errors as `round_ratios` for llr."""
        if self.kind == "llr":
            return np.asarray(round_ratios(observed).sum(axis=0))
        values = observed.alignment.astype(np.float64)
        return np.asarray(values.sum(axis=0) if self.kind == "sum" else values.max(axis=0))

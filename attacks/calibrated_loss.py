"""The loss attack calibrated by reference models: is the record easier than it should be? (arXiv:2111.08440)."""

from dataclasses import dataclass

import numpy as np

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, REFERENCE_MODELS, Floats, Observed, references_of


@dataclass(frozen=True, slots=True)
class CalibratedLossAttack:
    """Scores a unit by its log-probability minus the mean of the reference models that never saw it.

    Watson, Guo, Cormode and Sablayrolles (arXiv:2111.08440). A unit that every reference model saw is calibrated
    by all of them, which only weakens the attack on that unit.
    """

    name: str = "calibrated-loss"
    threat_model: str = "black box with scores, and models trained by the attacker on similar data"
    needs: frozenset[str] = frozenset({OUTPUTS, REFERENCE_MODELS})

    def score(self, observed: Observed) -> Floats:
        """Return the calibrated log-probability of each unit, shape (units,)."""
        logits, inside = references_of(observed, self.name)
        target = observed.of_units(statistics.log_probability(observed.logits, observed.labels))
        reference = observed.of_units(statistics.reference_log_probability(logits, observed.labels))
        used = ~inside | inside.all(axis=0)
        return np.asarray(target - (reference * used).sum(axis=0) / used.sum(axis=0))

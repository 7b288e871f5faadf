"""The loss attack: a small cross entropy says member (Yeom et al., arXiv:1709.01604)."""

from dataclasses import dataclass

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, Floats, Observed


@dataclass(frozen=True, slots=True)
class LossAttack:
    """Scores a unit by the mean log-probability of its labels."""

    name: str = "loss"
    threat_model: str = "black box with scores: queries the released model on the records, nothing else"
    needs: frozenset[str] = frozenset({OUTPUTS})

    def score(self, observed: Observed) -> Floats:
        """Return the negative cross entropy of each unit, shape (units,)."""
        return observed.of_units(statistics.log_probability(observed.logits, observed.labels))

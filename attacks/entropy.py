"""The entropy attack: a sure prediction, right or wrong, says member (Salem et al., arXiv:1806.01246)."""

from dataclasses import dataclass

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, Floats, Observed


@dataclass(frozen=True, slots=True)
class EntropyAttack:
    """Scores a unit by the negative mean entropy of its predictions; labels are not used."""

    name: str = "entropy"
    threat_model: str = "black box with scores, without labels: queries the released model on the records"
    needs: frozenset[str] = frozenset({OUTPUTS})

    def score(self, observed: Observed) -> Floats:
        """Return the negative entropy of each unit in nats, shape (units,)."""
        return observed.of_units(-statistics.entropy(observed.logits))

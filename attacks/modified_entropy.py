"""The modified-entropy attack of Song and Mittal (arXiv:2003.10595): entropy that knows the right class."""

from dataclasses import dataclass

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, Floats, Observed


@dataclass(frozen=True, slots=True)
class ModifiedEntropyAttack:
    """Scores a unit by the negative mean modified entropy of its predictions."""

    name: str = "modified-entropy"
    threat_model: str = "black box with scores: queries the released model on the records, nothing else"
    needs: frozenset[str] = frozenset({OUTPUTS})

    def score(self, observed: Observed) -> Floats:
        """Return the negative modified entropy of each unit, shape (units,)."""
        return observed.of_units(-statistics.modified_entropy(observed.logits, observed.labels))

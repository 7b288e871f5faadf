"""The confidence-margin attack: a label far above the next class says member."""

from dataclasses import dataclass

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, Floats, Observed


@dataclass(frozen=True, slots=True)
class ConfidenceMarginAttack:
    """Scores a unit by the mean distance of the label's logit to the largest other logit."""

    name: str = "confidence-margin"
    threat_model: str = "black box with scores: queries the released model on the records, nothing else"
    needs: frozenset[str] = frozenset({OUTPUTS})

    def score(self, observed: Observed) -> Floats:
        """Return the margin of each unit, shape (units,)."""
        return observed.of_units(statistics.margin(observed.logits, observed.labels))

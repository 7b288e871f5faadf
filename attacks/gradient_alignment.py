"""White box: training moved the model down the gradients of its members (Li, Rezaei, Liu, ICLR 2023).

"Effective passive membership inference attacks in federated learning against overparameterized models": the cosine (or
inner product) of a record's gradient before an update with the update itself.
"""

from dataclasses import dataclass

from dpaudit.attacks.base import EARLIER_MODEL, OUTPUTS, Floats, Observed
from dpaudit.errors import DataError


@dataclass(frozen=True, slots=True)
class GradientAlignmentAttack:
    """Scores a unit by the mean cosine of its downhill direction at an earlier snapshot with the way since."""

    name: str = "gradient-alignment"
    threat_model: str = "white box: holds the released weights and those of an earlier snapshot"
    needs: frozenset[str] = frozenset({OUTPUTS, EARLIER_MODEL})

    def score(self, observed: Observed) -> Floats:
        """Return the score of each unit in [-1, 1], shape (units,); raise DataError without an earlier snapshot."""
        if observed.gradient_alignment is None:
            raise DataError(f"the attack {self.name!r} needs an earlier snapshot of the model; none was given.")
        return observed.of_units(observed.gradient_alignment)

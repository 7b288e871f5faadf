"""Label only: predictions on members survive small changes (Choquette-Choo et al., arXiv:2007.14321, section 3)."""

from dataclasses import dataclass

import numpy as np

from dpaudit.attacks.augment import NOISE, augmented
from dpaudit.attacks.base import LABEL_QUERIES, RECORDS, Floats, Observed
from dpaudit.attacks.oracle import Oracle


@dataclass(frozen=True, slots=True)
class LabelRobustnessAttack:
    """Scores an example by the share of altered copies, at growing noise, that the model still labels right."""

    copies: int = 24
    seed: int = 0
    name: str = "label-robustness"
    threat_model: str = "label only: queries the released model for predicted classes on altered copies of the records"
    needs: frozenset[str] = frozenset({RECORDS, LABEL_QUERIES})

    def score(self, observed: Observed) -> Floats:
        """Return the mean share over the examples of each unit, shape (units,).

        Raises: DataError when the oracle fails or the records cannot be altered.
        """
        oracle = Oracle(observed, self.name)
        right = (oracle.ask(oracle.x) == observed.labels).astype(np.float64)
        levels = (NOISE, 4 * NOISE, 12 * NOISE)
        for step, noise in enumerate(levels):
            for copy in augmented(
                oracle.x, copies=max(1, self.copies // len(levels)), seed=self.seed + step, noise=noise
            ):
                right += oracle.ask(copy) == observed.labels
        return observed.of_units(right / (1 + len(levels) * max(1, self.copies // len(levels))))

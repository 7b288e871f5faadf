"""White box: the loss is flat where the model was trained (Nasr, Shokri, Houmansadr, arXiv:1812.00910)."""

from dataclasses import dataclass

import numpy as np

from dpaudit.attacks.base import GRADIENTS, OUTPUTS, Floats, Observed
from dpaudit.errors import DataError


@dataclass(frozen=True, slots=True)
class GradientNormAttack:
    """Scores a unit by minus the mean log norm of its gradients at the released weights."""

    name: str = "gradient-norm"
    threat_model: str = "white box: holds the released weights and computes gradients of the loss on the records"
    needs: frozenset[str] = frozenset({OUTPUTS, GRADIENTS})

    def score(self, observed: Observed) -> Floats:
        """Return the score of each unit, shape (units,); raise DataError when no gradients were observed."""
        if observed.gradient_norm is None:
            raise DataError(f"the attack {self.name!r} needs gradients: a model whose weights are at hand (.keras).")
        return observed.of_units(-np.log(np.maximum(observed.gradient_norm, 1e-30)))

"""The population attack: rarer than non-members of the same class (attack P of Ye et al., arXiv:2111.09679)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks import statistics
from dpaudit.attacks.base import OUTPUTS, POPULATION, Floats, Observed, population_of

_FEWEST = 20  # population records of a class from which the class is its own yardstick


def shares_below(values: Floats, yardstick: Floats) -> Floats:
    """Return, for each value, the share of the yardstick below it; ties count one half."""
    ordered = np.sort(yardstick)
    sides = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(sides / (2 * ordered.size))


def class_shares(
    values: Floats, labels: NDArray[np.integer], known: Floats, known_labels: NDArray[np.integer]
) -> Floats:
    """Return `shares_below` the population of the same class, or of all where a class has fewer than 20 records."""
    found = shares_below(values, known)
    for label in np.unique(labels):
        same = known[known_labels == label]
        if same.size >= _FEWEST:
            chosen = labels == label
            found[chosen] = shares_below(values[chosen], same)
    return found


@dataclass(frozen=True, slots=True)
class PopulationAttack:
    """Scores an example by the share of known non-members of its class that the model fits worse."""

    name: str = "population"
    threat_model: str = "black box with scores, and records of the same population that are known to be no members"
    needs: frozenset[str] = frozenset({OUTPUTS, POPULATION})

    def score(self, observed: Observed) -> Floats:
        """Return the mean share over the examples of each unit, shape (units,); multiples of 1 / (2 x population)."""
        known = population_of(observed, self.name)
        values = statistics.log_probability(observed.logits, observed.labels)
        yardstick = statistics.log_probability(known.logits, known.labels)
        return observed.of_units(class_shares(values, observed.labels, yardstick, known.labels))

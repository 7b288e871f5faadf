"""A random forest of scikit-learn as module:function: `dpaudit attack scikit_learn:probabilities ...`."""

from functools import cache

import numpy as np
from digits_halves import halves
from sklearn.ensemble import RandomForestClassifier


@cache
def forest() -> RandomForestClassifier:
    """Train on the members (a real service would load its model here)."""
    with np.load("members.npz") as saved:
        return RandomForestClassifier(60, random_state=0).fit(saved["x"], saved["y"])


def probabilities(x: np.ndarray) -> np.ndarray:
    """Return the class probabilities of every record: what `dpaudit attack` calls."""
    return forest().predict_proba(x)


if __name__ == "__main__":
    halves()

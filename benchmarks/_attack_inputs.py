"""The arrays that benchmarks/attacks.py and its peers work on: same seed, same numbers."""

import numpy as np


def lira_input(n, models=64, seed=0):
    rng = np.random.default_rng(seed)
    inside = np.argsort(rng.random((models, n)), axis=0) < models // 2
    return rng.normal(size=n), rng.normal(size=(models, n)) + inside, inside


def rmia_input(n, models=8, seed=0):
    """Probabilities of n records and n population records under the target and under reference models."""
    rng = np.random.default_rng(seed)
    inside = np.argsort(rng.random((models, n)), axis=0) < models // 2
    return rng.random(n), rng.random((models, n)), inside, rng.random(n), rng.random((models, n))


def quantile_input(n, features=64, seed=0):
    rng = np.random.default_rng(seed)
    x, known = rng.normal(size=(2, n, features)).astype(np.float32)
    return x, x[:, 0] + rng.normal(size=n), known, known[:, 0] + rng.normal(size=n)

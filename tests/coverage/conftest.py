"""Harness of the coverage tests: how often does a 95 % bound exceed the truth?"""

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.estimation import estimate

ALPHA = 0.05


def exceedances(mechanism, canaries, delta, designs, trials, *, seed=20240501):
    """Return, per design, (times the bound exceeded the truth, times there was no number, sum of the bounds)."""
    truth, rng = mechanism.epsilon(delta), np.random.default_rng(seed)
    found = np.zeros((len(designs), 3))
    for _ in range(trials):
        scores = mechanism.draw(canaries, rng)
        for i, (method, options) in enumerate(designs):
            bound = estimate(scores.member, scores.non_member, method=method, delta=delta, **options)
            if bound.epsilon is None:
                found[i, 1] += 1
            else:
                found[i] += (bound.epsilon > truth * (1 + 1e-9), 0, bound.epsilon)
    return found


def allowed(trials, cells=1):
    """Return the number of exceedances that a valid 5 % bound passes with probability 1e-6 / cells at most."""
    return binom.isf(1e-6 / cells, trials, ALPHA)


@pytest.fixture
def coverage():
    return exceedances


@pytest.fixture
def limit():
    return allowed

"""Planned numbers of guesses and ranks: functions of the design alone, close to the best choice in hindsight."""

import numpy as np
import pytest

from dpaudit.estimation import fdp, reference, steinke
from dpaudit.estimation.binomial import upper_limit
from dpaudit.estimation.multi_run import epsilon_from_rates, mu_from_rates
from dpaudit.estimation.rules import guess_grid, planned_guesses, planned_rank, rank_grid

DELTA = 1e-5
BOUNDS = {
    "one-run": steinke.epsilon_lower_bound,
    "one-run-fdp:eps-delta": fdp.epsilon_lower_bound,
    "one-run-fdp:gaussian": lambda **kw: fdp.gaussian_lower_bound(**kw)[1],
}


def correct_for_every_r(mechanism, canaries, choices, rng):
    scores = mechanism.draw(canaries, rng)
    values = np.concatenate([scores.member, scores.non_member])
    bits = np.arange(canaries) < scores.member.size
    ordered = bits[np.argsort(values)]
    top, bottom = np.cumsum(ordered[::-1]), np.cumsum(~ordered)
    return [int(top[r - r // 2 - 1] + (bottom[r // 2 - 1] if r > 1 else 0)) for r in choices]


DESIGNS = [(100, 8.0, 700), (1000, 2.0, 300), (1000, 8.0, 150), (10_000, 4.0, 50)]


@pytest.mark.parametrize("method", BOUNDS)
@pytest.mark.parametrize(("canaries", "epsilon", "trials"), DESIGNS)
def test_planned_guesses_are_within_5_percent_of_the_best(method, canaries, epsilon, trials):
    rng, mechanism = np.random.default_rng(0), reference.gaussian_of(epsilon, DELTA)
    planned = planned_guesses(method, canaries, delta=DELTA, error=0.05, interest=epsilon)
    choices = [planned, *guess_grid(canaries, 22)]
    found = np.array([correct_for_every_r(mechanism, canaries, choices, rng) for _ in range(trials)])
    means = [
        np.mean([BOUNDS[method](canaries=canaries, guesses=r, correct=int(v), delta=DELTA) for v in column])
        for r, column in zip(choices, found.T, strict=True)
    ]
    assert means[0] >= 0.95 * max(means)


@pytest.mark.parametrize("method", ["clopper-pearson", "gdp"])
@pytest.mark.parametrize(("n", "epsilon"), [(500, 4.0), (5000, 1.0), (5000, 8.0)])
def test_planned_rank_is_within_5_percent_of_the_best(method, n, epsilon):
    rng, mechanism = np.random.default_rng(1), reference.gaussian_of(epsilon, DELTA)
    planned = planned_rank(method, n, n, delta=DELTA, error=0.05, interest=epsilon)
    choices, found = [planned, *rank_grid(n, 30, method)], []
    for _ in range(60):
        scores = mechanism.draw(2 * n, rng)
        member, other = np.sort(scores.member), np.sort(scores.non_member)[::-1]
        row = []
        for rank in choices:
            missed = int(np.searchsorted(member, other[min(rank, other.size) - 1], "right"))
            rates = upper_limit(rank - 1, max(other.size, rank), 0.025), upper_limit(missed, member.size, 0.025)
            row.append(epsilon_from_rates(*rates, DELTA) if method == "clopper-pearson" else mu_from_rates(*rates))
        found.append(row)
    means = np.mean(found, axis=0)
    assert means[0] >= 0.95 * means.max()


def test_grids():
    assert guess_grid(5, 4) == [5]
    assert guess_grid(1000, 3) == [10, 100, 1000]
    for n in (1, 2, 7, 1000):
        for method in ("clopper-pearson", "gdp"):
            for count in (1, 2, 16):
                ranks = rank_grid(n, count, method)
                assert 1 <= len(ranks) <= count
                assert all(1 <= rank <= n for rank in ranks)

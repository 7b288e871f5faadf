import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.estimation import assumptions, reference
from dpaudit.estimation.assumptions import (
    anderson_darling_p,
    equal_variances,
    fair_coins,
    gaussian_scores,
    independent_scores,
)
from dpaudit.estimation.sources import ArraySource
from dpaudit.records import AssumptionStatus, ScoreSet

REFUTED = AssumptionStatus.REFUTED


def of(member, other):
    return ArraySource(ScoreSet(member=np.asarray(member, float), non_member=np.asarray(other, float)))


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("n", [8, 20, 100, 1000])
def test_false_alarms(n):
    rng, trials = np.random.default_rng(n), 4000
    counts = {"normal": 0, "variance": 0, "independent": 0}
    for _ in range(trials):
        source = of(rng.normal(1, 2, n), rng.normal(0, 2, n))
        counts["normal"] += gaussian_scores(source, 0).status is REFUTED
        counts["variance"] += equal_variances(source).status is REFUTED
        counts["independent"] += independent_scores(source, 0).status is REFUTED
    assert max(counts.values()) <= binom.isf(1e-6 / 12, trials, 2 * assumptions.LEVEL)


@pytest.mark.parametrize("level", [0.1, 0.01, 0.001])
def test_anderson_darling_p_values(level):
    rng, trials = np.random.default_rng(0), 20_000
    found = np.array([anderson_darling_p(rng.normal(size=50)) for _ in range(trials)])
    assert np.mean(found < level) == pytest.approx(level, abs=5 * np.sqrt(level / trials) + 0.15 * level)


@pytest.mark.parametrize("draw", [
    lambda rng, n: rng.laplace(size=n),
    lambda rng, n: rng.uniform(size=n),
    lambda rng, n: np.where(rng.random(n) < 0.5, 1.0, -1.0),
    lambda rng, n: rng.standard_t(3, size=n),
    lambda rng, n: rng.normal(size=n) + 6 * (rng.random(n) < 0.1),
], ids=["laplace", "uniform", "two-points", "t3", "outliers"])  # fmt: skip
def test_other_shapes_are_seen(draw):
    rng = np.random.default_rng(1)
    assert gaussian_scores(of(draw(rng, 1500), draw(rng, 1500)), 0).status is REFUTED


def test_unequal_variances_are_seen():
    rng = np.random.default_rng(2)
    assert equal_variances(of(rng.normal(0, 1.5, 300), rng.normal(0, 1, 300))).status is REFUTED


def test_dependence_along_the_order_is_seen():
    rng = np.random.default_rng(3)
    shared = np.repeat(rng.normal(size=100), 5)
    assert independent_scores(of(shared + rng.normal(size=500), rng.normal(size=500)), 0).status is REFUTED


def test_sorted_scores_say_nothing_about_dependence():
    rng = np.random.default_rng(4)
    found = independent_scores(of(np.sort(rng.normal(size=500)), np.sort(rng.normal(size=500))[::-1]), 0)
    assert found.status is AssumptionStatus.NOT_CHECKED


@pytest.mark.parametrize("make", [reference.shared_magnitude, reference.rare_channel])
def test_a_shared_magnitude_is_seen(make):
    rng, mechanism = np.random.default_rng(5), make(1.0)
    for _ in range(50):
        scores = mechanism.draw(100, rng)
        assert independent_scores(ArraySource(scores), 0).status is REFUTED
        noisy = of(*(part + 1e-6 * rng.normal(size=part.size) for part in (scores.member, scores.non_member)))
        assert gaussian_scores(noisy, 0).status is REFUTED  # hiding the ties in a little noise does not help


def test_coins():
    assert fair_coins(500, 500, declared=True).status is AssumptionStatus.DECLARED
    assert fair_coins(540, 460, declared=False).status is AssumptionStatus.NOT_CHECKED
    assert fair_coins(600, 400, declared=True).status is REFUTED
    assert fair_coins(20, 0, declared=False).status is AssumptionStatus.NOT_CHECKED
    assert fair_coins(0, 30, declared=False).status is REFUTED
    assert fair_coins(30, 0, declared=False).status is REFUTED


def test_an_exact_half_is_remarked_on():
    assert "fixed split" in fair_coins(500, 500, declared=True).evidence
    assert "fixed split" not in fair_coins(499, 501, declared=True).evidence
    assert "fixed split" not in fair_coins(5, 5, declared=True).evidence


def test_a_side_that_is_large_enough_is_tested_alone():
    rng = np.random.default_rng(6)
    assert gaussian_scores(of(rng.exponential(size=500), []), 0).status is REFUTED
    assert gaussian_scores(of(rng.normal(size=500), [1.0, 2.0]), 0).status is AssumptionStatus.NOT_CHECKED


def test_too_few_scores_are_not_checked():
    source = of([1.0, 2.0], [0.0, 3.0])
    assert gaussian_scores(source, 0).status is AssumptionStatus.NOT_CHECKED
    assert independent_scores(source, 0).status is AssumptionStatus.NOT_CHECKED
    assert equal_variances(of([1.0], [0.0, 3.0])).status is AssumptionStatus.NOT_CHECKED

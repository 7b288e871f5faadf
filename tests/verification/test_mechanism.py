"""Black-box mechanisms: broken ones are refuted fast, honest ones at most as often as stated, weak tests say so."""

import math

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from dpaudit.errors import UsageError
from dpaudit.records import Status
from dpaudit.verification import Neighbours, PrivacyClaim, _scorers, check_mechanism, neighbours
from dpaudit.verification import subject_mechanisms as subjects
from dpaudit.verification._learn import as_samples
from dpaudit.verification._scorers import granularity

PAIR = subjects.SUMS


def check(subject, epsilon=None, **options):
    return check_mechanism(subject.mechanism, subject.pairs, epsilon, **options)


@pytest.mark.parametrize("name", subjects.BROKEN)
def test_broken_mechanisms_are_refuted(name):
    subject, claim = subjects.BROKEN[name]
    result = check(subject, claim=claim, seed=1, max_pairs=60_000)
    assert result.status == Status.FAIL, result.detail
    assert result.refuted == claim.text
    assert result.p_value <= 0.01
    assert result.statistic >= result.threshold


@pytest.mark.parametrize("name", subjects.HONEST)
def test_honest_mechanisms_pass(name):
    subject, claim = subjects.HONEST[name]
    result = check(subject, claim=claim, seed=3, max_pairs=6000)
    assert result.status == Status.PASS, result.detail
    assert result.n == 6000


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=2e-5)
@pytest.mark.parametrize("name", [*subjects.HONEST, *subjects.HONEST_ROUNDED])
def test_false_alarms(name):
    """At the very edge: these mechanisms spend all of the epsilon that they claim."""
    subject, claim = (subjects.HONEST | subjects.HONEST_ROUNDED)[name]
    runs, level, bits = 300, 0.1, name in subjects.HONEST_ROUNDED  # benchmarks/verification.py does 1,000
    alarms = sum(
        check(subject, claim=claim, seed=seed, significance=level, max_pairs=600, float_bits=bits).status == Status.FAIL
        for seed in range(runs)
    )
    assert alarms <= binom.isf(1e-6, runs, level)


@pytest.mark.statistical(failure_probability=1e-6)
def test_false_alarms_of_a_whole_profile():
    runs, level = 40, 0.1
    subject = subjects.gaussian(1.0)
    alarms = sum(
        check(subject, claim=PrivacyClaim.gaussian(1.0), seed=seed, significance=level, max_pairs=500).status
        == Status.FAIL
        for seed in range(runs)
    )
    assert alarms <= binom.isf(1e-6, runs, level)


def median_pairs(subject, runs, **options):
    found = [check(subject, seed=seed, significance=0.05, max_pairs=60_000, **options) for seed in range(runs)]
    assert all(result.status == Status.FAIL for result in found)
    return float(np.median([result.n for result in found]))


def test_how_many_outputs_half_the_noise_takes():
    assert median_pairs(subjects.laplace(0.5), 25, epsilon=1.0) <= 200
    assert median_pairs(subjects.gaussian(0.5), 25, claim=PrivacyClaim.gaussian(1.0)) <= 400


@pytest.mark.slow
def test_how_many_outputs_ten_percent_less_noise_takes():
    assert median_pairs(subjects.laplace(0.9), 41, epsilon=1.0) <= 6000


def test_the_profile_is_refuted_where_its_point_is_not():
    """Gaussian noise of half the size: at (4.377, 1e-5) hardly anything shows, at epsilon 0 everything does."""
    subject = subjects.gaussian(0.5)
    result = check(subject, claim=PrivacyClaim.gaussian(1.0), seed=1)
    assert result.status == Status.FAIL
    assert result.refuted == "1-GDP"
    alone = check(subject, 4.377178, delta=1e-5, seed=1, max_pairs=2000)
    assert alone.status != Status.FAIL


def test_approximate_privacy():
    def reveals(d, n, rng):
        """Laplace noise, and with probability 0.05 the data set itself."""
        shown = rng.random(n) < 0.05
        return np.where(shown, 1000.0 + d, d + rng.laplace(size=n))

    assert check_mechanism(reveals, PAIR, 1.0, 0.0, seed=1).status == Status.FAIL
    assert check_mechanism(reveals, PAIR, 1.0, 0.01, seed=1).status == Status.FAIL
    assert check_mechanism(reveals, PAIR, 1.0, 0.05, seed=1).status == Status.PASS


def test_renyi_claims():
    subject = subjects.gaussian(1.0)  # (order, order / 2)-Renyi DP
    assert check(subject, claim=PrivacyClaim.renyi(2.0, 1.0), seed=1, max_pairs=3000).status != Status.FAIL
    refuted = check(subjects.gaussian(0.4), claim=PrivacyClaim.renyi(8.0, 0.5), seed=1)
    assert refuted.status == Status.FAIL
    assert refuted.refuted == "(8, 0.5)-Renyi DP"


@pytest.mark.parametrize(("order", "sigma"), [(2.0, 1.0), (4.0, 0.7), (16.0, 2.0)])
def test_the_profile_of_a_renyi_claim_is_never_below_the_truth(order, sigma):
    """Against the exact hockey-stick divergence of the Gaussian mechanism, by quadrature."""
    for epsilon, delta in PrivacyClaim.renyi(order, order / (2 * sigma**2)).points:

        def excess(x, e=epsilon):
            return max(0.0, norm.pdf(x, 1, sigma) - math.exp(e) * norm.pdf(x, 0, sigma))

        exact = quad(excess, -12 * sigma, 1 + 12 * sigma, limit=200)[0]
        assert delta >= exact - 1e-9, (epsilon, delta, exact)


def test_holes_of_floating_point_are_looked_for_on_request():
    for name, (naive, claim) in subjects.ROUNDED.items():
        assert check(naive, claim=claim, seed=1, max_pairs=3000).status == Status.PASS, name
        found = check(naive, claim=claim, seed=1, max_pairs=6000, float_bits=True)
        assert found.status == Status.FAIL, name
        assert "bit" in found.detail
    rounded, claim = subjects.HONEST_ROUNDED["snapped laplace"]
    assert check(rounded, claim=claim, seed=1, max_pairs=3000, float_bits=True).status == Status.PASS


def test_classifiers_on_the_bits_alone_find_them(monkeypatch):
    """Without the feature made for this purpose, logistic regression or boosting on the 64 bits do."""
    monkeypatch.setattr(_scorers, "_fineness", lambda width: [])
    naive, claim = subjects.ROUNDED["naive laplace"]
    found = check(naive, claim=claim, seed=1, max_pairs=20_000, float_bits=True)
    assert found.status == Status.FAIL
    assert "of the bits" in found.detail


def test_bits():
    found = _scorers.bits(np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]))
    assert found.shape == (3, 64)
    assert found[0].astype(int).tolist() == [0, 0] + [1] * 10 + [0] * 52
    assert found[1].astype(int).tolist() == [1, 1] + [0] * 62
    assert not found[2].any()


def test_learned_events_of_several_outputs(monkeypatch):
    """A leak that no single output shows: whether two signs agree."""
    monkeypatch.setattr(_scorers, "_categories", lambda x, y: [])

    def signs(d, n, rng):
        first, sizes = rng.choice([-1.0, 1.0], n), np.abs(rng.standard_normal((2, n)))
        agree = rng.random(n) < (0.95 if d else 0.5)
        return np.stack([sizes[0] * first, sizes[1] * np.where(agree, first, -first)], axis=1)

    result = check_mechanism(signs, PAIR, 0.5, seed=1)
    assert result.status == Status.FAIL
    assert "gradient boosting of the values" in result.detail


def test_granularity():
    values = np.array([1.0, 0.5, 3.0, 0.75, 6.0, 0.0, 1 + 2.0**-52, -0.375])
    np.testing.assert_array_equal(granularity(values), [0, -1, 0, -2, 1, 2000, -52, -3])


def test_the_error_is_shared_by_all_data_sets_that_are_tried():
    """One telling pair among twenty that tell nothing costs more outputs, and is still found."""
    dull = [Neighbours(first=0.0, second=0.0, name=f"equal {i}") for i in range(20)]
    telling = Neighbours(first=0.0, second=1.0, name="telling")
    result = check_mechanism(subjects.laplace(0.5).mechanism, [*dull, telling], 1.0, seed=1)
    assert result.status == Status.FAIL
    assert "telling" in result.detail
    assert "21 pair(s)" in result.detail
    assert result.n > check_mechanism(subjects.laplace(0.5).mechanism, telling, 1.0, seed=1).n


@pytest.mark.parametrize(
    ("subject", "strategy"),
    [
        (subjects.laplace(0.5), neighbours.sums(largest=10.0)),
        (subjects.noisy_max(1.0, "index-halved-noise"), neighbours.counts(5)),
        (subjects.sparse_vector(1.0, 5), neighbours.counts(8, largest=1)),
    ],
    ids=["sums", "counts", "streams"],
)
def test_strategies_find_telling_pairs(subject, strategy):
    found = check_mechanism(subject.mechanism, strategy, 1.0, seed=1, max_pairs=60_000)
    assert found.status == Status.FAIL, found.detail
    assert "24 pair(s)" in found.detail


def test_hypothesis_strategies_are_searched():
    one = st.builds(lambda n, d: Neighbours(first=float(n), second=float(n + d)), st.integers(-5, 5), st.just(1))
    found = check_mechanism(subjects.laplace(0.5).mechanism, one, 1.0, seed=1, search=6)
    assert found.status == Status.FAIL
    assert found == check_mechanism(subjects.laplace(0.5).mechanism, one, 1.0, seed=1, search=6)
    plain = st.tuples(st.just(0.0), st.just(1.0))
    assert "1 pair(s)" in check_mechanism(subjects.laplace(1.0).mechanism, plain, 1.0, max_pairs=2000).detail


@pytest.mark.statistical(failure_probability=1e-6)
def test_false_alarms_of_a_search():
    runs, level = 40, 0.2
    subject, strategy = subjects.geometric(1.0), neighbours.sums(largest=5.0)
    alarms = sum(
        check_mechanism(subject.mechanism, strategy, 1.0, seed=s, significance=level, search=4, max_pairs=600).status
        == Status.FAIL
        for s in range(runs)
    )
    assert alarms <= binom.isf(1e-6, runs, level)


def test_what_strategies_draw_are_neighbours():
    rng = np.random.default_rng(0)
    for change, limit in (("one", 1), ("all", 6), ("any", 6)):
        for _ in range(50):
            pair = neighbours.counts(6, change=change)(rng)
            moved = np.abs(pair.first - pair.second)
            assert moved.max() <= 1
            assert np.count_nonzero(moved) <= limit
    for relation, more in (("add", 1), ("replace", 0)):
        for _ in range(50):
            pair = neighbours.records(lambda r: int(r.integers(9)), relation=relation)(rng)
            assert len(pair.second) == len(pair.first) + more
    pair = neighbours.sums(sensitivity=2.0)(rng)
    assert pair.second - pair.first == pytest.approx(2.0)


def test_too_few_outputs_are_inconclusive():
    result = check(subjects.laplace(1.0), 1.0, max_pairs=60)
    assert result.status == Status.INCONCLUSIVE
    assert "twice as bad" in result.detail
    result = check(subjects.laplace(1.0), 1.0, max_pairs=10)
    assert result.status == Status.INCONCLUSIVE


def test_a_mechanism_that_ignores_its_data_is_private():
    result = check(subjects.constant(), 0.5)
    assert result.status == Status.PASS
    assert result.statistic <= 1


def test_more_samples_see_smaller_effects():
    few = check(subjects.laplace(1.0), 1.0, max_pairs=1000).minimum_detectable
    many = check(subjects.laplace(1.0), 1.0, max_pairs=8000).minimum_detectable
    assert many < few


@pytest.mark.statistical(failure_probability=1e-4)
def test_the_minimum_detectable_excess_is_found():
    """A mechanism with exactly that excess on its one event: found in at least 99 % of runs."""
    n, runs = 2000, 60
    excess = check(subjects.geometric(1.0), 1.0, max_pairs=n).minimum_detectable
    q = 1 / (1 + math.e**2)
    p = math.e * q + excess

    def leaks(d, n, rng):
        return (rng.random(n) < (p if d else q)).astype(float)

    found = [check_mechanism(leaks, PAIR, 1.0, seed=seed, max_pairs=n).status == Status.FAIL for seed in range(runs)]
    assert sum(found) >= binom.ppf(1e-5, runs, 0.99)


def test_deterministic_with_an_rng_and_drawn_from_outside_without():
    one, two = (check(subjects.laplace(0.7), 1.0, seed=9) for _ in range(2))
    assert one == two
    generator = np.random.default_rng(0)
    outside = check_mechanism(lambda d, n: d + 0.5 * generator.laplace(size=n), PAIR, 1.0)
    assert outside.status == Status.FAIL


@pytest.mark.parametrize(
    ("mechanism", "what"),
    [
        (lambda d, n: 1 / 0, "ZeroDivisionError"),
        (lambda d, n: np.zeros(n - 1), "must return"),
        (lambda d, n: 3.0, "must return"),
        (lambda d, n: np.array(["a"] * n), "must return numbers"),
    ],
)
def test_mechanisms_that_fail_are_inconclusive(mechanism, what):
    result = check_mechanism(mechanism, PAIR, 1.0)
    assert result.status == Status.INCONCLUSIVE
    assert what in result.detail


def test_nan_is_an_output_like_any_other():
    def sometimes(d, n, rng):
        return np.where(rng.random(n) < (0.5 if d else 0.01), np.nan, rng.laplace(size=n))

    result = check_mechanism(sometimes, PAIR, 1.0)
    assert result.status == Status.FAIL
    assert "missing" in result.detail
    assert as_samples(np.array([np.nan, 2.0]), 2).tolist() == [[0.0, 1.0], [2.0, 0.0]]


def test_outputs_with_more_than_one_number():
    def shapes(d, n, rng):
        return d + rng.laplace(size=(n, 2, 3)) * 0.5

    assert check_mechanism(shapes, PAIR, 1.0).status == Status.FAIL


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": None},
        {"epsilon": 1.0, "claim": PrivacyClaim.gaussian(1.0)},
        {"epsilon": -1.0},
        {"epsilon": 1.0, "delta": 2.0},
        {"epsilon": 1.0, "significance": 0.0},
        {"epsilon": 1.0, "max_pairs": 0},
        {"epsilon": 1.0, "pairs": []},
        {"epsilon": 1.0, "mechanism": "laplace"},
    ],
)
def test_bad_arguments_are_refused(options):
    arguments = {"mechanism": subjects.laplace(1.0).mechanism, "pairs": PAIR, **options}
    with pytest.raises(UsageError):
        check_mechanism(arguments.pop("mechanism"), arguments.pop("pairs"), **arguments)


def test_claims_out_of_range_are_refused():
    with pytest.raises(UsageError):
        PrivacyClaim.renyi(1.0, 0.5)
    with pytest.raises(UsageError):
        PrivacyClaim.gaussian(0.0)
    with pytest.raises(ValueError, match="variant"):
        subjects.sparse_vector(1.0, 7)


def test_subjects_are_what_they_say():
    rng = np.random.default_rng(0)
    counts = subjects.discrete_gaussian(1.5).mechanism(0.0, 200_000, rng)
    assert (counts == np.rint(counts)).all()
    support = np.arange(-60, 61)
    weights = np.exp(-0.5 * (support / 1.5) ** 2)
    assert counts.var() == pytest.approx((weights * support**2).sum() / weights.sum(), rel=0.02)
    noise = subjects.geometric(1.0).mechanism(0.0, 200_000, rng)
    assert np.mean(noise == 0) == pytest.approx((math.e - 1) / (math.e + 1), abs=0.005)
    stream = subjects.sparse_vector(1.0, 1, cutoff=2).mechanism(np.array([5.0] * 6), 5000, rng)
    assert ((stream == 1).sum(axis=1) <= 2).all()
    assert set(np.unique(stream)) == {-1.0, 0.0, 1.0}

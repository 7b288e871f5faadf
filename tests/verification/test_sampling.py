"""Sampling: honest Poisson records pass as often as stated, and every broken sampler of the catalogue is caught."""

import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats import binom as binomial

from dpaudit.errors import DataError, UsageError
from dpaudit.records import Status
from dpaudit.verification import check_counts, check_sampling, check_two_stage, counts_of_batches
from dpaudit.verification._counts import counts_given, counts_of
from dpaudit.verification._cumulants import Law, log_probability_of_modes, repeats_law, squared_deviations


def poisson(rng, rounds, units, rate):
    return rng.random((rounds, units)) < rate


def as_record(batches, units):
    record = np.zeros((len(batches), units), bool)
    for row, batch in zip(record, batches, strict=True):
        row[batch] = True
    return record


def shuffled(rng, rounds, units, rate):
    """Epochs of shuffled fixed batches: the usual data loader."""
    size = round(units * rate)
    per_epoch = units // size
    order = [
        rng.permutation(units)[: per_epoch * size].reshape(per_epoch, size) for _ in range(-(-rounds // per_epoch))
    ]
    return as_record(np.concatenate(order)[:rounds], units)


def batch_then_shuffle(rng, rounds, units, rate):
    """The same batches in every epoch, in random order."""
    size = round(units * rate)
    batches = np.arange(units // size * size).reshape(-1, size)
    return as_record(
        [batches[i] for _ in range(-(-rounds // len(batches))) for i in rng.permutation(len(batches))][:rounds], units
    )


def buffered(rng, rounds, units, rate):
    """tf.data's shuffle with a buffer of a tenth of the data."""
    size, buffer, stream = round(units * rate), units // 10, []
    while len(stream) < rounds * size:
        waiting = list(range(buffer))
        for new in range(buffer, units + buffer):
            at = int(rng.integers(len(waiting)))
            stream.append(waiting[at])
            if new < units:
                waiting[at] = new
            else:
                waiting.pop(at)
    return as_record(np.array(stream[: rounds * size]).reshape(rounds, size), units)


def fixed_size(rng, rounds, units, rate):
    """A fresh sample of fixed size without replacement in every round."""
    size = round(units * rate)
    return as_record([rng.permutation(units)[:size] for _ in range(rounds)], units)


def rate_up(rng, rounds, units, rate):
    return poisson(rng, rounds, units, 1.2 * rate)


def rate_down(rng, rounds, units, rate):
    return poisson(rng, rounds, units, 0.8 * rate)


def favourites(rng, rounds, units, rate):
    """Some units more often than others, the total as claimed."""
    return rng.random((rounds, units)) < rate * np.where(np.arange(units) % 2, 0.6, 1.4)


def sticky(rng, rounds, units, rate):
    """Who took part takes part again more often: a cache."""
    record = poisson(rng, rounds, units, rate)
    for t in range(1, rounds):
        keep = rng.random(units) < 0.15
        record[t, keep] = record[t - 1, keep]
    return record


def truncated(rng, rounds, units, rate):
    """Poisson, but cut to a largest batch close to the mean."""
    record, most = poisson(rng, rounds, units, rate), round(units * rate)
    for row in record:
        chosen = np.flatnonzero(row)
        if len(chosen) > most:
            row[rng.permutation(chosen)[most:]] = False
    return record


BROKEN = [shuffled, batch_then_shuffle, buffered, fixed_size, rate_up, rate_down, favourites, sticky, truncated]
ALSO_SHORT = [shuffled, batch_then_shuffle, buffered, fixed_size, rate_up, rate_down]


def failed(results):
    return any(result.status == Status.FAIL for result in results)


@pytest.mark.parametrize("sampler", BROKEN)
def test_broken_samplers_are_caught(sampler):
    for seed in range(20):
        record = sampler(np.random.default_rng(seed), 120, 600, 0.1)
        results = check_sampling(record, sampling_rate=0.1)
        assert failed(results), [result.detail for result in results]
        assert all(result.refuted for result in results if result.status == Status.FAIL)


@pytest.mark.parametrize("sampler", ALSO_SHORT)
def test_broken_samplers_are_caught_within_two_epochs(sampler):
    for seed in range(20):
        assert failed(check_sampling(sampler(np.random.default_rng(seed), 20, 1000, 0.1), sampling_rate=0.1))


SETTINGS = [
    (150, 1300, 0.1),
    (60, 300, 0.1),
    (150, 50, 0.5),
    (300, 40, 0.05),
    (30, 5000, 0.003),
    (12, 50, 0.5),
    (10, 1000, 0.9),
]


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("rounds", "units", "rate"), SETTINGS)
def test_total_false_alarm_of_honest_records(rounds, units, rate):
    rng, runs, level = np.random.default_rng(17), 400, 0.05
    results = [
        check_sampling(poisson(rng, rounds, units, rate), sampling_rate=rate, significance=level) for _ in range(runs)
    ]
    assert sum(map(failed, results)) <= binom.isf(1e-6, runs, level)


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-5)
@pytest.mark.parametrize(("rounds", "units", "rate"), SETTINGS)
def test_each_p_value_is_calibrated(rounds, units, rate):
    rng, runs = np.random.default_rng(18), 20_000
    p_values = {}
    for _ in range(runs):
        for result in check_sampling(poisson(rng, rounds, units, rate), sampling_rate=rate):
            p_values.setdefault(result.id, []).append(result.p_value)
    for name, values in p_values.items():
        for level in (0.05, 0.01, 0.0025):
            assert np.sum(np.array(values) < level) <= binom.isf(1e-7, runs, 1.15 * level), (name, level)


# Two stages


def two_stage(rng, shape, p, q):
    rounds, clients, per_client = shape
    owner = rng.integers(0, clients, clients * per_client)
    there = poisson(rng, rounds, clients, p)
    return there, there[:, owner] & poisson(rng, rounds, len(owner), q), owner


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.2), (0.3, 0.05), (1.0, 0.2), (0.5, 1.0)])
def test_two_stage_honest(p, q):
    rng, runs, level = np.random.default_rng(3), 300, 0.05
    alarms = 0
    for _ in range(runs):
        there, part, owner = two_stage(rng, (60, 20, 15), p, q)
        alarms += failed(check_two_stage(there, part, owner, client_rate=p, example_rate=q, significance=level))
    assert alarms <= binom.isf(1e-6, runs, level)


def one_unit_of_an_absent_client(rng, there, part, owner):
    absent = np.argwhere(~there[:, owner])
    part[tuple(absent[rng.integers(len(absent))])] = True


def client_rate_up(rng, there, part, owner):
    more = rng.random(there.shape) < 0.2
    there |= more


def example_rate_up(rng, there, part, owner):
    part |= there[:, owner] & (rng.random(part.shape) < 0.04)


def fixed_clients(rng, there, part, owner):
    for row in range(len(there)):
        there[row] = False
        there[row, rng.permutation(there.shape[1])[: there.shape[1] // 2]] = True
    part &= there[:, owner]
    part |= there[:, owner] & (rng.random(part.shape) < 0.1)


def local_epochs(rng, there, part, owner):
    """Each client goes through its shuffled data when it is there, instead of flipping coins."""
    part[:] = False
    for client in range(there.shape[1]):
        mine, queue = np.flatnonzero(owner == client), []
        size = max(1, round(0.2 * len(mine)))
        for row in np.flatnonzero(there[:, client]):
            if len(queue) < size:
                queue = list(rng.permutation(mine))
            part[row, [queue.pop() for _ in range(size)]] = True


@pytest.mark.parametrize(
    "fault", [one_unit_of_an_absent_client, client_rate_up, example_rate_up, fixed_clients, local_epochs]
)
def test_two_stage_faults_are_caught(fault):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        there, part, owner = two_stage(rng, (150, 50, 25), 0.5, 0.2)
        fault(rng, there, part, owner)
        results = check_two_stage(there, part, owner, client_rate=0.5, example_rate=0.2)
        assert failed(results), [(result.id, result.detail) for result in results]


def test_dropout_is_part_of_the_client_rate():
    rng = np.random.default_rng(4)
    there, part, owner = two_stage(rng, (200, 100, 5), 0.5 * 0.9, 0.2)
    assert failed(check_two_stage(there, part, owner, client_rate=0.5, example_rate=0.2))
    assert not failed(check_two_stage(there, part, owner, client_rate=0.45, example_rate=0.2))


# Rate 1, too little, nonsense


def test_with_rate_one_everything_must_take_part():
    whole = np.ones((5, 7), bool)
    (result,) = check_sampling(whole, sampling_rate=1.0)
    assert result.status == Status.PASS
    whole[2, 3] = False
    (result,) = check_sampling(whole, sampling_rate=1.0)
    assert result.status == Status.FAIL
    assert "1 missing" in result.detail
    owner = np.arange(7) % 2
    results = check_two_stage(np.ones((5, 2), bool), whole, owner, client_rate=1.0, example_rate=1.0)
    assert [r.status for r in results] == [Status.PASS, Status.PASS, Status.FAIL]


@pytest.mark.parametrize(("rounds", "units", "rate"), [(1, 100, 0.1), (3, 20, 0.1), (2, 5, 0.5), (8, 1000, 0.001)])
def test_too_little_is_inconclusive_not_pass(rounds, units, rate):
    for seed in range(5):
        results = check_sampling(poisson(np.random.default_rng(seed), rounds, units, rate), sampling_rate=rate)
        statuses = {result.status for result in results}
        assert Status.INCONCLUSIVE in statuses
    record = np.zeros((0, 5), bool)
    assert [r.status for r in check_sampling(record, sampling_rate=0.5)] == [Status.INCONCLUSIVE]


def test_a_record_of_anything_but_0_and_1_is_inconclusive():
    record = poisson(np.random.default_rng(0), 30, 40, 0.5).astype(float)
    assert not failed(check_sampling(record, sampling_rate=0.5))
    record[3, 3] = np.nan
    assert [r.status for r in check_sampling(record, sampling_rate=0.5)] == [Status.INCONCLUSIVE]
    results = check_two_stage(np.ones((30, 2)), record, np.arange(40) % 2, client_rate=1.0, example_rate=0.5)
    assert [r.status for r in results] == [Status.INCONCLUSIVE]


def test_bad_arguments_are_refused():
    record = np.ones((4, 4), bool)
    for rate in (0.0, 1.5, -1.0, float("nan")):
        with pytest.raises(UsageError):
            check_sampling(record, sampling_rate=rate)
    with pytest.raises(DataError, match="rounds, units"):
        check_sampling(np.ones(4, bool), sampling_rate=0.5)
    with pytest.raises(DataError, match="do not fit"):
        check_two_stage(record, record, np.zeros(3, int), client_rate=0.5, example_rate=0.5)
    with pytest.raises(DataError, match="client_of"):
        check_two_stage(record, record, np.full(4, 9), client_rate=0.5, example_rate=0.5)


# The pieces


def test_counts_agree_between_forms():
    rng = np.random.default_rng(5)
    record = poisson(rng, 30, 50, 0.2)
    whole, listed = counts_of(record), counts_of_batches([np.flatnonzero(row) for row in record], 50)
    everywhere = counts_given(np.ones((30, 3), bool), record, np.arange(50) % 3)
    repeats = sum(int((record[t] & record[t + 1]).sum()) for t in range(29))
    for counts in (whole, listed, everywhere):
        assert counts.repeats == repeats
        np.testing.assert_array_equal(counts.batch_sizes, record.sum(axis=1))
        np.testing.assert_array_equal(counts.inclusions, record.sum(axis=0))
        np.testing.assert_array_equal(counts.batch_trials, np.full(30, 50))
        np.testing.assert_array_equal(counts.inclusion_trials, np.full(50, 30))
    assert check_counts(whole, sampling_rate=0.2) == check_counts(listed, sampling_rate=0.2)
    with pytest.raises(DataError, match="twice"):
        counts_of_batches([np.array([1, 1])], 5)
    with pytest.raises(DataError, match="outside"):
        counts_of_batches([np.array([1, 5])], 5)


@pytest.mark.parametrize(("n", "p"), [(3, 0.4), (20, 0.05), (200, 0.3), (7, 0.9)])
def test_cumulants_of_squared_deviations_are_exact(n, p):
    k = np.arange(n + 1)
    w = (k - n * p) ** 2 / (n * p * (1 - p))
    weights = binomial.pmf(k, n, p)
    mean = (weights * w).sum()
    _, law = squared_deviations(np.array([0, 0]), np.array([n, n]), p)
    assert law.mean == pytest.approx(2 * mean)
    assert law.variance == pytest.approx(2 * (weights * (w - mean) ** 2).sum())
    assert law.third == pytest.approx(2 * (weights * (w - mean) ** 3).sum())
    assert log_probability_of_modes(np.array([n]), p) == pytest.approx(np.log(weights.max()))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 9, 12, 14])
def test_cumulants_of_repeats_are_exact(length):
    p = 0.3
    bits = (np.arange(2**length)[:, None] >> np.arange(length)) & 1
    weights = np.prod(np.where(bits, p, 1 - p), axis=1)
    pairs = (bits[:, 1:] & bits[:, :-1]).sum(axis=1)
    mean = (weights * pairs).sum()
    law = repeats_law(np.array([length, length, length]), p)
    assert law.mean == pytest.approx(3 * mean, abs=1e-12)
    assert law.variance == pytest.approx(3 * (weights * (pairs - mean) ** 2).sum(), abs=1e-12)
    assert law.third == pytest.approx(3 * (weights * (pairs - mean) ** 3).sum(), abs=1e-12)


def test_the_shifted_gamma_is_chi_square_for_chi_square():
    from scipy.stats import chi2

    law = Law(10.0, 20.0, 80.0)
    for x in (1.0, 9.0, 35.0):
        assert law.below(x) == pytest.approx(chi2.cdf(x, 10))
        assert law.above(x) == pytest.approx(chi2.sf(x, 10))
    assert law.quantile(0.01) == pytest.approx(chi2.ppf(0.01, 10))
    normal = Law(0.0, 1.0, 0.0)
    assert normal.below(-1.96) == pytest.approx(0.025, abs=1e-4)
    assert normal.quantile(normal.below(1.3)) == pytest.approx(1.3)
    assert normal.above(1.0) == pytest.approx(1 - normal.below(1.0))

"""Recorded batches against the sampler of a ledger: Poisson, fixed size without replacement, shuffled epochs."""

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit import events as ev
from dpaudit.errors import DataError, UsageError
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Status
from dpaudit.verification import check_sampler, claimed_sampler

UNITS, SIZE, ROUNDS = 600, 60, 120
POISSON = ev.PoissonSampled(sampling_rate=SIZE / UNITS, event=ev.NoOp())
FIXED = ev.SampledWithoutReplacement(population=UNITS, sample_size=SIZE, event=ev.NoOp())
EPOCHS = ev.ShuffledBatches(event=ev.NoOp(), batches=UNITS // SIZE)


def poisson(rng):
    return [np.flatnonzero(rng.random(UNITS) < SIZE / UNITS) for _ in range(ROUNDS)]


def fixed_size(rng):
    return [rng.permutation(UNITS)[:SIZE] for _ in range(ROUNDS)]


def shuffled(rng):
    return [batch for _ in range(ROUNDS * SIZE // UNITS) for batch in rng.permutation(UNITS).reshape(-1, SIZE)]


def batch_then_shuffle(rng):
    fixed = np.arange(UNITS).reshape(-1, SIZE)
    return [fixed[i] for _ in range(ROUNDS * SIZE // UNITS) for i in rng.permutation(len(fixed))]


def same_order(rng):
    """Shuffled once, then the same epoch again and again."""
    return list(rng.permutation(UNITS).reshape(-1, SIZE)) * (ROUNDS * SIZE // UNITS)


def hardly_shuffled(rng):
    """A small buffer: units move by a few places only."""
    places = [np.argsort(np.arange(UNITS) + rng.uniform(0, 30, UNITS)) for _ in range(ROUNDS * SIZE // UNITS)]
    return [batch for epoch in places for batch in epoch.reshape(-1, SIZE)]


def overlapping(rng):
    """Fixed size, a third of each batch kept from the last one."""
    kept, batches = rng.permutation(UNITS)[:SIZE], []
    for _ in range(ROUNDS):
        rest = np.setdiff1d(np.arange(UNITS), kept[: SIZE // 3])
        kept = np.concatenate([kept[: SIZE // 3], rng.permutation(rest)[: SIZE - SIZE // 3]])
        batches.append(rng.permutation(kept))
        kept = batches[-1]
    return batches


def run(batches, sampler, **options):
    return check_sampler(batches, population=UNITS, sampler=sampler, **options)


def failed(results):
    return any(result.status == Status.FAIL for result in results)


SAMPLERS = [poisson, fixed_size, shuffled, batch_then_shuffle, same_order, hardly_shuffled, overlapping]
HONEST = {POISSON: {poisson}, FIXED: {fixed_size}, EPOCHS: {shuffled}}


@pytest.mark.parametrize("claim", HONEST, ids=lambda claim: type(claim).__name__)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_passes_as_itself_only(claim, sampler):
    for seed in range(1 if claim is EPOCHS else 3):
        results = run(sampler(np.random.default_rng(seed)), claim)
        if sampler in HONEST[claim]:
            assert {result.status for result in results} == {Status.PASS}, [result.detail for result in results]
        else:
            assert failed(results), [result.detail for result in results]
            assert all(result.refuted for result in results if result.status == Status.FAIL)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("rounds", "units", "size"), [(120, 600, 60), (30, 50, 25), (200, 2000, 20), (10, 1000, 3)])
def test_false_alarms_of_fixed_sizes(rounds, units, size):
    rng, runs, level = np.random.default_rng(1), 150, 0.05
    claim = ev.SampledWithoutReplacement(population=units, sample_size=size, event=ev.NoOp())
    alarms = 0
    for _ in range(runs):
        batches = [rng.permutation(units)[:size] for _ in range(rounds)]
        alarms += failed(check_sampler(batches, population=units, sampler=claim, significance=level))
    assert alarms <= binom.isf(1e-6, runs, level)


@pytest.mark.statistical(failure_probability=1e-6)
def test_false_alarms_of_shuffled_epochs():
    rng, runs, level = np.random.default_rng(1), 30, 0.05
    claim, alarms = ev.ShuffledBatches(event=ev.NoOp(), batches=5), 0
    for _ in range(runs):
        batches = [batch for _ in range(4) for batch in rng.permutation(100).reshape(5, 20)]
        alarms += failed(check_sampler(batches, population=100, sampler=claim, significance=level))
    assert alarms <= binom.isf(1e-6, runs, level)


def test_short_records_are_inconclusive():
    few = shuffled(np.random.default_rng(0))[:10]
    assert [r.status for r in run(few, EPOCHS)] == [Status.PASS, Status.INCONCLUSIVE]
    assert [r.status for r in run(few[:5], EPOCHS)] == [Status.INCONCLUSIVE]
    few_of_many = ev.SampledWithoutReplacement(population=50, sample_size=2, event=ev.NoOp())
    results = check_sampler([np.array([3, 9]), np.array([5, 4])], population=50, sampler=few_of_many)
    statuses = {result.status for result in results}
    assert Status.INCONCLUSIVE in statuses
    assert Status.FAIL not in statuses


def test_the_sampler_is_read_off_the_ledger(tmp_path):
    ledger = PrivacyLedger(tmp_path / "l.jsonl", noise_multiplier=1.0)
    noise = ev.Gaussian(noise_multiplier=1.0)
    ledger.record(ev.SampledWithoutReplacement(population=UNITS, sample_size=SIZE, event=noise), round=0)
    again = ev.SampledWithoutReplacement(population=UNITS, sample_size=SIZE, event=noise)
    ledger.record(ev.SelfComposed(event=again, count=3), round=1)
    assert claimed_sampler(ledger) == FIXED
    ledger.record(ev.PoissonSampled(sampling_rate=0.1, event=noise), round=2)
    with pytest.raises(DataError, match="one sampler"):
        claimed_sampler(ledger)
    other = PrivacyLedger(tmp_path / "m.jsonl", noise_multiplier=1.0)
    other.record(noise, round=0)
    with pytest.raises(UsageError, match="no credit"):
        claimed_sampler(other)


def test_records_that_cannot_be_tested_are_refused():
    with pytest.raises(DataError, match="the claim"):
        check_sampler([np.arange(3)], population=10, sampler=FIXED)
    with pytest.raises(DataError, match="twice"):
        run([np.array([1, 1])], FIXED)
    with pytest.raises(UsageError, match="NoOp"):
        check_sampler([np.arange(3)], population=10, sampler=ev.NoOp())

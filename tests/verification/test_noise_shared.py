"""Noise shared between releases that show only some coordinates, and sums of noise that are too large or too small."""

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.errors import DataError
from dpaudit.records import Status
from dpaudit.verification import check_noise_overlap, check_noise_reuse, check_noise_shared, check_noise_spread


def record(seed, *, rows=40, width=120, shown=0.5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, width)), rng.random((rows, width)) < shown


def test_full_rows_give_the_numbers_of_the_check_of_full_rows():
    noise, _ = record(1)
    here = check_noise_shared(noise, np.ones(noise.shape, bool))
    there = check_noise_reuse(noise)
    assert here.statistic == pytest.approx(there.statistic, rel=1e-12)
    assert here.p_value == pytest.approx(there.p_value, rel=1e-9)
    assert here.threshold == pytest.approx(there.threshold, rel=1e-12)


def test_the_slow_twin_of_one_pair():
    from scipy.special import betainc

    noise, shown = record(2, rows=2)
    both = shown.all(axis=0)
    a, b = noise[:, both]
    cosine = abs(a @ b) / np.sqrt((a @ a) * (b @ b))
    found = check_noise_shared(noise, shown)
    assert found.statistic == pytest.approx(cosine, rel=1e-12)
    assert found.p_value == pytest.approx(betainc((both.sum() - 1) / 2, 0.5, 1 - cosine**2), rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 39), (17, 30)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_pair_that_shares_noise_is_found_and_named(first, second, sign):
    noise, shown = record(3)
    noise[second] = sign * noise[first]
    found = check_noise_shared(noise, shown, significance=1e-3, check="noise.clients", rows="clients")
    assert found.status == Status.FAIL
    assert found.id == "noise.clients"
    assert f"numbers {first} and {second}" in found.detail


def test_exact_copies_are_found_where_two_releases_share_little():
    noise, shown = record(4, rows=12, width=200, shown=0.5)
    shown[0], shown[7] = False, False
    shown[0, :14] = shown[7, 3:17] = True
    noise[7, :17] = noise[0, :17]
    assert check_noise_shared(noise, shown, significance=1e-3).status == Status.FAIL


def test_long_records_are_compared_nearest_first(monkeypatch):
    from dpaudit.verification import noise_shared

    monkeypatch.setattr(noise_shared, "_MOST_WORK", 4 * 40 * 120 * 5)
    noise, shown = record(5)
    found = check_noise_shared(noise, shown)
    assert "more than 5 apart were not compared" in found.detail
    noise[4] = noise[0]
    assert check_noise_shared(noise, shown, significance=1e-3).status == Status.FAIL


def test_what_cannot_be_compared_says_so():
    noise, shown = record(6, rows=6)
    assert check_noise_shared(noise, np.eye(6, 120, dtype=bool)).status == Status.INCONCLUSIVE
    assert check_noise_shared(noise[:1], shown[:1]).status == Status.INCONCLUSIVE
    assert check_noise_shared(noise, np.zeros_like(shown)).status == Status.INCONCLUSIVE
    noise[2, shown[2]] = np.nan
    assert check_noise_shared(noise, shown).status == Status.FAIL
    noise[2] = 0.0
    assert "no noise at all" in check_noise_shared(noise, shown).detail
    noise[2, ~shown[2]] = np.nan  # never looked at
    assert check_noise_shared(noise, shown).status == Status.FAIL
    with pytest.raises(DataError, match="one shape"):
        check_noise_shared(noise, shown[:, :3])


@pytest.mark.statistical(failure_probability=3e-6)
def test_false_alarms_are_as_rare_as_promised():
    runs, level = 150, 0.05
    alarms = [0, 0, 0]
    for seed in range(runs):
        noise, shown = record(100 + seed, rows=10, width=80, shown=0.6)
        alarms[0] += check_noise_shared(noise, shown, significance=level).status == Status.FAIL
        alarms[1] += check_noise_overlap(noise, used=shown, significance=level).status == Status.FAIL
        squares = (noise**2).sum(axis=1)
        alarms[2] += check_noise_spread(squares, np.full(10, 80), noise_multiplier=1.0, significance=level).status == (
            Status.FAIL
        )
    assert max(alarms) <= binom.isf(1e-6, runs, level)


def test_overlap_with_a_mask_for_every_round_is_the_plain_one_where_all_are_the_same():
    noise, _ = record(7)
    used = np.random.default_rng(1).random(120) < 0.7
    plain = check_noise_overlap(noise, used=used)
    masked = check_noise_overlap(noise, used=np.broadcast_to(used, noise.shape))
    assert masked.p_value == pytest.approx(plain.p_value, rel=1e-9)
    assert masked.detail == plain.detail


def test_overlap_is_found_through_different_masks():
    rng = np.random.default_rng(8)
    noise, shown = record(8, rows=6, width=200, shown=0.7)
    long = rng.standard_normal(400)
    noise[1], noise[4] = long[:200], long[37:237]
    found = check_noise_overlap(noise, used=shown, significance=1e-3)
    assert found.status == Status.FAIL
    assert "rounds 1 and 4" in found.detail


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_sum_that_is_too_small_or_too_large_fails(factor):
    rng = np.random.default_rng(9)
    squares = (2.0 * factor) ** 2 * rng.chisquare(500, size=10)
    found = check_noise_spread(squares, np.full(10, 500), noise_multiplier=2.0, significance=1e-3, check="noise.x")
    assert found.status == Status.FAIL
    assert found.statistic == pytest.approx(factor, rel=0.05)
    few = check_noise_spread([1.0], [1.0], noise_multiplier=1.0)
    assert few.status == Status.INCONCLUSIVE
    assert check_noise_spread([], [], noise_multiplier=1.0).status == Status.INCONCLUSIVE
    assert check_noise_spread([np.nan], [3.0], noise_multiplier=1.0).status == Status.FAIL
    with pytest.raises(DataError, match="one value per sum"):
        check_noise_spread([1.0], [1.0, 2.0], noise_multiplier=1.0)

"""Noise that returns moved along: found at any offset, and as seldom as stated where it is fresh."""

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.errors import DataError
from dpaudit.records import Status
from dpaudit.verification import check_noise_overlap, check_noise_reuse, noise_overlap


def windows(rng, rounds, width, step):
    stream = rng.standard_normal(step * rounds + width)
    return np.stack([stream[step * i : step * i + width] for i in range(rounds)])


@pytest.mark.parametrize("step", [1, 250, 700, 960])
def test_windows_of_one_stream_are_found(step):
    rng = np.random.default_rng(step)
    noise, used = windows(rng, 12, 1000, step), rng.random(1000) < 0.7
    result = check_noise_overlap(noise, used=used)
    assert result.status == Status.FAIL, result.detail
    assert result.refuted
    assert check_noise_reuse(noise[:, used]).status == Status.PASS


def test_one_pair_of_rounds_is_enough_and_named():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((30, 500))
    noise[21, 100:400] = noise[4, 150:450]
    result = check_noise_overlap(noise)
    assert result.status == Status.FAIL
    assert "rounds 4 and 21, -50 coordinates apart" in result.detail


def test_values_of_other_coordinates_do_not_matter():
    rng = np.random.default_rng(0)
    noise, used = rng.standard_normal((10, 400)), rng.random(400) < 0.5
    noise[:, ~used] = np.arange(np.count_nonzero(~used)) * 1e6
    assert check_noise_overlap(noise, used=used).status == Status.PASS
    noise[:, ~used] = np.nan
    assert check_noise_overlap(noise, used=used).status == Status.PASS
    noise[3, np.flatnonzero(used)[0]] = np.nan
    assert check_noise_overlap(noise, used=used).status == Status.FAIL


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize(("rounds", "width"), [(12, 300), (30, 80)])
def test_false_alarms(rounds, width):
    runs, level, alarms = 100, 0.1, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((rounds, width)) * np.exp(rng.normal(size=(rounds, 1)))
        result = check_noise_overlap(noise, used=rng.random(width) < 0.9, significance=level)
        alarms += result.status == Status.FAIL
    assert alarms <= binom.isf(1e-6, runs, level)


def test_what_is_said_to_be_detectable_is_detected():
    rng, found = np.random.default_rng(5), 0
    correlation = check_noise_overlap(rng.standard_normal((8, 600))).minimum_detectable
    for _ in range(40):
        noise = rng.standard_normal((8, 600))
        noise[5, 300:] = correlation * noise[2, :300] + np.sqrt(1 - correlation**2) * noise[5, 300:]
        found += check_noise_overlap(noise).status == Status.FAIL
    assert found >= binom.ppf(1e-5, 40, 0.99)


def test_long_runs_compare_near_rounds_and_say_so(monkeypatch):
    monkeypatch.setattr(noise_overlap, "_MOST_WORK", 2e5)
    rng = np.random.default_rng(0)
    result = check_noise_overlap(rng.standard_normal((60, 400)))
    assert result.status == Status.PASS
    assert "were not compared" in result.detail


def test_too_little_is_inconclusive_and_nonsense_refused():
    rng = np.random.default_rng(0)
    assert check_noise_overlap(rng.standard_normal((1, 500))).status == Status.INCONCLUSIVE
    assert check_noise_overlap(rng.standard_normal((5, 30))).status == Status.INCONCLUSIVE
    with pytest.raises(DataError):
        check_noise_overlap(rng.standard_normal(5))
    with pytest.raises(DataError):
        check_noise_overlap(rng.standard_normal((5, 100)), used=np.ones(3, bool))

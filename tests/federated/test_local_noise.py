"""The noise of devices and their local batches: Gaussian, fresh for everybody, a function of names alone."""

import numpy as np
import pytest
from scipy.stats import binom, kstest, norm

from dpaudit.federated import local_noise
from dpaudit.federated.local_noise import Streams, device_noise
from dpaudit.federated.local_sampling import Holdings, draw_batches, packed

ROOT = 2**90 + 11


@pytest.mark.statistical(failure_probability=1e-5)
def test_noise_is_standard_normal_far_into_the_tails():
    values = device_noise(ROOT, 3, 0, np.arange(200), steps=5, width=1000).ravel()
    assert values.dtype == np.float32
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / values.size)
    assert kstest(values.astype(np.float64), norm.cdf).pvalue > 1e-6
    for point in (2.0, 3.0, 4.0):
        low, high = binom.ppf([5e-7, 1 - 5e-7], values.size, 2 * norm.sf(point))
        assert low <= np.count_nonzero(np.abs(values) > point) <= high
    pairs = values.reshape(200, -1).astype(np.float64)
    half = pairs.shape[1] // 2  # both members of a Box-Muller pair
    assert abs(np.corrcoef(pairs[:, :half].ravel(), pairs[:, half:].ravel())[0, 1]) < 5 / np.sqrt(values.size / 2)


def test_the_tails_do_not_end_where_32_bits_do():
    """The smallest u of 32 bits gives 6.66 sigma; bits that are all zero are refined by 64 more."""
    bits = np.zeros((1, 2), dtype=np.uint64)
    streams = Streams(ROOT, "local-noise", 0, 0)
    normal = local_noise._box_muller(bits, streams, np.array([5]))
    assert normal[0, 0] > np.sqrt(2 * 32 * np.log(2))
    assert np.isfinite(normal).all()
    assert normal[0, 0] != normal[0, 1], "each refinement has a place of its own"
    ones = local_noise._box_muller(np.full((1, 2), 2**64 - 1, np.uint64), streams, np.array([5]))
    np.testing.assert_allclose(ones, 0.0, atol=1e-3)


def test_a_slow_twin_by_the_text_book():
    found = device_noise(ROOT, 2, 1, np.array([7]), steps=2, width=3)
    streams = Streams(ROOT, "local-noise", 2, 1)
    streams.seek(7)
    bits = streams.raw(3)
    radius = [np.sqrt(-2 * np.log((int(b) >> 32) / 2**32 + 2**-33)) for b in bits]
    angle = [2 * np.pi * (int(b) & (2**32 - 1)) / 2**32 for b in bits]
    wanted = [r * np.cos(a) for r, a in zip(radius, angle, strict=True)]
    wanted += [r * np.sin(a) for r, a in zip(radius, angle, strict=True)]
    np.testing.assert_allclose(found.ravel(), wanted, rtol=2e-5, atol=2e-6)


def test_nobody_shares_noise_and_it_depends_on_names_only():
    everybody = {
        (number, attempt, client, step): tuple(values)
        for number in range(3)
        for attempt in range(2)
        for client, rows in enumerate(device_noise(ROOT, number, attempt, np.arange(4), steps=3, width=8))
        for step, values in enumerate(rows)
    }
    assert len(set(everybody.values())) == 3 * 2 * 4 * 3
    seen = np.array([v for row in everybody.values() for v in row])
    assert len(np.unique(seen)) == seen.size
    alone = device_noise(ROOT, 1, 1, np.array([2]), steps=3, width=8)[0]
    for step in range(3):
        assert tuple(alone[step]) == everybody[1, 1, 2, step], "not a function of who else takes part"
    assert not np.isin(device_noise(ROOT + 1, 0, 0, np.arange(4), steps=3, width=8), seen).any()


def test_clients_of_any_id_and_odd_sizes():
    noise = device_noise(ROOT, 0, 0, np.array([0, 2**62]), steps=3, width=5)
    assert noise.shape == (2, 3, 5)
    assert len(np.unique(noise)) == noise.size
    assert device_noise(ROOT, 0, 0, np.zeros(0, np.int64), steps=3, width=5).shape == (0, 3, 5)


@pytest.mark.statistical(failure_probability=1e-5)
def test_local_batches_are_poisson_and_fresh_in_every_step_round_and_attempt():
    owner = np.repeat(np.arange(4), [1, 50, 100, 200])
    examples, canaries = Holdings.of(owner, clients=4), Holdings.of(np.array([1, 3, 3]), clients=4)
    total = np.zeros(351)
    draws = []
    for number in range(60):
        for attempt in range(2):
            got = draw_batches(
                ROOT, number, attempt, np.arange(4), rate=0.3, steps=4, examples=examples, canaries=canaries
            )
            assert got.examples.shape == (4, 4, 200)
            assert not got.examples[0, :, 1:].any(), "padding is nobody"
            assert not got.canaries[0].any()
            assert not got.canaries[1, :, 1:].any()
            index, mask, _ = packed(got, examples, padding=351)
            assert (index[mask == 0] == 351).all()
            for step in range(4):
                members = np.sort(index[:, step][mask[:, step] > 0])
                assert len(np.unique(members)) == members.size
                total[members] += 1
                draws.append(tuple(members.tolist()))
    assert len(set(draws)) == len(draws), "no sample is used twice"
    low, high = binom.ppf([5e-8, 1 - 5e-8], 480, 0.3)
    assert (total[:351] >= low).all()
    assert (total[:351] <= high).all()


def test_an_empty_local_batch_is_a_row_of_padding():
    examples = Holdings.of(np.array([0, 0, 1]), clients=2)
    none = Holdings.of(np.zeros(0, np.int64), clients=2)
    got = draw_batches(ROOT, 0, 0, np.arange(2), rate=1e-12, steps=2, examples=examples, canaries=none)
    index, mask, _ = packed(got, examples, padding=3)
    assert index.shape == (2, 2, 1)
    assert (index == 3).all()
    assert not mask.any()

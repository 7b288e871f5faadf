"""The noise of devices and their local batches: Gaussian, fresh for everybody, a function of names alone."""

import numpy as np
import pytest
from scipy.stats import binom, kstest, norm

from dpaudit import _rng
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
    streams = Streams(ROOT, "local-noise", 0, 0)
    normal = from_bits([0, 0], streams)
    assert normal[0] > np.sqrt(2 * 32 * np.log(2))
    assert np.isfinite(normal).all()
    assert normal[0] != normal[1], "each refinement has a place of its own"
    np.testing.assert_allclose(from_bits([2**64 - 1] * 2, streams), 0.0, atol=1e-3)


def from_bits(numbers, streams):
    """Return what Box and Muller make of these numbers of 64 bits, as client 5: the cosines, then the sines."""
    out = np.empty((1, 2, len(numbers)), np.float32)
    scratch = np.empty((1, 2), np.uint32), *np.empty((2, 1, 2), np.float32)
    local_noise._box_muller([np.array(numbers, np.uint64)], streams, [5], scratch, 1.0, out)
    return out.ravel()


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


def whole_arrays(root, number, attempt, clients, *, steps, width, rare):
    """The noise as it was first written: all clients at once, each operation on new arrays, a state of arrays."""
    generator = _rng.stream(root, "local-noise", number, attempt)
    state = dict(generator.bit_generator.state)

    def raw(count, *counter):
        state["state"]["counter"] = np.array(counter, dtype=np.uint64)
        generator.bit_generator.state = state
        return generator.bit_generator.random_raw(count)

    pairs = -(-steps * width // 2)
    bits = np.array([raw(pairs, 0, 0, 0, client) for client in clients.tolist()])
    high = (bits >> np.uint64(32)).astype(np.uint32)
    u = (high.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    for row, place in np.argwhere(high < rare).tolist():
        more = float(raw(1, place, 1, 0, int(clients[row]))[0]) * 2.0**-64 + 2.0**-66
        u[row, place] = (float(high[row, place]) + more) * 2.0**-32
    radius = np.sqrt(np.log(u) * np.float32(-2.0))
    angle = bits.astype(np.uint32).astype(np.float32) * np.float32(2 * np.pi / 2**32)
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal[:, : steps * width].reshape(clients.size, steps, width), np.count_nonzero(high < rare)


@pytest.mark.parametrize("rare", [256, 2**24])
@pytest.mark.parametrize(("clients", "steps", "width"), [(5, 3, 7), (9, 5, 2410), (1, 1, 1)])
def test_the_same_bits_as_the_plain_way(clients, steps, width, rare, monkeypatch):
    monkeypatch.setattr(local_noise, "_RARE", rare)
    ids = 3 * np.arange(clients)
    wanted, refined = whole_arrays(ROOT, 4, 1, ids, steps=steps, width=width, rare=rare)
    assert refined > 0 or clients < 9 or rare == 256
    np.testing.assert_array_equal(device_noise(ROOT, 4, 1, ids, steps=steps, width=width), wanted)
    memory = np.full((clients + 1, steps * width + 3), np.nan, np.float32)
    doubled = device_noise(ROOT, 4, 1, ids, steps=steps, width=width, stddev=2.0, out=memory)
    np.testing.assert_array_equal(doubled, 2 * wanted)
    assert np.shares_memory(doubled, memory)
    assert np.isnan(memory[-1]).all()


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


@pytest.mark.parametrize("rate", [1e-12, 1 / 3, 0.5, 1 - 2**-53, 1.0])
def test_coins_are_those_of_numpy_and_batches_are_packed_one_by_one(rate):
    owner, planted = np.repeat(np.arange(4), [1, 0, 40, 9]), np.array([3, 0, 3])
    examples, canaries = Holdings.of(owner, clients=4), Holdings.of(planted, clients=4)
    clients, steps = np.array([0, 1, 3, 2]), 3
    got = draw_batches(ROOT, 5, 1, clients, rate=rate, steps=steps, examples=examples, canaries=canaries)
    index, mask, members = packed(got, examples, padding=50)
    streams, pairs = Streams(ROOT, "local-examples", 5, 1), []
    for row, client in enumerate(clients.tolist()):
        streams.seek(client)
        own = np.flatnonzero(owner == client)
        coins = streams.generator.random((steps, own.size + np.count_nonzero(planted == client))) < rate
        for step in range(steps):
            members_here = own[coins[step, : own.size]]
            np.testing.assert_array_equal(index[row, step][mask[row, step] == 1], members_here)
            assert (index[row, step][mask[row, step] == 0] == 50).all()
            np.testing.assert_array_equal(got.canaries[row, step, : coins.shape[1] - own.size], coins[step, own.size :])
            pairs += [(step, int(position)) for position in members_here]
    assert [tuple(pair) for pair in members.tolist()] == pairs


def test_an_empty_local_batch_is_a_row_of_padding():
    examples = Holdings.of(np.array([0, 0, 1]), clients=2)
    none = Holdings.of(np.zeros(0, np.int64), clients=2)
    got = draw_batches(ROOT, 0, 0, np.arange(2), rate=1e-12, steps=2, examples=examples, canaries=none)
    index, mask, _ = packed(got, examples, padding=3)
    assert index.shape == (2, 2, 1)
    assert (index == 3).all()
    assert not mask.any()

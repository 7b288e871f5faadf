"""The noise of devices and their local batches: Gaussian, fresh for everybody, a function of names alone."""

import hashlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import binom, kstest, norm

from dpaudit import _rng
from dpaudit.errors import MissingDependency
from dpaudit.federated import local_noise
from dpaudit.federated.local_noise import device_noise
from dpaudit.federated.local_sampling import Holdings, Streams, draw_batches, packed

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
    normal = from_words([0, 0], [0, 0])
    assert normal[0] > np.sqrt(2 * 32 * np.log(2))
    assert np.isfinite(normal).all()
    assert normal[0] != normal[1], "each refinement has a place of its own"
    np.testing.assert_allclose(from_words([2**32 - 1] * 2, [2**32 - 1] * 2), 0.0, atol=1e-3)


def from_words(u, v):
    """Return what Box and Muller make of these numbers of 32 bits, as client 5: the cosines, then the sines."""
    out, words = np.empty((1, 2, len(u)), np.float32), np.array([[*u, *v, 0, 0, 0, 0]], np.uint32)
    scratch = words, *np.empty((2, 1, len(u)), np.float32)
    local_noise._box_muller(scratch, local_noise.Bits(ROOT, 0, 0), [5], 1.0, out)
    return out.ravel()


def encrypted(key, client, first, count):
    """Return the 64 bits, little-endian, of so many half blocks of AES, block by block from the definition of CTR."""
    found = b""
    for block in range(first, first + -(-count // 2)):
        counter = client.to_bytes(8, "big") + block.to_bytes(8, "big")
        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        found += cipher.update(counter) + cipher.finalize()
    return [int.from_bytes(found[8 * i : 8 * i + 8], "little") for i in range(count)]


@pytest.mark.parametrize("rare", [256, 2**31])
def test_a_slow_twin_by_the_text_book(rare, monkeypatch):
    monkeypatch.setattr(local_noise, "_RARE", rare)
    root, steps, width = ROOT + 1, 3, 7
    found = device_noise(root, 2, 1, np.array([7, 2**62 + 1]), steps=steps, width=width)
    key = hashlib.sha256(f"dpaudit/v1|{root}|local-noise|2,1".encode()).digest()[:16]
    for client, ours in zip((7, 2**62 + 1), found.reshape(2, -1), strict=True):
        pairs = (steps * width + 1) // 2
        bits = encrypted(key, client, 0, pairs)
        words = [word for both in bits for word in (both & (2**32 - 1), both >> 32)]
        wanted = []
        for place, u in enumerate(words[:pairs]):
            below = 0.5
            if u < rare:
                more = encrypted(key, client, 2**63 + place, 1)[0]
                below = (more & (2**32 - 1)) / 2**32 + (more >> 32) / 2**64
            wanted.append(np.sqrt(-2 * np.log((u + below) / 2**32)))
        angles = [2 * np.pi * v / 2**32 for v in words[pairs : 2 * pairs]]
        wanted = [r * f(a) for f in (np.cos, np.sin) for r, a in zip(wanted, angles, strict=True)]
        np.testing.assert_allclose(ours, wanted[: steps * width], rtol=2e-5, atol=2e-6)


def test_the_key_stream_is_that_of_the_standard(monkeypatch):
    """NIST SP 800-38A, F.5.1 (CTR-AES128.Encrypt): the first two output blocks."""
    monkeypatch.setattr(_rng, "key", lambda *_: bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"))
    words = np.zeros(12, "<u4")
    local_noise.Bits(1, 2, 3).write(0xF0F1F2F3F4F5F6F7, words, block=0xF8F9FAFBFCFDFEFF)
    assert words[:8].tobytes().hex() == "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"


@pytest.mark.parametrize(
    ("clients", "steps", "width"), [(5, 3, 7), (9, 5, 2410), (2, 3, 12_000), (2, 1, 70_000), (1, 1, 1)]
)
def test_where_it_is_written_and_how_wide_it_is_does_not_matter(clients, steps, width):
    ids = 3 * np.arange(clients)
    wanted = device_noise(ROOT, 4, 1, ids, steps=steps, width=width)
    memory = np.full((clients + 1, steps * width + 3), np.nan, np.float32)
    doubled = device_noise(ROOT, 4, 1, ids, steps=steps, width=width, stddev=2.0, out=memory)
    np.testing.assert_array_equal(doubled, 2 * wanted)
    small = device_noise(ROOT, 4, 1, ids, steps=steps, width=width, stddev=1e-30)
    np.testing.assert_allclose(small, 1e-30 * wanted.astype(np.float64), rtol=3e-7, atol=1e-37)
    assert np.shares_memory(doubled, memory)
    assert np.isnan(memory[-1]).all()
    for row, client in zip(wanted, ids, strict=True):
        alone = device_noise(ROOT, 4, 1, np.array([client]), steps=steps, width=width)
        np.testing.assert_array_equal(alone[0], row)


def test_with_an_old_cryptography_it_is_said_how_to_get_another(monkeypatch):
    monkeypatch.setattr(local_noise, "_SCRATCH", local_noise._Scratch())
    old = SimpleNamespace(Cipher=lambda *_: SimpleNamespace(encryptor=object), algorithms=algorithms, modes=modes)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", old)
    with pytest.raises(MissingDependency, match="43 or later"):
        device_noise(ROOT, 0, 0, np.arange(2), steps=1, width=1)


def test_without_the_package_cryptography_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(local_noise, "_SCRATCH", local_noise._Scratch())
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(MissingDependency, match=r"dpaudit\[train\]"):
        device_noise(ROOT, 0, 0, np.arange(2), steps=1, width=1)


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

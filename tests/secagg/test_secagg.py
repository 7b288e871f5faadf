"""Secure aggregation: the exact sum for every pattern of losses, what a server sees, and what devices refuse."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import chi2

pytest.importorskip("flwr")
pytest.importorskip("Crypto")

from dpaudit.errors import UsageError
from dpaudit.secagg import (
    Device,
    Parameters,
    ProtocolViolation,
    TooFewDevices,
    UnmaskRequest,
    primitives,
)
from dpaudit.secagg.memory import secure_sum

WIDTH = 6
THREE = Parameters(devices=3, threshold=2, width=WIDTH)


def vectors(devices, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    return {number: rng.integers(-(2**20), 2**20, width) for number in range(devices)}


@pytest.fixture
def known_keys(monkeypatch):
    """Key pairs from a small store, for tests that run many rounds: making them is most of the time."""
    store = [primitives.new_keys() for _ in range(10)]
    turns = itertools.cycle(store)
    monkeypatch.setattr(primitives, "new_keys", lambda: next(turns))


@pytest.mark.parametrize("pattern", list(itertools.product(range(5), repeat=3)))
def test_the_sum_is_exact_whoever_is_lost_before_whatever_stage(pattern, known_keys):
    """All 125 patterns of three devices: the stage (0 to 3) from which each is lost, 4 for never."""
    sent, lost = vectors(3), dict(enumerate(pattern))
    if sum(stage > 3 for stage in pattern) < THREE.threshold:
        with pytest.raises(TooFewDevices):
            secure_sum(sent, THREE, lost=lost)
        return
    total, arrived = secure_sum(sent, THREE, lost=lost)
    assert arrived == {number for number, stage in lost.items() if stage > 2}
    np.testing.assert_array_equal(total, sum(sent[number] for number in arrived))


@pytest.mark.parametrize("bits", [8, 32, 48, 62])
def test_sums_are_modulo_the_field(bits, known_keys):
    parameters = Parameters(devices=5, threshold=3, width=40, bits=bits)
    rng = np.random.default_rng(bits)
    sent = {number: rng.integers(-(2**62), 2**62, 40) for number in range(5)}
    total, _ = secure_sum(sent, parameters, lost={1: 2, 4: 3})
    exact = [sum(int(sent[number][at]) for number in (0, 2, 3, 4)) for at in range(40)]
    half = 1 << (bits - 1)
    assert total.tolist() == [(value + half) % (1 << bits) - half for value in exact]


def uniform_p(values, bits):
    """p-value of 256 equal cells of numbers modulo 2^bits."""
    counts = np.bincount((values >> np.uint64(bits - 8)).astype(np.int64), minlength=256)
    expected = values.size / 256
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))


def test_a_masked_vector_is_uniform_whatever_is_in_it(known_keys):
    """Chi-square over 256 cells, of a vector of zeros and one of a constant; each fails once in a million."""
    parameters = Parameters(devices=3, threshold=2, width=50_000)
    seen = {}
    sent = {0: np.zeros(50_000, np.int64), 1: np.full(50_000, 7), 2: np.full(50_000, 2**31 - 1)}
    secure_sum(sent, parameters, tap=lambda stage, n, m: seen.setdefault((stage, n), m))
    for number, vector in sent.items():
        masked = seen["masked_input", number].vector
        assert masked.max() < 2**32
        assert uniform_p(masked, 32) > 1e-6
        assert uniform_p((masked - vector.astype(np.uint64)) & np.uint64(2**32 - 1), 32) > 1e-6
    assert not np.array_equal(seen["masked_input", 0].vector, seen["masked_input", 1].vector)


def test_masks_use_all_of_their_seed_and_all_values():
    """Where Flower's generator does not: see test_flower_secagg."""
    first, second = (primitives.mask(s, width=100_000, bits=4) for s in (bytes(32), bytes(range(4)) * 2 + bytes(24)))
    assert first.max() == second.max() == 15
    assert not np.array_equal(first, second)


def prepared(parameters=THREE, devices=3):
    """Devices that have sent their masked vectors, and whom each masked against."""
    everyone = {number: Device(number, parameters) for number in range(devices)}
    keys = {number: device.advertise_keys() for number, device in everyone.items()}
    sent = {number: device.share_keys(keys) for number, device in everyone.items()}
    for receiver, device in everyone.items():
        device.masked_input(
            np.zeros(WIDTH, np.int64), {s: m.ciphertexts[receiver] for s, m in sent.items() if s != receiver}
        )
    return everyone


@pytest.mark.parametrize(
    ("arrived", "lost", "what"),
    [
        ({0, 1, 2}, {2}, "arrived and to be lost"),
        ({0, 1}, set(), "other devices"),
        ({0, 1, 2, 3}, set(), "other devices"),
        ({1, 2}, {0}, "other devices"),
    ],
)
def test_a_server_that_mixes_up_requests_is_refused(arrived, lost, what, known_keys):
    device = prepared()[0]
    with pytest.raises(ProtocolViolation, match=what):
        device.unmask(UnmaskRequest(arrived=frozenset(arrived), lost=frozenset(lost)))
    with pytest.raises(ProtocolViolation, match="once"):  # and it does not answer a second question
        device.unmask(UnmaskRequest(arrived=frozenset({0, 1, 2}), lost=frozenset()))


def test_a_server_that_wants_the_sum_of_few_is_refused(known_keys):
    with pytest.raises(TooFewDevices, match="1 devices arrived"):
        prepared()[0].unmask(UnmaskRequest(arrived=frozenset({0}), lost=frozenset({1, 2})))


def test_keys_that_the_server_changed_are_refused(known_keys):
    devices = [Device(number, THREE) for number in range(3)]
    keys = {number: device.advertise_keys() for number, device in enumerate(devices)}
    with pytest.raises(ProtocolViolation, match="other keys for this device"):
        devices[0].share_keys({**keys, 0: dataclasses.replace(keys[0], mask=keys[1].message)})
    with pytest.raises(ProtocolViolation, match="one key"):
        devices[1].share_keys({**keys, 2: dataclasses.replace(keys[2], mask=keys[0].mask)})
    with pytest.raises(TooFewDevices, match="1 devices sent their keys"):
        devices[2].share_keys({2: keys[2]})


def test_a_server_in_the_middle_is_seen_where_devices_know_each_other(known_keys):
    identities = [primitives.new_keys() for _ in range(3)]
    directory = {number: pair.public for number, pair in enumerate(identities)}

    def devices():
        return [Device(n, THREE, identity=pair.private, directory=directory) for n, pair in enumerate(identities)]

    sent = vectors(3)
    total, _ = secure_sum(sent, THREE, devices=dict(enumerate(devices())))
    np.testing.assert_array_equal(total, sum(sent.values()))
    first, *others = devices()
    keys = {n: device.advertise_keys() for n, device in enumerate((first, *others))}
    forged = dataclasses.replace(keys[1], mask=primitives.keys_from_secret(bytes(47) + b"\x05").public)
    with pytest.raises(ProtocolViolation, match="not signed"):
        first.share_keys({**keys, 1: forged})


class Forgetful:
    """A device whose program ends after every stage: what it knows is what it wrote down."""

    def __init__(self, number, parameters):
        self.number, self.parameters = number, parameters
        self.held = Device(number, parameters).dump()

    def __getattr__(self, stage):
        def call(*arguments):
            device = Device.load(self.number, self.parameters, self.held)
            answer = getattr(device, stage)(*arguments)
            self.held = device.dump()
            return answer

        return call


@pytest.mark.parametrize("lost", [{}, {0: 2}, {2: 1}])
def test_a_device_can_be_written_down_between_any_two_stages(lost, known_keys):
    four = Parameters(devices=4, threshold=3, width=WIDTH)
    sent = vectors(4)
    total, arrived = secure_sum(sent, four, lost=lost, devices={n: Forgetful(n, four) for n in range(4)})
    np.testing.assert_array_equal(total, sum(sent[number] for number in arrived))
    assert len(arrived) == 4 - len(lost)


def flipped(message):
    return message[:40] + bytes([message[40] ^ 1]) + message[41:]


def test_messages_between_devices_that_were_changed_or_redirected_are_refused(known_keys):
    def changed(stage, number, message):
        if stage != "share_keys" or number != 1:
            return message
        return dataclasses.replace(message, ciphertexts={n: flipped(c) for n, c in message.ciphertexts.items()})

    with pytest.raises(ProtocolViolation, match="changed on its way"):
        secure_sum(vectors(3), THREE, tap=changed)

    def redirected(stage, number, message):
        if stage != "share_keys" or number != 1:
            return message
        to_0, to_2 = message.ciphertexts[0], message.ciphertexts[2]
        return dataclasses.replace(message, ciphertexts={0: to_2, 2: to_0})

    with pytest.raises(ProtocolViolation, match="for another one"):
        secure_sum(vectors(3), THREE, tap=redirected)


@pytest.mark.parametrize("lost", [{}, {2: 2}])
def test_false_shares_give_no_sum(lost, known_keys):
    """Of a seed where everybody arrived, of a key where one was lost: the server finds both out."""

    def false(stage, number, message):
        if stage != "unmask" or number != 1:
            return message
        forged = {other: share[:4] + bytes(len(share) - 4) for other, share in message.seeds.items()}
        keys = {other: share[:4] + bytes(len(share) - 4) for other, share in message.keys.items()}
        return dataclasses.replace(message, seeds=message.seeds if lost else forged, keys=keys)

    with pytest.raises(ProtocolViolation, match="false"):
        secure_sum(vectors(3), THREE, lost=lost, tap=false)


def test_a_device_can_break_the_sum_by_what_it_sends_and_no_more(known_keys):
    """The limit of the protocol, stated in the docs: a masked vector that is changed shifts the sum by the change."""
    sent = vectors(3)

    def shifted(stage, number, message):
        if stage != "masked_input" or number != 1:
            return message
        return dataclasses.replace(message, vector=(message.vector + np.uint64(5)) & np.uint64(2**32 - 1))

    total, _ = secure_sum(sent, THREE, tap=shifted)
    np.testing.assert_array_equal(total, sum(sent.values()) + 5)

    def short(stage, number, message):
        return (
            dataclasses.replace(message, vector=message.vector[:2])
            if stage == "masked_input" and number == 1
            else message
        )

    total, arrived = secure_sum(sent, THREE, tap=short)
    assert arrived == {0, 2}
    np.testing.assert_array_equal(total, sent[0] + sent[2])


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ({"devices": 4, "threshold": 2, "width": 3}, "more than half"),
        ({"devices": 4, "threshold": 5, "width": 3}, "more than half"),
        ({"devices": 1, "threshold": 1, "width": 3}, "at least 2"),
        ({"devices": 3, "threshold": 2, "width": 3, "bits": 63}, "at most 62"),
        ({"devices": 3, "threshold": 2, "width": 0}, "width"),
    ],
)
def test_parameters_that_are_refused(sizes, what):
    with pytest.raises(UsageError, match=what):
        Parameters(**sizes)


def test_vectors_that_are_not_what_was_agreed_are_refused(known_keys):
    for wrong in (np.zeros(WIDTH), np.zeros(WIDTH + 1, np.int64)):
        with pytest.raises(ProtocolViolation, match="expected 6 integers"):
            secure_sum({**vectors(3), 1: wrong}, THREE)

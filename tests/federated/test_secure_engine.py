"""Secure aggregation in a run: what the server is given, that the sum is exact, losses, resume, and what is refused."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr")
pytest.importorskip("tensorflow")

from dpaudit import secagg
from dpaudit.config import TrainingSection
from dpaudit.errors import UsageError
from dpaudit.events import NoOp
from dpaudit.federated import run_files
from dpaudit.federated.aggregation import aggregator_of
from dpaudit.federated.canaries import NO_CANARIES
from dpaudit.federated.clipping import Block, ClippedSum, Rejected, SecureSum
from dpaudit.federated.optimizers import Sgd
from dpaudit.federated.quantisation import Quantiser
from dpaudit.federated.sampling import Population
from dpaudit.federated.secure_engine import SecureEngine, protected, round_parameters, secured
from dpaudit.federated.server import Plan, Server
from dpaudit.federated.trainer import train
from dpaudit.ledger import PrivacyLedger

CLIENTS, WIDTH, Z = 5, 40, 0.8


def section(**changes):
    body = {
        "algorithm": "dp-fedavg", "rounds": 4, "client_sampling_rate": 1.0, "aggregator": "skellam",
        "minimum_contributions": 3, "secure_aggregation": True, "noise_multiplier": Z, **changes,
    }  # fmt: skip
    return TrainingSection(**body)


def update_of(device):
    return np.full(WIDTH, 0.01 * (device + 1), np.float32)


def engine(rows=update_of, *, failed=()):
    """An engine of devices that answer with `rows(device)`, but for those that fail."""

    def run_cohort(_weights, cohort):
        for device in cohort.units:
            if device in failed:
                yield Rejected(unit=int(device), reason="no reply")
            else:
                yield Block(units=np.array([device]), rows=rows(device)[None])

    return SimpleNamespace(
        name="in-process", parameters=WIDTH, direction=-1.0, clipping_path="rows", run_cohort=run_cohort
    )


def make_server(ledger=None, **changes):
    training = section(**changes)
    population = Population(clients=CLIENTS, client_of=None)
    plan = Plan(training=training, population=population, canaries=NO_CANARIES, root=3, direction=-1.0)
    aggregator = aggregator_of(training, noise_multiplier=Z, expected=CLIENTS)
    server = Server(
        plan, aggregator=aggregator, optimizer=Sgd(1.0), weights=np.zeros(WIDTH),
        ledger=PrivacyLedger() if ledger is None else ledger,
    )  # fmt: skip
    return server, aggregator


@pytest.fixture
def seen(monkeypatch):
    """What the server's side of the protocol was given: (stage, message)."""
    found = []
    for stage in ("collect_keys", "route_shares", "add", "unmask"):
        honest = getattr(secagg.Aggregation, stage)

        def watched(self, sent, stage=stage, honest=honest):
            found.append((stage, dict(sent)))
            return honest(self, sent)

        monkeypatch.setattr(secagg.Aggregation, stage, watched)
    return found


def test_the_server_is_given_masked_vectors_and_the_exact_sum(seen, monkeypatch):
    """The sum that comes out is, to the bit, that of what the devices put in; and no device's own was ever there."""
    put_in = {}
    honest = SecureEngine._vector

    def watched(self, row, device, *round_):
        put_in[device] = honest(self, row, device, *round_)
        return put_in[device]

    monkeypatch.setattr(SecureEngine, "_vector", watched)
    ledger = PrivacyLedger()
    server, aggregator = make_server(ledger)
    collected, release = server.run_round(0, secured(engine(), aggregator, width=WIDTH, root=3).run_cohort)
    grid = Quantiser(clip_norm=1.0, width=WIDTH)
    np.testing.assert_array_equal(grid.steps(release.vector), sum(put_in.values()))
    np.testing.assert_array_equal(collected.total[:WIDTH], release.vector)
    (masked,) = (sent for stage, sent in seen if stage == "add")
    assert masked.keys() == put_in.keys() == set(range(CLIENTS))
    for device, message in masked.items():
        own = put_in[device].astype(np.uint64) & np.uint64(2**32 - 1)
        assert not np.any(message.vector == own), "5 x 40 numbers: equal by chance with probability 5e-8"
    (entry,) = ledger.events()
    assert entry.facts["shares"] == CLIENTS
    assert entry.facts["realised_units"] == CLIENTS
    assert entry.event.noise_multiplier == pytest.approx(Z * 256 / 257)


def test_what_a_device_sends_is_its_update_in_steps_and_a_share_of_the_noise():
    _, aggregator = make_server()
    quiet = dataclasses.replace(aggregator, noise_factor=1e-9)  # a share of variance 1
    grid, rng = Quantiser(clip_norm=1.0, width=WIDTH), np.random.default_rng
    sent = protected(update_of(2), quiet, width=WIDTH, rng=rng(1))
    assert np.abs(sent - grid.scaled(update_of(2)[None])[0]).max() < 8
    for unfit in (np.full(WIDTH, np.nan, np.float32), np.full(WIDTH, np.inf, np.float32), np.ones(WIDTH + 1)):
        assert np.abs(protected(unfit, quiet, width=WIDTH, rng=rng(1))).max() < 8
    assert np.abs(protected(update_of(2), aggregator, width=WIDTH, rng=rng(1))).max() > 50


def test_a_replay_draws_the_same_noise_only_for_the_same_updates():
    """Otherwise the difference of two releases would be that of the sums: one update, changed in its last bit."""

    def release(rows):
        server, aggregator = make_server()
        return server.run_round(0, secured(engine(rows), aggregator, width=WIDTH, root=3).run_cohort)[1].vector

    def nudged(device):
        row = update_of(device)
        row[0] = np.nextafter(row[0], np.float32(2)) if device == 2 else row[0]
        return row

    first, again, other = release(update_of), release(update_of), release(nudged)
    np.testing.assert_array_equal(first, again)
    assert np.std(first - other) > Z * np.sqrt(CLIENTS / 3), "two independent draws differ by sqrt(2) times one"


def test_devices_that_fail_are_lost_to_the_protocol_and_the_rest_is_summed():
    ledger = PrivacyLedger()
    server, aggregator = make_server(ledger)
    lossy = secured(engine(failed=(1, 4)), aggregator, width=WIDTH, root=3)
    _, release = server.run_round(0, lossy.run_cohort)
    *_, entry = ledger.events()
    assert (release.withheld, entry.facts["shares"], entry.facts["rejected"]) == (False, 3, 2)


@pytest.mark.parametrize("failed", [(0, 1, 2), (0, 1, 2, 3, 4)])
def test_too_few_devices_reveal_nothing(failed, seen):
    ledger = PrivacyLedger()
    server, aggregator = make_server(ledger)
    _, release = server.run_round(0, secured(engine(failed=failed), aggregator, width=WIDTH, root=3).run_cohort)
    *_, entry = ledger.events()
    assert release.withheld
    assert isinstance(entry.event, NoOp)
    assert "0 shares" in entry.facts["withheld"]
    assert all(stage != "unmask" for stage, _ in seen)


def test_devices_want_more_than_half_and_the_noise_of_the_minimum():
    assert round_parameters(9, minimum=3, width=4).threshold == 5
    assert round_parameters(9, minimum=7, width=4).threshold == 7
    assert round_parameters(6, minimum=7, width=4) is None
    assert round_parameters(1, minimum=1, width=4) is None
    server, aggregator = make_server(minimum_contributions=5, client_sampling_rate=0.5, sampler="without-replacement")
    small = SecureEngine(engine(), dataclasses.replace(aggregator, minimum=5), width=WIDTH, root=3)
    _, release = server.run_round(0, small.run_cohort)
    assert release.withheld


def test_nothing_but_sums_is_taken_where_sums_are_expected():
    """A plain row would be counted as a share of the noise that it does not bring."""
    whole = np.arange(CLIENTS)
    plain = [
        Block(units=whole, rows=np.zeros((CLIENTS, WIDTH), np.float32)),
        ClippedSum(units=whole, total=np.zeros(WIDTH), norms=np.zeros(CLIENTS, np.float32), clip_norm=1.0),
        SecureSum(units=np.array([0, 1, 99]), total=np.zeros(WIDTH)),
        SecureSum(units=np.array([0, 1, 1]), total=np.zeros(WIDTH)),
        SecureSum(units=whole, total=np.zeros(WIDTH + 1)),
        SecureSum(units=whole, total=np.full(WIDTH, np.nan)),
    ]
    for block in plain:
        server, _ = make_server()
        collected, release = server.run_round(0, lambda _, __, block=block: [block])
        assert collected.accepted == 0
        assert release.withheld
    server, _ = make_server(secure_aggregation=False)
    collected, _ = server.run_round(0, lambda _, __: [SecureSum(units=whole, total=np.zeros(WIDTH))])
    assert collected.accepted == 0


class Stopped(Exception):
    pass


def test_a_run_with_secure_aggregation_resumes_to_the_bit(make_config, data, tmp_path):
    training = {
        "rounds": 4, "client_sampling_rate": 1.0, "aggregator": "discrete-gaussian", "minimum_contributions": 4,
        "secure_aggregation": True, "dropout_rate": 0.2,
    }  # fmt: skip
    config = make_config(client_level=True, training=training)

    def go(out, *, resume, stop=99):
        def progress(done, _planned):
            if done == stop:
                raise Stopped

        train(config, data, root=11, out=out, noise_multiplier=1.0, resume=resume, progress=progress, ledger_facts={})

    go(tmp_path / "whole", resume=False)
    with pytest.raises(Stopped):
        go(tmp_path / "broken", resume=False, stop=3)
    go(tmp_path / "broken", resume=True)
    for name in (run_files.LEDGER, run_files.OBSERVATIONS, run_files.RESULT):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    facts = PrivacyLedger.open(tmp_path / "whole" / run_files.LEDGER).facts
    assert "masked vectors" in facts["server_sees"]
    assert facts["engine"] == "in-process, secure aggregation"
    assert facts["clipping_path"].startswith("device")


def test_an_engine_with_clients_elsewhere_is_refused():
    """There the updates would reach the server one by one, and the ledger would say that they do not."""
    _, aggregator = make_server()
    remote = engine()
    remote.name = "flower"
    with pytest.raises(UsageError, match="without its mask"):
        secured(remote, aggregator, width=WIDTH, root=3)
    assert secured(remote, dataclasses.replace(aggregator, secure=False), width=WIDTH, root=3) is remote


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregator": "gaussian", "minimum_contributions": None},
        {"algorithm": "dp-fedsgd"},
        {"aggregator": "tfp-gaussian", "minimum_contributions": None},
    ],
)
def test_configurations_that_are_refused(changes):
    with pytest.raises(ValueError, match="secure_aggregation needs"):
        section(**changes)

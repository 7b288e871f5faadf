import gc
import tracemalloc

import numpy as np
import pytest

from dpaudit.accounting import epsilon
from dpaudit.events import Gaussian, PoissonSampled, SelfComposed
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.canaries import make_canaries
from dpaudit.federated.clipping import Block, Rejected
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Plan, Server
from dpaudit.ledger import PrivacyLedger

CLIENTS, WIDTH = 40, 3


@pytest.fixture
def make_server(make_config):
    def make(*, noise=1.0, canaries=10, ledger=None, draws=None, **training):
        config = make_config(client_level=True, training={"clip_norm": 2.0, **training}, canaries={"count": canaries})
        population = Population(clients=CLIENTS, client_of=None)
        plan = Plan(
            training=config.training,
            population=population,
            canaries=make_canaries(config.canaries, population, root=1),
            root=1,
            direction=-1.0,
        )
        return Server(
            plan,
            aggregator=GaussianSum(clip_norm=2.0, noise_multiplier=noise),
            optimizer=make_optimizer(config.training),
            weights=np.zeros(WIDTH),
            ledger=PrivacyLedger() if ledger is None else ledger,
            on_draw=None if draws is None else lambda number, attempt: draws.append((number, attempt)),
        )

    return make


def server_event(rate, z=1.0):
    gaussian = Gaussian(noise_multiplier=z)
    return gaussian if rate == 1 else PoissonSampled(sampling_rate=rate, event=gaussian)


def updates(cohort, value=0.1):
    return [Block(units=cohort.units, rows=np.full((cohort.units.size, WIDTH), value, np.float32))]


def test_a_round_is_one_event_with_what_really_happened(make_server):
    ledger = PrivacyLedger()
    server = make_server(ledger=ledger, dropout_rate=0.3)
    collected, release = server.run_round(0, lambda _, cohort: updates(cohort))
    (entry,) = ledger.events()
    cohort = collected.cohort
    assert entry.event == server_event(0.6)
    assert entry.facts["round"] == 0
    assert entry.facts["expected"] == pytest.approx(0.6 * CLIENTS)
    assert entry.facts["realised_clients"] == entry.facts["realised_units"] == cohort.units.size
    assert entry.facts["dropouts"] == cohort.dropouts > 0
    assert entry.facts["noise_stddev"] == 2.0
    assert len(entry.facts["release_sha256"]) == 64
    assert release.vector.shape == (WIDTH + 10,)


def test_the_divisor_is_fixed_when_devices_drop_out(make_server):
    for dropout in (0.0, 0.6):
        server = make_server(noise=0.0, dropout_rate=dropout)
        collected, _ = server.run_round(0, lambda _, cohort: updates(cohort))
        np.testing.assert_allclose(server.weights, 0.1 * collected.accepted / (0.6 * CLIENTS), rtol=1e-6)


def test_units_that_an_engine_reports_as_lost_are_noted_and_cannot_come_back(make_server):
    ledger = PrivacyLedger()
    server = make_server(noise=1.0, ledger=ledger)

    def one_lost(_, cohort):
        first, _silent, *rest = cohort.units
        yield Rejected(unit=int(first), reason="no reply within 50 s")
        yield Block(units=np.array([first, *rest]), rows=np.full((len(rest) + 1, WIDTH), 0.1, np.float32))

    collected, _ = server.run_round(0, one_lost)
    cohort = collected.cohort
    assert collected.arrived[cohort.units[0]]  # accounted for
    assert not collected.arrived[cohort.units[1]]  # an engine that is silent about a unit has lost it
    assert collected.accepted == cohort.units.size - 2
    (entry,) = ledger.events()
    assert (entry.facts["rejected"], entry.facts["realised_units"]) == (2, cohort.units.size - 2)
    assert entry.facts["expected"] == pytest.approx(0.6 * CLIENTS)
    assert entry.facts["noise_stddev"] == 2.0
    (note,) = [entry for entry in ledger.entries if entry.type == "note"]
    unit = int(cohort.units[0])
    assert note.facts["first"] == [
        {"unit": unit, "reason": "no reply within 50 s"}, {"unit": unit, "reason": "sent a second time"}
    ]  # fmt: skip


def test_an_empty_cohort_is_noised_recorded_and_applied(make_server):
    ledger = PrivacyLedger()
    server = make_server(ledger=ledger, client_sampling_rate=1e-9)
    collected, release = server.run_round(0, lambda _, cohort: updates(cohort))
    assert collected.accepted == 0
    np.testing.assert_array_equal(collected.total, 0.0)
    assert np.abs(release.vector).min() > 0
    assert np.abs(server.weights).min() > 0
    assert len(list(ledger.events())) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [([np.nan, 0, 0], "NaN or infinity"), ([np.inf, 0, 0], "NaN or infinity"), ([1.0, 2.0], "shape (2,)")],
)
def test_a_bad_update_is_left_out_recorded_and_changes_no_noise(make_server, row, reason):
    ledger = PrivacyLedger()
    server, clean = make_server(ledger=ledger), make_server()
    cohort = server.cohort(0)
    rows = [np.full(WIDTH, 0.1, np.float32) for _ in cohort.units]
    rows[1] = np.array(row, np.float32)
    collected = server.collect(cohort, [Block(units=cohort.units, rows=rows)])
    release = server.release(collected)
    expected = 0.1 * (cohort.units.size - 1)
    np.testing.assert_allclose(collected.total[:WIDTH], expected, rtol=1e-6)
    untouched = clean.release(clean.collect(cohort, updates(cohort)))
    np.testing.assert_allclose(
        release.vector - collected.total, untouched.vector - clean.collect(cohort, updates(cohort)).total
    )
    (note,) = [entry for entry in ledger.entries if entry.type == "note"]
    assert note.facts["count"] == 1
    assert note.facts["first"][0]["unit"] == cohort.units[1]
    assert reason in note.facts["first"][0]["reason"]
    (event,) = ledger.events()
    assert event.facts["rejected"] == 1
    assert event.facts["realised_units"] == cohort.units.size - 1


@pytest.mark.parametrize("size", [0.0, 1e30])
def test_zero_and_huge_updates_move_the_sum_by_at_most_the_clip_norm(make_server, size):
    server = make_server(canaries=0)
    cohort = server.cohort(0)
    rows = np.zeros((cohort.units.size, WIDTH), np.float32)
    rows[0] = size
    total = server.collect(cohort, [Block(units=cohort.units, rows=rows)]).total
    assert np.linalg.norm(total) == pytest.approx(2.0 if size else 0.0)


def test_strangers_and_second_helpings_are_rejected(make_server):
    server = make_server(canaries=0)
    cohort = server.cohort(0)
    stranger = int(np.setdiff1d(np.arange(CLIENTS), cohort.units)[0])
    extra = np.array([stranger, cohort.units[0], 10_000, -3])
    blocks = [*updates(cohort), Block(units=extra, rows=np.ones((4, WIDTH), np.float32))]
    collected = server.collect(cohort, blocks)
    np.testing.assert_allclose(collected.total, server.collect(cohort, updates(cohort)).total)
    assert {item.reason for item in collected.rejected} == {"not in this round's cohort", "sent a second time"}
    assert np.flatnonzero(collected.arrived).tolist() == cohort.units.tolist()


def test_canaries_add_one_clip_norm_to_their_coordinate_and_nothing_to_the_model(make_server):
    server = make_server(noise=0.0, client_sampling_rate=1.0)
    collected, release = server.run_round(0, lambda _, cohort: updates(cohort))
    np.testing.assert_array_equal(release.vector[WIDTH:], 2.0 * collected.canaries)
    assert 0 < collected.canaries.sum() < 10
    np.testing.assert_allclose(release.vector[:WIDTH], 0.1 * CLIENTS, rtol=1e-6)


def test_a_round_that_the_ledger_holds_is_replayed_and_not_counted_again(make_server, tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = make_server(ledger=PrivacyLedger(path))
    releases = [first.run_round(number, lambda _, cohort: updates(cohort))[1] for number in range(3)]
    draws = []
    again = make_server(ledger=PrivacyLedger.open(path, append=True), draws=draws)
    for number in range(3):
        _, release = again.run_round(number, lambda _, cohort: updates(cohort))
        assert release.replayed
        np.testing.assert_array_equal(release.vector, releases[number].vector)
    assert draws == [(0, 0), (1, 0), (2, 0)]
    assert len(PrivacyLedger.open(path).entries) == 4
    np.testing.assert_array_equal(again.weights, first.weights)


def test_a_replay_with_another_sum_gets_fresh_noise_and_is_counted_twice(make_server):
    ledger = PrivacyLedger()
    before = make_server(ledger=ledger)
    _, shown = before.run_round(0, lambda _, cohort: updates(cohort))
    after = make_server(ledger=ledger)
    collected, release = after.run_round(0, lambda _, cohort: updates(cohort, value=0.1 + 1e-6))
    assert not release.replayed
    assert release.attempt == 1
    assert [entry.facts.get("attempt", 0) for entry in ledger.events()] == [0, 1]
    noises = shown.vector - collected.total, release.vector - collected.total
    assert np.abs(noises[0] - noises[1]).min() > 1e-3, "showing one noise on two sums would reveal their difference"
    third = make_server(ledger=ledger)
    assert third.run_round(0, lambda _, cohort: updates(cohort))[1].attempt == 0, "either attempt may be reproduced"
    assert len(list(ledger.events())) == 2


@pytest.mark.parametrize(
    ("settings", "first", "again"),
    [
        ({}, server_event(0.6), server_event(1.0)),
        ({"sampler": "without-replacement"}, None, Gaussian(noise_multiplier=0.5)),
        ({"sampler": "poisson-padded", "cohort_limit": 5}, None, Gaussian(noise_multiplier=0.5)),
        ({"sampler": "shuffle", "client_sampling_rate": 0.5}, None, Gaussian(noise_multiplier=1.0)),
    ],
)
def test_a_further_release_of_a_round_takes_no_credit_for_a_sample_that_is_not_drawn_anew(
    make_server, settings, first, again
):
    ledger = PrivacyLedger()
    for value in (0.1, 0.2):
        make_server(ledger=ledger, **settings).run_round(0, lambda _, cohort, value=value: updates(cohort, value=value))
    events = [entry.event for entry in ledger.events()]
    assert first is None or events[0] == first
    assert events[1] == again != events[0]


def test_two_releases_on_one_poisson_sample_cost_no_more_than_is_recorded(make_server):
    """Who is in is in twice: together they are one sampled Gaussian with 1 / sqrt(2) of the noise."""
    ledger = PrivacyLedger()
    for value in (0.1, 0.2):
        server = make_server(ledger=ledger, noise=1.1, client_sampling_rate=0.2)
        server.run_round(0, lambda _, cohort, value=value: updates(cohort, value=value))
    truth = epsilon(server_event(0.2, z=1.1 / np.sqrt(2)), 1e-5)
    assert epsilon(ledger, 1e-5) >= truth > epsilon(SelfComposed(event=server_event(0.2, z=1.1), count=2), 1e-5)


def test_a_note_about_rejections_is_not_written_twice(make_server):
    ledger = PrivacyLedger()
    for _ in range(2):
        make_server(ledger=ledger).run_round(0, lambda _, cohort: updates(cohort, value=np.nan))
    assert [entry.type for entry in ledger.entries] == ["header", "note", "event"]


def test_one_server_asked_twice_for_a_round_never_shows_the_same_noise_on_two_sums(make_server):
    ledger = PrivacyLedger()
    server = make_server(ledger=ledger)
    cohort = server.cohort(0)
    sums = [server.collect(cohort, updates(cohort, value=value)) for value in (0.1, 0.2, 0.1)]
    releases = [server.release(collected) for collected in sums]
    assert [release.attempt for release in releases] == [0, 1, 0]
    assert [release.replayed for release in releases] == [False, False, True]
    assert len(list(ledger.events())) == 2


@pytest.mark.parametrize("sampler", ["poisson", "shuffle"])
def test_memory_does_not_grow_with_rounds(make_server, tmp_path, sampler):
    rate = 0.5 if sampler == "shuffle" else 0.6
    ledger = PrivacyLedger(tmp_path / "ledger.jsonl")
    server = make_server(ledger=ledger, sampler=sampler, client_sampling_rate=rate)

    def one_bad(_, cohort):
        rows = np.full((cohort.units.size, WIDTH), 0.1, np.float32)
        rows[:1] = np.nan
        return [Block(units=cohort.units, rows=rows)]

    def until(end):
        for number in range(until.done, end):
            server.run_round(number, one_bad)
        until.done = end
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    until.done = 0
    tracemalloc.start()
    try:
        until(100)
        before, after = until(200), until(700)
    finally:
        tracemalloc.stop()
    assert after[0] - before[0] < 100, "less than one object in five rounds"
    assert after[1] - before[1] < 500 * 40, "less than 40 bytes a round"
    assert len(list(ledger.events())) == 700
    assert len(ledger.entries) == 1 + 2 * 700


def test_a_round_that_is_long_past_is_not_forgotten(make_server, tmp_path):
    """Only the newest rounds are in memory; an older one is looked up in the ledger before its noise is shown again."""
    path = tmp_path / "ledger.jsonl"
    server = make_server(ledger=PrivacyLedger(path))
    shown = [server.run_round(number, lambda _, cohort: updates(cohort))[1] for number in range(5)]
    same = server.run_round(1, lambda _, cohort: updates(cohort))[1]
    assert same.replayed
    np.testing.assert_array_equal(same.vector, shown[1].vector)
    other = server.run_round(2, lambda _, cohort: updates(cohort, value=0.2))[1]
    assert (other.replayed, other.attempt) == (False, 1)
    once_more = server.run_round(2, lambda _, cohort: updates(cohort, value=0.2))[1]
    assert (once_more.replayed, once_more.attempt) == (True, 1)
    assert len(PrivacyLedger.open(path).entries) == 1 + 6

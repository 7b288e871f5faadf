"""The ledger against what ran: one honest ledger passes, each planted gap or lie fails, silence is inconclusive."""

import pytest

from dpaudit import events as ev
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Status
from dpaudit.verification import check_ledger

HEADER = {"noise_multiplier": 1.2, "clip_norm": 0.5, "denominator": 40.0, "rounds": 6}


def event(z=1.2):
    return ev.PubliclySampled(
        sampling_rate=0.5, event=ev.PoissonSampled(sampling_rate=0.2, event=ev.Gaussian(noise_multiplier=z))
    )


def made(rows, header=HEADER):
    ledger = PrivacyLedger(**header)
    for row in rows:
        facts = {"noise_stddev": 0.6, "expected": 40.0, **row}
        ledger.record(event(facts.pop("z", 1.2)), **{key: value for key, value in facts.items() if value is not None})
    return ledger


def statuses(ledger, **known):
    return {result.id: result.status for result in check_ledger(ledger, **known)}


HONEST = [{"round": number} for number in range(6)]


def test_an_honest_ledger_passes():
    found = statuses(made(HONEST), rounds_run=6, noise_draws=6)
    assert found == dict.fromkeys(["ledger.rounds", "ledger.draws", "ledger.noise", "ledger.denominator"], Status.PASS)
    assert "ledger.draws" not in statuses(made(HONEST))


def test_a_round_that_was_noised_again_is_an_attempt_and_a_draw():
    rows = [*HONEST[:4], {"round": 3, "attempt": 1}, *HONEST[4:]]
    assert set(statuses(made(rows), rounds_run=6, noise_draws=7).values()) == {Status.PASS}
    assert statuses(made(rows), rounds_run=6, noise_draws=6)["ledger.draws"] == Status.FAIL


@pytest.mark.parametrize(
    ("rows", "known", "check"),
    [
        ([*HONEST[:2], *HONEST[3:]], {}, "ledger.rounds"),
        ([*HONEST, {"round": 5}], {}, "ledger.rounds"),
        ([*HONEST, {"round": 5, "attempt": 2}], {}, "ledger.rounds"),
        (HONEST[3:], {}, "ledger.rounds"),
        (HONEST, {"rounds_run": 7}, "ledger.rounds"),
        ([{"round": "0"}], {}, "ledger.rounds"),
        (HONEST, {"noise_draws": 5}, "ledger.draws"),
        (HONEST, {"noise_draws": 7}, "ledger.draws"),
        ([*HONEST[:5], {"round": 5, "noise_stddev": 0.3}], {}, "ledger.noise"),
        ([*HONEST[:5], {"round": 5, "noise_stddev": 1.2}], {}, "ledger.noise"),
        ([*HONEST[:5], {"round": 5, "z": 1.3}], {}, "ledger.noise"),
        ([*HONEST[:5], {"round": 5, "expected": 39.0}], {}, "ledger.denominator"),
    ],
)
def test_gaps_and_lies_fail(rows, known, check):
    found = check_ledger(made(rows), **known)
    by_id = {result.id: result for result in found}
    assert by_id[check].status == Status.FAIL
    assert by_id[check].refuted
    assert [r.id for r in found if r.status == Status.FAIL] == [check]


def test_less_noise_accounted_for_than_added_is_fine():
    assert statuses(made([{"round": 0, "z": 1.1}]))["ledger.noise"] == Status.PASS


def test_float32_rounding_is_not_a_lie():
    rows = [{"round": 0, "noise_stddev": 0.6 * (1 + 3e-8)}]
    assert statuses(made(rows))["ledger.noise"] == Status.PASS


@pytest.mark.parametrize(
    ("rows", "header", "check"),
    [
        ([], HEADER, "ledger.rounds"),
        (HONEST, {"clip_norm": 0.5}, "ledger.noise"),
        (HONEST, {**HEADER, "clip_norm": "half"}, "ledger.noise"),
        ([{"round": 0, "noise_stddev": None}], HEADER, "ledger.noise"),
        ([{"round": 0, "expected": None}], HEADER, "ledger.denominator"),
    ],
)
def test_silence_is_inconclusive(rows, header, check):
    assert statuses(made(rows, header))[check] == Status.INCONCLUSIVE


def test_an_event_without_gaussian_noise_is_inconclusive():
    ledger = PrivacyLedger(**HEADER)
    ledger.record(ev.NonPrivate(reason="x"), round=0, noise_stddev=0.6, expected=40.0)
    assert statuses(ledger)["ledger.noise"] == Status.INCONCLUSIVE


def test_a_ledger_without_denominator_in_its_header_must_be_constant():
    header = {key: value for key, value in HEADER.items() if key != "denominator"}
    assert statuses(made(HONEST, header))["ledger.denominator"] == Status.PASS
    changed = [*HONEST[:5], {"round": 5, "expected": 41.0}]
    assert statuses(made(changed, header))["ledger.denominator"] == Status.FAIL


def test_releases_accounted_for_elsewhere_are_left_alone():
    ledger = made(HONEST)
    ledger.increment_epsilon(0.5)
    assert set(statuses(ledger, rounds_run=6).values()) == {Status.PASS}

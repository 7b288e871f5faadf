"""Whole runs of dp-local: files, ledger, kill and resume, a replay with other bits, faults of clients."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import chi2

from dpaudit import events
from dpaudit.config import RunConfig
from dpaudit.errors import UsageError
from dpaudit.federated import local_engine, run_files
from dpaudit.federated.mechanism import in_client, round_event, whole_event
from dpaudit.federated.run_files import load_canary_participation, load_coins, load_participation, open_run
from dpaudit.federated.trainer import train
from dpaudit.ledger import PrivacyLedger

pytest.importorskip("tensorflow")
ROOT = 2**100 + 9
FILES = (
    run_files.OBSERVATIONS, run_files.ELIGIBLE, run_files.PARTICIPATION, run_files.CANARY_PARTICIPATION,
    run_files.COINS, run_files.CANARY_CLIENT, run_files.RUN, run_files.RESULT, run_files.LEDGER,
    run_files.CLIENT_NOISE, run_files.MODEL_NOISE,
)  # fmt: skip


@pytest.fixture
def local_config(make_config):
    def make(**training) -> RunConfig:
        body = make_config().model_dump()
        body["training"] = {
            "algorithm": "dp-local", "rounds": 5, "client_sampling_rate": 0.6, "example_sampling_rate": 0.34,
            "checkpoint_every": 2, "local_learning_rate": 0.3, **training,
        }  # fmt: skip
        return RunConfig.model_validate(body)

    return make


def go(config, data, out, *, resume=False, noise=1.1, progress=lambda done, planned: None):
    train(config, data, root=ROOT, out=out, noise_multiplier=noise, resume=resume, progress=progress, ledger_facts={})
    return open_run(out)


def same_run(left, right):
    for name in FILES:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    with np.load(left / run_files.CHECKPOINT) as a, np.load(right / run_files.CHECKPOINT) as b:
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])


def test_a_run_leaves_everything_that_the_audit_needs(local_config, data, tmp_path):
    config = local_config(dropout_rate=0.2)
    run = go(config, data, tmp_path)
    steps = config.training.local_steps
    assert steps == 3
    assert (run.complete, run.rounds_done, run.steps, run.units, run.noise_draws) == (True, 5, 3, 90, 5)
    assert run.observations.shape == (15, 20)
    taken, fakes = load_participation(tmp_path), load_canary_participation(tmp_path)
    assert taken.shape == (15, 90)
    assert fakes.shape == (15, 20)
    there = run.canary_eligible()
    assert not (taken & ~run.step_eligible()[:, data.train.client]).any()
    assert not (fakes & ~(there & load_coins(tmp_path))).any()
    assert not np.asarray(run.observations)[~there].any(), "no release where the client was not there"
    assert (np.asarray(run.observations)[there] != 0).all()
    squares = run_files.load_client_noise(tmp_path)
    np.testing.assert_array_equal(np.isfinite(squares), run.eligible)
    ledger = PrivacyLedger.open(run.ledger)
    assert ledger.facts["local_steps"] == 3
    assert ledger.facts["local_divisor"] == pytest.approx(0.34 * 15)
    assert ledger.facts["denominator"] == pytest.approx(0.6 * 6)
    assert "local-noise" in ledger.facts["noise_source"]
    assert ledger.facts["clipping_path"].startswith("devices:")
    entries = list(ledger.events())
    assert {entry.event for entry in entries} == {round_event(config.training, 1.1)}
    counts = taken.reshape(5, 3, 90).sum(axis=2)
    assert [entry.facts["realised_examples"] for entry in entries] == counts.tolist()
    assert [entry.facts["realised_units"] for entry in entries] == run.eligible.sum(axis=1).tolist()


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_observations_and_updates_show_the_noise_that_was_really_added(local_config, data, tmp_path, factor):
    config = local_config(rounds=12, clip_norm=0.3)
    config = config.model_copy(
        update={
            "demonstration": config.demonstration.model_copy(update={"noise_factor": factor}),
            "canaries": config.canaries.model_copy(update={"count": 120}),
        }
    )
    run = go(config, data, tmp_path)
    idle = np.asarray(run.observations, dtype=np.float64)[run.canary_eligible() & ~load_coins(tmp_path)]
    low, high = chi2.ppf([2e-7, 1 - 2e-7], idle.size) * (1.1 * factor) ** 2
    assert low < (idle**2).sum() < high
    squares, parameters = run_files.load_client_noise(tmp_path), run_files.load_model_noise(tmp_path)[1]
    each = squares[np.isfinite(squares)]
    low, high = chi2.ppf([2e-7, 1 - 2e-7], each.size * parameters) * (1.1 * factor) ** 2
    assert low < each.sum() < high
    seen = np.asarray(run.observations)[load_canary_participation(tmp_path)]
    assert abs(seen.mean() - 1.0) < 5.3 * 1.1 * factor / np.sqrt(seen.size)


class Crash(BaseException):
    """Stands for the process going away."""


def interrupted(config, data, out, *, after):
    def progress(done, planned):
        if done == after:
            raise Crash

    with pytest.raises(Crash):
        go(config, data, out, progress=progress)


@pytest.mark.parametrize("after", [1, 3])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_been(local_config, data, tmp_path, after):
    config = local_config(server_momentum=0.5)
    go(config, data, tmp_path / "whole")
    interrupted(config, data, tmp_path / "broken", after=after)
    run = go(config, data, tmp_path / "broken", resume=True)
    same_run(tmp_path / "broken", tmp_path / "whole")
    assert run.noise_draws == 5


def test_a_replay_with_other_bits_is_redone_with_fresh_noise_and_counted_once_more(
    local_config, data, tmp_path, monkeypatch
):
    config = local_config(client_sampling_rate=1.0, example_sampling_rate=0.5)
    go(config, data, tmp_path / "whole")
    interrupted(config, data, tmp_path / "broken", after=3)  # the checkpoint holds two rounds, the ledger three
    honest = local_engine.LocalDpEngine._train

    def another_machine(self, weights, task, work):
        found = honest(self, weights, task, work)
        return dataclasses.replace(found, updates=np.nextafter(found.updates, np.float32(1)))

    monkeypatch.setattr(local_engine.LocalDpEngine, "_train", another_machine)
    run = go(config, data, tmp_path / "broken", resume=True)
    entries = list(PrivacyLedger.open(run.ledger).events())
    assert [(e.facts["round"], e.facts.get("attempt", 0)) for e in entries] == [
        (0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0)
    ]  # fmt: skip
    assert entries[3].event == in_client(config.training, events.Gaussian(noise_multiplier=1.1))
    assert run.noise_draws == 6
    whole = open_run(tmp_path / "whole")
    first, second = np.asarray(whole.observations)[6:9], np.asarray(run.observations)[4:6]
    assert not np.isin(second, first).any(), "none of the noise of the first attempt comes again"
    taken = load_participation(tmp_path / "broken").reshape(5, 2, 90)
    before = load_participation(tmp_path / "whole").reshape(5, 2, 90)
    assert (taken[2] != before[2]).any(), "new noise on the old sample would be a dearer event"
    assert (taken[1] == before[1]).all()


def test_a_further_attempt_is_paid_for_without_the_public_coin(local_config):
    training = local_config().training
    step = events.PoissonSampled(sampling_rate=0.34, event=events.Gaussian(noise_multiplier=2.0))
    inner = events.SelfComposed(event=step, count=3)
    assert in_client(training, events.Gaussian(noise_multiplier=2.0)) == inner
    assert round_event(training, 2.0) == events.PubliclySampled(sampling_rate=0.6, event=inner)
    assert whole_event(training, 2.0).count == 5


def silent_client(monkeypatch, change):
    """Replace what one client of the round sends: `change(block)`."""
    honest = local_engine.LocalDpEngine.run_cohort

    def run(self, weights, cohort):
        for block in honest(self, weights, cohort):
            yield change(block)

    monkeypatch.setattr(local_engine.LocalDpEngine, "run_cohort", run)


def test_an_update_of_nan_is_left_out_and_noted(local_config, data, tmp_path, monkeypatch):
    def broken(block):
        rows = block.rows.copy()
        rows[0] = np.nan
        return dataclasses.replace(block, rows=rows)

    silent_client(monkeypatch, broken)
    run = go(local_config(client_sampling_rate=1.0), data, tmp_path)
    assert 0 <= run.holdout_accuracy <= 1
    ledger = PrivacyLedger.open(run.ledger)
    assert {entry.facts["realised_units"] for entry in ledger.events()} == {5}
    assert {entry.facts["rejected"] for entry in ledger.events()} == {1}
    squares = run_files.load_client_noise(tmp_path)
    assert np.isnan(squares[:, 0]).all()
    assert np.isfinite(squares[:, 1:]).all()


def test_clients_that_were_not_asked_or_come_twice_are_refused(local_config, data, tmp_path, monkeypatch):
    silent_client(monkeypatch, lambda block: dataclasses.replace(block, units=np.zeros_like(block.units)))
    run = go(local_config(client_sampling_rate=1.0), data, tmp_path)
    assert {e.facts["realised_units"] for e in PrivacyLedger.open(run.ledger).events()} == {1}
    notes = [e for e in PrivacyLedger.open(run.ledger).entries if e.type == "note"]
    assert "sent a second time" in str(notes[0].facts)


def test_the_limit_of_updates_bounds_what_one_client_can_do(local_config, data, tmp_path, monkeypatch):
    silent_client(monkeypatch, lambda block: dataclasses.replace(block, rows=block.rows * np.float32(1e6)))
    go(local_config(update_limit=0.01), data, tmp_path)
    with np.load(tmp_path / run_files.CHECKPOINT) as archive:
        assert np.abs(archive["weights"]).max() < 10


def test_an_update_beyond_the_squares_of_float32_is_taken_down_as_it_is(local_config, data, tmp_path, monkeypatch):
    def huge(block):
        rows = block.rows.copy()
        rows[0] = 1e30
        return dataclasses.replace(block, rows=rows)

    silent_client(monkeypatch, huge)
    go(local_config(client_sampling_rate=1.0, update_limit=0.01, rounds=1), data, tmp_path)
    squares = run_files.load_client_noise(tmp_path)
    assert np.isfinite(squares).all()
    assert squares[0, 0] > 1e60
    assert squares[0, 1:].max() < 1e6


def test_rounds_without_clients_and_clients_with_one_example(local_config, data, tmp_path):
    keep = np.concatenate([np.flatnonzero(data.train.client > 0), np.flatnonzero(data.train.client == 0)[:1]])
    few = dataclasses.replace(data, train=data.train.take(keep))
    run = go(local_config(client_sampling_rate=0.05, rounds=8), few, tmp_path)
    empty = ~run.eligible.any(axis=1)
    assert empty.any()
    assert np.isnan(run_files.load_model_noise(tmp_path)[0][empty]).all()
    assert len(list(PrivacyLedger.open(run.ledger).events())) == 8


def test_another_engine_is_refused(local_config, data, tmp_path):
    from dpaudit.federated.engine import FedAvgEngine

    def make_runner(functions, train_data, training, *, root):
        return FedAvgEngine(functions, train_data, training, root=root)

    with pytest.raises(UsageError, match="does not run local DP-SGD"):
        train(
            local_config(client_sampling_rate=1.0), data, root=ROOT, out=tmp_path, noise_multiplier=1.0, resume=False,
            progress=lambda done, planned: None, ledger_facts={}, make_runner=make_runner,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"sampler": "shuffle"}, "needs training.sampler = 'poisson'"),
        ({"sampler": "without-replacement"}, "needs training.sampler = 'poisson'"),
        ({"aggregator": "tfp-gaussian"}, "needs training.aggregator = 'gaussian'"),
        ({"local_batch_size": 8}, "leave local_batch_size out"),
        ({"algorithm": "dp-fedsgd", "update_limit": 1.0}, "belongs to dp-local"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(local_config, training, words):
    with pytest.raises(ValueError, match=words):
        local_config(**training)


def test_the_unit_is_the_example(local_config):
    body = local_config().model_dump()
    body["training"].pop("local_batch_size")
    body["claim"]["unit"] = "client"
    with pytest.raises(ValueError, match="protects the example"):
        RunConfig.model_validate(body)


def test_a_run_killed_at_any_write_is_the_run_that_never_was(local_config, data, tmp_path, monkeypatch):
    from dpaudit.federated.journal import Journal

    config = local_config(rounds=4)
    go(config, data, tmp_path / "whole")
    calls = []

    def watch(patch, kill_at):
        calls.clear()
        for owner, name in ((Journal, "_append"), (PrivacyLedger, "_write")):
            honest = getattr(owner, name)

            def call(self, *arguments, honest=honest):
                calls.append(1)
                if len(calls) == kill_at:
                    raise Crash
                return honest(self, *arguments)

            patch.setattr(owner, name, call)

    with monkeypatch.context() as patch:
        watch(patch, None)
        go(config, data, tmp_path / "counted")
        total = len(calls)
    for number, kill_at in enumerate(np.random.default_rng(3).choice(np.arange(2, total), 6, replace=False).tolist()):
        out = tmp_path / f"broken-{number}"
        with monkeypatch.context() as patch:
            watch(patch, kill_at)
            with pytest.raises(Crash):
                go(config, data, out)
        assert go(config, data, out, resume=True).noise_draws == 4
        same_run(out, tmp_path / "whole")

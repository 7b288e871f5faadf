import os
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, chi2

from dpaudit.errors import DataError, OutputExists, UnsupportedEvent, UsageError
from dpaudit.federated import run_files
from dpaudit.federated.mechanism import round_event
from dpaudit.federated.run_files import load_canary_participation, load_coins, load_participation, open_run
from dpaudit.federated.trainer import train
from dpaudit.ledger import PrivacyLedger

pytest.importorskip("tensorflow")
ROOT = 2**100 + 7
FILES = (
    run_files.OBSERVATIONS, run_files.ELIGIBLE, run_files.PARTICIPATION, run_files.CANARY_PARTICIPATION,
    run_files.COINS, run_files.CANARY_CLIENT, run_files.RUN, run_files.RESULT, run_files.LEDGER,
)  # fmt: skip


def go(config, data, out, *, resume=False, noise=1.1, progress=lambda done, planned: None, root=ROOT, **facts):
    train(
        config, data, root=root, out=out, noise_multiplier=noise, resume=resume, progress=progress, ledger_facts=facts
    )
    return open_run(out)


def same_run(left: Path, right: Path) -> None:
    for name in FILES:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    with np.load(left / run_files.CHECKPOINT) as a, np.load(right / run_files.CHECKPOINT) as b:
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("client_level", [False, True])
def test_a_run_leaves_everything_that_the_audit_needs(make_config, data, tmp_path, client_level):
    config = make_config(client_level=client_level, training={"dropout_rate": 0.2})
    seen = []
    run = go(config, data, tmp_path, progress=lambda *state: seen.append(state), claimed_epsilon=8.0)
    units = 6 if client_level else 90
    assert seen == [(done, 6) for done in range(1, 7)]
    assert (run.complete, run.rounds_done, run.rounds_planned, run.clients, run.units) == (True, 6, 6, 6, units)
    assert run.observations.shape == (6, 20)
    assert run.eligible.shape == (6, 6)
    assert run.noise_draws == 6
    assert 0 <= run.holdout_accuracy <= 1
    participation = load_participation(tmp_path)
    assert participation.shape == (6, units)
    if client_level:
        np.testing.assert_array_equal(participation, run.eligible)
        assert run.canary_eligible().all()
    else:
        np.testing.assert_array_equal(participation, run.eligible[:, data.train.client])
        np.testing.assert_array_equal(run.canary_eligible(), run.eligible[:, run.canary_client])
    logits = run_files.predict_logits(run.model, data.holdout.x)
    assert (logits.argmax(axis=1) == data.holdout.y).mean() == pytest.approx(run.holdout_accuracy)
    check_ledger(config, data, run, units)


def check_ledger(config, data, run, units):
    ledger = PrivacyLedger.open(run.ledger)
    facts = ledger.facts
    assert facts["unit"] == config.claim.unit
    assert facts["relation"] == "add-or-remove-one"
    assert facts["sampler"]["kind"] == "poisson"
    assert facts["noise_multiplier"] == 1.1
    assert facts["noise_stddev"] == pytest.approx(1.1)
    assert facts["denominator"] == pytest.approx(0.6 * units)
    assert (facts["units"], facts["clients"], facts["rounds"]) == (units, 6, 6)
    assert facts["seed_origin"].startswith("configuration")
    assert facts["claimed_epsilon"] == 8.0
    assert facts["versions"]["tensorflow"].startswith("2.")
    entries = list(ledger.events())
    assert [entry.facts["round"] for entry in entries] == list(range(6))
    assert {entry.event for entry in entries} == {round_event(config.training, 1.1)}
    counts = load_participation(run.out).sum(axis=1)
    assert [entry.facts["realised_units"] for entry in entries] == counts.tolist()


def test_secrets_are_readable_by_the_owner_only_and_not_elsewhere(make_config, data, tmp_path):
    go(make_config(), data, tmp_path)
    for name in (run_files.ROOT, run_files.COINS, run_files.CHECKPOINT, run_files.PARTICIPATION, run_files.DRAWS):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    for path in tmp_path.rglob("*"):
        if path.is_file() and "private" not in path.parts:
            assert str(ROOT).encode() not in path.read_bytes()
    assert run_files.stored_root(tmp_path) == ROOT
    assert run_files.stored_root(tmp_path / "coins") is None


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("aggregator", ["gaussian", "tfp-gaussian"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_observations_show_the_noise_that_was_really_added(make_config, data, tmp_path, aggregator, factor):
    config = make_config(
        training={"aggregator": aggregator, "rounds": 20, "clip_norm": 0.3},
        canaries={"count": 300},
        demonstration={"noise_factor": factor},
    )
    run = go(config, data, tmp_path)
    coins, present = load_coins(tmp_path), load_canary_participation(tmp_path)
    seen = np.asarray(run.observations, dtype=np.float64)
    idle = seen[:, ~coins]
    low, high = chi2.ppf([5e-7, 1 - 5e-7], idle.size) * (1.1 * factor) ** 2
    assert low < (idle**2).sum() < high
    assert abs(seen[present].mean() - 1.0) < 5.1 * 1.1 * factor / np.sqrt(present.sum())
    assert not present[:, ~coins].any()
    entries = list(PrivacyLedger.open(run.ledger).events())
    assert all(entry.facts["noise_stddev"] == pytest.approx(1.1 * 0.3) for entry in entries)
    promised = [entry.event.event.noise_multiplier for entry in entries]
    assert promised == pytest.approx([1.1] * 20), "the planted fault goes on behind the ledger's back"


@pytest.mark.statistical(failure_probability=1e-6)
def test_participation_is_poisson_at_the_rate_of_the_ledger(make_config, data, tmp_path):
    config = make_config(
        training={"rounds": 60, "client_sampling_rate": 0.5, "example_sampling_rate": 0.3}, canaries={"count": 0}
    )
    run = go(config, data, tmp_path)
    able = int(run.eligible[:, data.train.client].sum())
    low, high = binom.ppf([5e-7, 1 - 5e-7], able, 0.3)
    assert low <= load_participation(tmp_path).sum() <= high
    assert run.observations.shape == (60, 0)
    assert load_coins(tmp_path).size == 0


def test_a_fresh_run_does_not_touch_a_folder_with_a_run(make_config, data, tmp_path):
    go(make_config(), data, tmp_path)
    before = (tmp_path / run_files.LEDGER).read_bytes()
    with pytest.raises(OutputExists, match="--resume"):
        go(make_config(), data, tmp_path)
    assert (tmp_path / run_files.LEDGER).read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(make_config, data, tmp_path):
    go(make_config(), data, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    seen = []
    go(make_config(), data, tmp_path, resume=True, progress=lambda *state: seen.append(state))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert seen == [(6, 6)]


class Crash(BaseException):
    """Stands for the process going away."""


def interrupted_run(config, data, out, *, after):
    def progress(done, planned):
        if done == after:
            raise Crash

    with pytest.raises(Crash):
        go(config, data, out, progress=progress)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"training": {"rounds": 7}}}, r"\[training\]"),
        ({"config": {"claim": {"epsilon": 2.0}, "canaries": {"count": 3}}}, r"\[canaries\], \[claim\]"),
        ({"root": 5}, "another root seed"),
        ({"noise": 1.2}, "noise multiplier 1.1, not 1.2"),
    ],
)
def test_another_run_cannot_be_resumed(make_config, data, tmp_path, change, message):
    interrupted_run(make_config(), data, tmp_path, after=3)
    config = make_config(**change.pop("config", {}))
    with pytest.raises(UsageError, match=message):
        go(config, data, tmp_path, resume=True, **change)


def test_a_run_cannot_be_resumed_on_other_data(make_config, data, blobs, tmp_path):
    import dataclasses

    interrupted_run(make_config(), data, tmp_path, after=3)
    before = (tmp_path / run_files.RUN).read_bytes()
    with pytest.raises(UsageError, match="the data differ"):
        go(make_config(), dataclasses.replace(data, train=blobs(91)), tmp_path, resume=True)
    assert (tmp_path / run_files.RUN).read_bytes() == before
    go(make_config(audit={"reference_models": 2}), data, tmp_path, resume=True)


def test_resume_in_an_empty_folder_starts_and_parts_of_a_run_are_refused(make_config, data, tmp_path):
    assert go(make_config(), data, tmp_path / "new", resume=True).complete
    (tmp_path / "new" / run_files.ROOT).unlink()
    with pytest.raises(UsageError, match="not its root seed"):
        go(make_config(), data, tmp_path / "new", resume=True)


QUERY = """
import tensorflow as tf
from tensorflow_privacy.privacy.dp_query import {module}

def build(request):
    return {expression}
"""
GAUSSIAN = "gaussian_query.GaussianSumQuery(request.clip_norm, request.clip_norm * request.noise_multiplier)"
TREE = "tree_aggregation_query.TreeResidualSumQuery.build_l2_gaussian_query(1.0, 1.1, tf.TensorSpec([request.width])"
INTEGERS = "distributed_discrete_gaussian_query"
ADAPTIVE = "quantile_adaptive_clip_sum_query"
QUERIES = {
    "own_average": ("gaussian_query, normalized_query", f"normalized_query.NormalizedQuery({GAUSSIAN}, 3.6)"),
    "own_clip": (
        ADAPTIVE,
        f"{ADAPTIVE}.QuantileAdaptiveClipSumQuery(1.0, 1.1, 0.8, 0.1, 3.0, request.expected, False)",
    ),
    "own_mistake": ("gaussian_query", "1 / 0"),
    "own_clock": ("tree_aggregation_query", f"{TREE})"),
    "own_tree": ("tree_aggregation_query", f"{TREE}, noise_seed=request.seed)"),
    "own_integers": (INTEGERS, f"{INTEGERS}.DistributedDiscreteGaussianSumQuery(100, 10)"),
}


@pytest.fixture
def own_query(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_privacy")
    monkeypatch.syspath_prepend(tmp_path)

    def write(name):
        module, expression = QUERIES[name]
        (tmp_path / f"{name}.py").write_text(QUERY.format(module=module, expression=expression))
        return f"{name}:build"

    return write


@pytest.mark.parametrize(("name", "parts"), [("own_average", 1), ("own_clip", 2)])
def test_any_query_of_the_user_trains_records_its_event_and_resumes(
    make_config, data, tmp_path, own_query, name, parts
):
    config = make_config(client_level=True, training={"aggregator": own_query(name)})
    whole = go(config, data, tmp_path / "whole")
    events = [entry.event.event for entry in PrivacyLedger.open(whole.ledger).events()]
    assert len(events) == 6
    assert all(len(getattr(event, "events", [event])) == parts for event in events)
    interrupted_run(config, data, tmp_path / "broken", after=3)
    go(config, data, tmp_path / "broken", resume=True)
    same_run(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("own_tree", UnsupportedEvent),
        ("own_integers", UsageError),
        ("own_clock", UsageError),
        ("own_mistake", UsageError),
    ],
)
def test_an_unfit_query_is_refused_before_anything_is_written(make_config, data, tmp_path, own_query, name, error):
    config = make_config(client_level=True, training={"aggregator": own_query(name)})
    with pytest.raises(error):
        go(config, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_says_what_was_spent_and_can_be_read(make_config, data, tmp_path):
    interrupted_run(make_config(), data, tmp_path, after=3)
    run = open_run(tmp_path)
    assert (run.complete, run.rounds_done, run.holdout_accuracy) == (False, 3, None)
    assert len(list(PrivacyLedger.open(run.ledger).events())) == 3
    with pytest.raises(DataError, match="no training run"):
        open_run(tmp_path / "private")


def test_ctrl_c_finishes_and_saves_the_round(make_config, data, tmp_path):
    config = make_config(training={"checkpoint_every": 100})
    go(config, data, tmp_path / "unbroken")
    before = signal.getsignal(signal.SIGINT)

    def progress(done, planned):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go(config, data, tmp_path / "broken", progress=progress)
    assert signal.getsignal(signal.SIGINT) is before
    run = open_run(tmp_path / "broken")
    assert run.rounds_done == 3
    with np.load(tmp_path / "broken" / run_files.CHECKPOINT) as archive:
        assert int(archive["rounds"]) == 3
    go(config, data, tmp_path / "broken", resume=True)
    same_run(tmp_path / "broken", tmp_path / "unbroken")


def test_a_second_ctrl_c_does_not_wait(make_config, data, tmp_path):
    def progress(done, planned):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        go(make_config(), data, tmp_path, progress=progress)
    assert open_run(tmp_path).rounds_done == 1
    assert go(make_config(), data, tmp_path, resume=True).complete


def test_clients_without_examples_are_refused(make_config, data, tmp_path):
    import dataclasses

    with pytest.raises(DataError, match="empty client"):
        go(make_config(), dataclasses.replace(data, clients=7), tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_learns(make_config, data, tmp_path):
    config = make_config(training={"rounds": 60, "server_learning_rate": 2.0})
    assert go(config, data, tmp_path, noise=0.3).holdout_accuracy > 0.9


def test_tensorboard_scalars_are_written_on_request(make_config, data, tmp_path):
    import tensorflow as tf

    go(make_config(), data, tmp_path / "without")
    assert not (tmp_path / "without" / "tensorboard").exists()
    config = make_config(training={"tensorboard": True})
    out = tmp_path / "with"
    train(config, data, root=ROOT, out=out, noise_multiplier=1.1, resume=False, progress=lambda done, total: None,
          ledger_facts={}, epsilon_after=float)  # fmt: skip
    (file,) = (out / "tensorboard").iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    assert found["epsilon"] == [(number, number) for number in range(1, 7)]
    assert [step for step, _ in found["holdout_accuracy"]] == [2, 4, 6]
    assert found["holdout_accuracy"][-1][1] == pytest.approx(open_run(out).holdout_accuracy)
    assert all(rate > 0 for _, rate in found["rounds_per_second"])

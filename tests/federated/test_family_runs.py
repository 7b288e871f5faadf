"""Runs with canary families: what lies on disk, a kill at any write, and what makes two runs the same."""

import dataclasses
import os

import numpy as np
import pytest

from dpaudit.errors import DataError, UsageError
from dpaudit.federated import canary_data, canary_log, run_files
from dpaudit.federated.data import FederatedData
from dpaudit.federated.run_files import open_run
from dpaudit.federated.trainer import train
from dpaudit.ledger import PrivacyLedger

pytest.importorskip("tensorflow")
ROOT = 2**100 + 9
FAMILIES = [
    {"kind": "random", "count": 9},
    {"kind": "chosen", "count": 11},
    {"kind": "feature", "count": 4},
    {"kind": "mislabelled", "count": 5},
    {"kind": "blank", "count": 3},
]
NAMES = tuple(family["kind"] for family in FAMILIES)


class Crash(BaseException):
    """Stands for the process going away."""


@pytest.fixture
def prepared(data):
    def make(*, client_level):
        wide = FederatedData(
            train=canary_data.with_private_features(data.train, 4), clients=6,
            holdout=canary_data.with_private_features(data.holdout, 4),
        )  # fmt: skip
        held = wide.holdout
        if client_level:
            held = dataclasses.replace(held, client=(np.arange(held.y.size) % 15).astype(np.int32))
        originals, rest = canary_data.set_aside(held, 5, by_client=client_level, root=ROOT)
        return dataclasses.replace(wide, holdout=rest, originals=originals)

    return make


def go(config, data, out, *, resume=False, progress=lambda done, planned: None):
    train(
        config, data, root=ROOT, out=out, noise_multiplier=1.1, resume=resume, progress=progress,
        ledger_facts={"noise_multiplier": 1.1},
    )  # fmt: skip
    return open_run(out)


def contents(out):
    """Every file but those that hold when something was written."""
    names = [path for path in out.rglob("*") if path.is_file() and path.name not in ("model.keras", "checkpoint.npz")]
    found = {str(path.relative_to(out)): path.read_bytes() for path in names}
    found.pop(run_files.DRAWS)  # a round that is replayed draws its noise again
    with np.load(out / run_files.CHECKPOINT) as archive:
        return found | {f"checkpoint/{name}": archive[name].tobytes() for name in archive.files}


def test_a_run_with_families_leaves_what_the_audit_needs(make_config, prepared, tmp_path):
    config = make_config(canaries={"family": FAMILIES}, training={"dropout_rate": 0.2})
    run = go(config, prepared(client_level=False), tmp_path)
    assert set(run.families) == set(NAMES)
    ledger = PrivacyLedger.open(run.ledger)
    assert ledger.facts["canary_families"]["blank"] == {"kind": "blank", "count": 3}
    assert ledger.facts["canaries"] == 20
    for name, family in zip(NAMES, FAMILIES, strict=True):
        view = canary_log.open_family(tmp_path, name, run.rounds_done)
        shape = (6, family["count"])
        assert view.observations.shape == view.sizes.shape == view.eligible.shape == shape
        assert isinstance(view.observations, np.memmap)
        np.testing.assert_array_equal(view.eligible, run.eligible[:, view.client])
        coins, present = canary_log.family_coins(tmp_path, name), canary_log.family_participation(tmp_path, view)
        assert not (present & ~coins).any()
        assert not (present & ~view.eligible).any()
        assert (tmp_path / f"coins/{name}.npz").stat().st_mode & 0o077 == 0
        assert (tmp_path / f"private/{name}.participation.bits").stat().st_mode & 0o077 == 0
    assert run_files.predict_logits(run.model, prepared(client_level=False).holdout.x).shape == (25, 3)
    with pytest.raises(DataError, match="cannot be read"):
        canary_log.open_family(tmp_path, "other", 6)
    (tmp_path / "observations/blank.f32").write_bytes(b"")
    assert open_run(tmp_path).rounds_done == 0


def test_the_model_is_what_it_is_without_the_canaries_that_were_out(make_config, prepared, tmp_path):
    """Families whose coins all say out change nothing: the noise and the cohorts are those of a run without them."""
    data = prepared(client_level=False)
    plain = go(make_config(), data, tmp_path / "plain")
    from dpaudit.federated import canary_families

    with pytest.MonkeyPatch.context() as patch:
        honest = canary_families.make_family
        patch.setattr(
            canary_families, "make_family",
            lambda *a, **k: dataclasses.replace(honest(*a, **k), coins=np.zeros(a[0].count, bool)),
        )  # fmt: skip
        out = go(make_config(canaries={"family": FAMILIES}), data, tmp_path / "out")
    np.testing.assert_array_equal(run_files.released_weights(plain.model), run_files.released_weights(out.model))
    np.testing.assert_array_equal(plain.observations, out.observations)
    there = go(make_config(canaries={"family": FAMILIES}), data, tmp_path / "there")
    assert not np.array_equal(run_files.released_weights(plain.model), run_files.released_weights(there.model))
    np.testing.assert_array_equal(plain.observations, there.observations)


def crash_at(patch, step):
    """Make the process 'go away' at the `step`-th call that touches the disk."""
    count = 0

    def wrap(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                raise Crash
            return function(*args, **kwargs)

        return call

    for name in ("write", "fsync", "replace", "truncate", "open"):
        patch.setattr(os, name, wrap(getattr(os, name)))
    return lambda: count


CASES = [
    pytest.param(False, {"dropout_rate": 0.1}, 3, id="example"),
    pytest.param(True, {"algorithm": "dp-ftrl", "client_sampling_rate": 0.25}, 2, id="dp-ftrl"),
]


@pytest.mark.parametrize(("client_level", "training", "steps"), CASES)
def test_a_kill_at_any_write_then_resume_leaves_the_same_files(
    make_config, prepared, tmp_path, client_level, training, steps
):
    config = make_config(client_level=client_level, training=training, canaries={"family": FAMILIES})
    data = prepared(client_level=client_level)
    go(config, data, tmp_path / "unbroken")
    whole = contents(tmp_path / "unbroken")
    assert sum("observations/" in name for name in whole) == 3 + 4 * len(FAMILIES)
    with pytest.MonkeyPatch.context() as patch:
        calls = crash_at(patch, None)
        go(config, data, tmp_path / "counted")
        total = calls()
    for step in np.random.default_rng(6).choice(np.arange(total // 8, total), steps, replace=False).tolist():
        out = tmp_path / f"broken-{step}"
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            with pytest.raises(Crash):
                go(config, data, out)
        for name in ("observations/random.f32", "private/blank.participation.bits"):
            if (out / name).is_file():
                with (out / name).open("ab") as stream:
                    stream.write(b"torn")
        for name in ("coins/.random.npz.k1x", "observations/.random.json.k1x", "private/.checkpoint.npz.k1x"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(b"begun")  # what a kill leaves beside a file that was being replaced
        go(config, data, out, resume=True)
        found = contents(out)
        assert found.keys() == whole.keys()
        assert not [name for name, data in found.items() if data != whole[name]]


def test_a_run_with_other_families_is_another_run(make_config, prepared, tmp_path):
    data = prepared(client_level=False)

    def stop(done, planned):
        if done == 3:
            raise Crash

    with pytest.raises(Crash):
        go(make_config(canaries={"family": FAMILIES}), data, tmp_path, progress=stop)
    for families in ([], FAMILIES[:4], [{**FAMILIES[0], "norm_factor": 3.0}, *FAMILIES[1:]]):
        with pytest.raises(UsageError, match=r"\[canaries\]"):
            go(make_config(canaries={"family": families}), data, tmp_path, resume=True)
    other = dataclasses.replace(data.originals, y=(data.originals.y + 1) % 3)
    with pytest.raises(UsageError, match="the data differ"):
        go(
            make_config(canaries={"family": FAMILIES}),
            dataclasses.replace(data, originals=other),
            tmp_path,
            resume=True,
        )
    (tmp_path / "observations/chosen.size.f32").write_bytes(b"short")
    with pytest.raises(DataError, match="shorter than the checkpoint"):
        go(make_config(canaries={"family": FAMILIES}), data, tmp_path, resume=True)


def test_a_family_that_does_not_fit_the_model_is_refused_before_anything_is_written(make_config, prepared, tmp_path):
    config = make_config(canaries={"family": [{"kind": "chosen", "count": 5000}]})
    with pytest.raises(UsageError, match="coordinate each"):
        go(config, prepared(client_level=False), tmp_path / "out")
    assert not (tmp_path / "out").exists()

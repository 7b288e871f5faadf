"""The step test, the replay of cohorts and the checks of noise and sampling on dp-local, without a whole run."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from dpaudit.config import RunConfig
from dpaudit.events import NoOp
from dpaudit.federated import dense_layout, local_engine
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import local_checks
from dpaudit.pipeline.cohort_check import check_cohorts
from dpaudit.pipeline.fire_drill import hold_drill
from dpaudit.pipeline.releases import Releases
from dpaudit.pipeline.step_check import check_training_step
from dpaudit.records import Status

Z = 1.2


def fleet(clients=6):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=240).astype(np.int32)
    x = (2.0 * np.eye(3, 10)[y] + rng.standard_normal((240, 10))).astype(np.float32)
    data = Dataset(x=x, y=y, client=(np.arange(240) % clients).astype(np.int32), classes=3, name="blobs")
    return FederatedData(train=data, holdout=data, clients=clients)


def settings(*, factor=1.0, model=None, **training):
    return RunConfig.model_validate({
        "run": {"name": "local", "seed": 1},
        "claim": {"epsilon": 8.0, "delta": 1e-5, "unit": "example"},
        "data": {"source": "digits"},
        "partition": {"kind": "iid", "clients": 6},
        "model": model or {"hidden": [64]},
        "training": {
            "algorithm": "dp-local", "rounds": 4, "client_sampling_rate": 0.5, "example_sampling_rate": 0.25,
            "clip_norm": 0.7, **training,
        },
        "canaries": {"count": 20},
        "demonstration": {"noise_factor": factor},
    })  # fmt: skip


def step_test(config):
    found = check_training_step(config, fleet(), noise_multiplier=Z, promised=Z, significance=0.01, root=2**80 + 1)
    return {check.id: check for check in found}


CHECKS = {
    "step.seeded", "step.randomness", "step.sensitivity", "step.noise", "step.denominator", "step.robust",
    "step.noise-shape", "step.noise-reuse", "step.carry-over",
}  # fmt: skip


@pytest.mark.statistical(failure_probability=0.02)
@pytest.mark.parametrize("training", [{"server_momentum": 0.5}, {"server_optimizer": "adam", "update_limit": 0.01}])
def test_the_step_of_a_run_passes_in_all_checks(training):
    found = step_test(settings(**training))
    assert set(found) == CHECKS
    assert {check.status for check in found.values()} == {Status.PASS}, found


def test_half_the_noise_fails_the_step_and_the_drill_says_so():
    assert step_test(settings(factor=0.5))["step.sensitivity"].status == Status.FAIL
    (drill,) = hold_drill(settings(), lambda changed: list(step_test(changed).values()))
    assert drill.status == Status.PASS


def test_a_forgotten_clip_fails_the_step(monkeypatch):
    honest = dense_layout.Layout.clip
    monkeypatch.setattr(
        dense_layout.Layout, "clip",
        lambda self, *data, clip_norm, **rest: honest(self, *data, clip_norm=np.float32(1e6) * clip_norm, **rest),
    )  # fmt: skip
    assert step_test(settings())["step.sensitivity"].status == Status.FAIL


def test_dividing_by_the_realised_batch_fails_the_step(monkeypatch):
    honest = local_engine.LocalDpEngine._train

    def train(self, weights, task, work):
        found = honest(self, weights, task, work)
        realised = np.maximum(work.mask.sum(axis=(1, 2)), 1.0)[:, None].astype(np.float32)
        return dataclasses.replace(found, updates=found.updates * np.float32(task.divisor) / realised)

    monkeypatch.setattr(local_engine.LocalDpEngine, "_train", train)
    assert step_test(settings())["step.denominator"].status == Status.FAIL


def test_one_noise_for_all_rounds_fails_the_step(monkeypatch):
    honest = local_engine.device_noise
    monkeypatch.setattr(
        local_engine, "device_noise", lambda root, _number, *rest, **sizes: honest(root, 0, *rest, **sizes)
    )
    assert step_test(settings())["step.noise-reuse"].status == Status.FAIL


def test_recorded_batches_are_replayed_and_other_examples_are_noticed(monkeypatch):
    record = np.random.default_rng(0).random((6, 240)) < 0.3
    found = check_cohorts(settings(), fleet(), record, root=1)
    assert found.status == Status.PASS, found.detail
    assert found.n == 3
    honest = local_engine.packed

    def packed(*what, **rest):
        index, mask, members = honest(*what, **rest)
        return np.where(mask > 0, (index + 1) % 240, index).astype(np.int32), mask, members

    monkeypatch.setattr(local_engine, "packed", packed)
    assert check_cohorts(settings(), fleet(), record, root=1).status == Status.FAIL


# --- noise and sampling, on made-up records ------------------------------------------------------------------------


def record(seed=0, *, rounds=30, steps=4, canaries=600, parameters=500, clients=6):
    """Return releases, coins, holders, the noise in updates and in their sum, as an honest run would leave them."""
    rng = np.random.default_rng(seed)
    holder = rng.permutation(np.arange(canaries) % clients)
    coins, there = rng.random(canaries) < 0.5, rng.random((rounds, clients)) < 0.6
    eligible = np.repeat(there, steps, axis=0)[:, holder]
    present = eligible & coins & (rng.random(eligible.shape) < 0.25)
    seen = np.where(eligible, present + Z * rng.standard_normal(eligible.shape), 0.0).astype(np.float32)
    found = Releases(
        observations=seen, eligible=eligible, present=present, plain=np.ones(rounds, bool), partial=True,
        inflation=np.ones(len(seen)),
    )  # fmt: skip
    each = np.where(there, Z**2 * rng.chisquare(parameters, there.shape), np.nan)
    sums = np.where(there.any(axis=1), Z**2 * rng.chisquare(parameters, rounds), np.nan)
    ledger = PrivacyLedger()
    for number, here in enumerate(there):
        ledger.record(NoOp(), round=number, realised_units=int(here.sum()))
    return {
        "ledger": ledger, "found": found, "coins": coins, "canary_client": holder, "client_noise": each,
        "model_noise": (sums, parameters),
    }  # fmt: skip


def judged(**changed):
    whole = {**record(), **changed}
    parts = [whole.pop(name) for name in ("ledger", "found", "coins", "canary_client")]
    return {c.id: c for c in local_checks.check_noise(*parts, promised=Z, significance=0.004, **whole)}


def with_observations(change):
    base = record()
    seen = base["found"].observations.copy()
    change(seen, base["found"].eligible, base["canary_client"])
    return {**base, "found": dataclasses.replace(base["found"], observations=seen)}


def test_an_honest_record_passes_everything():
    found = judged()
    assert set(found) == {
        "noise.scale", "noise.shape", "noise.reuse", "noise.clients", "noise.overlap", "noise.rounds", "noise.model",
        "noise.model-sum", "clip.contribution",
    }  # fmt: skip
    assert {check.status for check in found.values()} == {Status.PASS}, found
    assert sum(check.significance for check in found.values()) <= 0.004 * (1 + 1e-9)


def test_noise_that_two_clients_share_is_found():
    def share(seen, eligible, holder):
        ours, theirs = np.flatnonzero(holder == 1), np.flatnonzero(holder == 4)
        for mine, other in zip(ours, theirs, strict=False):
            both = eligible[:, mine] & eligible[:, other]
            seen[both, other] = seen[both, mine]

    assert judged(**with_observations(share))["noise.clients"].status == Status.FAIL


def test_noise_that_two_steps_share_is_found():
    def share(seen, eligible, holder):
        seen[5] = np.where(eligible[5], seen[4], 0.0)

    assert judged(**with_observations(share))["noise.reuse"].status == Status.FAIL


def test_noise_that_is_missing_in_one_update_is_found_and_so_is_too_much_in_the_sum():
    base = record()
    each = base["client_noise"].copy()
    each[3, int(np.flatnonzero(np.isfinite(each[3]))[0])] *= 0.5
    assert judged(client_noise=each)["noise.model"].status == Status.FAIL
    sums, parameters = base["model_noise"]
    for factor in (1.5, 0.7):
        assert judged(model_noise=(factor * sums, parameters))["noise.model-sum"].status == Status.FAIL


def test_updates_whose_noise_nobody_knows_are_no_pass():
    each = record()["client_noise"].copy()
    each[0] = np.nan
    found = judged(client_noise=each)["noise.model"]
    assert found.status == Status.INCONCLUSIVE
    assert "is known" in found.detail


def test_one_silo_alone_shares_with_nobody():
    alone = record(clients=1)
    found = judged(**alone)
    assert "noise.clients" not in found

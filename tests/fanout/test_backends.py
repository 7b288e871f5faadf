"""The same bits on every backend, for all that runs on executors; the engine on Ray equals the one in process."""

from functools import partial

import numpy as np
import pytest
from pydantic import ValidationError

from dpaudit.config import AuditSection, RunConfig, TrainingSection
from dpaudit.errors import UsageError
from dpaudit.estimation import plan_audit, simulated_power
from dpaudit.estimation.plan import plan_per_step
from dpaudit.fanout import SerialExecutor, Task
from dpaudit.fanout.ray_session import ray_session
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.ledger import PrivacyLedger
from dpaudit.verification import Neighbours, check_mechanism, check_mechanism_fixed
from dpaudit.verification.claims import PrivacyClaim

SUMS = tuple(Neighbours(first=0.0, second=float(k), name=f"0 and {k}") for k in (1, 1, 1))


def powers(simulate, **options):
    return simulated_power(
        simulate, claim_epsilon=1.0, factor=2.0, alternative_epsilon=2.0, method="one-run-max",
        delta=1e-5, trials=25, seed=3, **options,
    )  # fmt: skip


def test_power_is_the_same_everywhere_and_is_kept(pool, work, tmp_path):
    simulate = partial(work.scores, size=300)
    here = powers(simulate)
    assert 0 < here.power < 1
    assert powers(simulate, executor=pool) == here
    assert powers(simulate, executor=pool, cache=tmp_path) == here
    assert len(list(tmp_path.iterdir())) == 3  # blocks of ten

    class Nowhere:
        def run(self, tasks, *, shared=None):
            assert list(tasks) == []
            return iter(())

    assert powers(simulate, executor=Nowhere(), cache=tmp_path) == here


def test_plans_are_the_same_everywhere(joblib_executor):
    one = partial(plan_audit, claim_epsilon=2.0, delta=1e-5, method="one-run-max", trials=20, max_canaries=2000)
    two = partial(
        plan_per_step, claim_epsilon=1.0, delta=1e-5, claimed_noise_multiplier=2.0, actual_noise_multiplier=1.0,
        trials=20, max_observations=4000,
    )  # fmt: skip
    assert one(executor=joblib_executor) == one()
    assert two(executor=joblib_executor) == two()


def test_mechanism_tests_are_the_same_everywhere(pool, work):
    for epsilon in (0.5, 1.0):  # refuted early, and not at all
        test = partial(check_mechanism, work.noisy, SUMS, epsilon, max_pairs=1500, seed=4)
        assert test(executor=pool) == test()
    claim = PrivacyClaim.approximate(0.5, 0.0)
    fixed = partial(check_mechanism_fixed, work.noisy, SUMS, claim, outputs=1800, seed=4)
    assert fixed(executor=pool) == fixed()


def test_a_mechanism_with_randomness_of_its_own_is_refused(work):
    with pytest.raises(UsageError, match="must take a generator"):
        check_mechanism(lambda d, n: np.zeros(n), SUMS, 1.0, executor=SerialExecutor())


def test_a_mechanism_that_fails_in_a_worker_is_inconclusive(pool, work):
    result = check_mechanism(work.fails_sometimes, SUMS, 1.0, max_pairs=1500, executor=pool)
    assert result.status == "inconclusive"
    assert "ZeroDivisionError" in result.detail


def small_run(algorithm="dp-fedsgd", **training):
    """Return the configuration and the data of a small run."""
    level = "example" if algorithm == "dp-fedsgd" else "client"
    body = {
        "run": {"name": "test", "seed": 7},
        "claim": {"epsilon": 8.0, "delta": 1e-5, "unit": level},
        "data": {"source": "digits"},
        "partition": {"kind": "iid", "clients": 12},
        "model": {"hidden": [5]},
        "training": {"algorithm": algorithm, "rounds": 20, "client_sampling_rate": 0.6, **training},
        "canaries": {"count": 20},
    }
    rng = np.random.default_rng(0)

    def blobs(n):
        y = rng.integers(3, size=n).astype(np.int32)
        x = (2.0 * np.eye(3, 4)[y] + 0.5 * rng.standard_normal((n, 4))).astype(np.float32)
        return Dataset(x=x, y=y, client=(np.arange(n) % 12).astype(np.int32), classes=3, name="blobs")

    return RunConfig.model_validate(body), FederatedData(train=blobs(240), holdout=blobs(60), clients=12)


def test_reference_and_twin_models_are_the_same_everywhere(joblib_executor, monkeypatch):
    pytest.importorskip("tensorflow")
    from dpaudit.config import ModelSection
    from dpaudit.federated import reference, twins

    config, data = small_run(rounds=4)
    monkeypatch.setattr(reference, "BLOCK", 2)
    train = partial(reference.train_references, config, data, root=1, noise_multiplier=0.5, count=4)
    here, there = train(), train(executor=joblib_executor)
    assert here.weights.tobytes() == there.weights.tobytes()
    monkeypatch.setattr(twins, "BLOCK", 2)
    x, y = data.train.x, data.train.y
    inside = np.random.default_rng(1).random((4, len(y))) < 0.5
    fit = partial(twins.train_twins, ModelSection(hidden=(5,)), x, y, inside, classes=3, root=2, epochs=2)
    one, other = fit(), fit(executor=joblib_executor)
    assert (one.weights.tobytes(), one.start.tobytes()) == (other.weights.tobytes(), other.start.tobytes())


def trained(config, data, out, make_runner):
    """Return final weights and the releases in the ledger of 20 noisy rounds."""
    from dpaudit.federated import models
    from dpaudit.federated.trainer import train

    train(
        config, data, root=5, out=out, noise_multiplier=0.8, resume=False, progress=lambda *_: None, ledger_facts={},
        make_runner=make_runner,
    )  # fmt: skip
    rounds = [entry.facts for entry in PrivacyLedger.open(out / "ledger.jsonl").events()]
    kept = ("round", "expected", "realised_clients", "realised_units", "rejected", "clip_norm", "noise_stddev")
    return models.get_weights(models.load_model(out / "model.keras")), [[r[k] for k in kept] for r in rounds]


@pytest.mark.parametrize("algorithm", ["dp-fedsgd", pytest.param("dp-fedavg", marks=pytest.mark.slow)])
def test_the_engine_on_ray_trains_the_same_model_also_when_an_actor_dies(algorithm, ray_executor, tmp_path):
    pytest.importorskip("tensorflow")
    from dpaudit.federated.engine import make_engine
    from dpaudit.federated.ray_engine import open_ray_engine

    config, data = small_run(algorithm)
    ray, killed = ray_executor.session().ray, []
    with open_ray_engine(config) as make:

        def fragile(*arguments, **options):
            engine = make(*arguments, **options)
            run_cohort = engine.run_cohort

            def run(weights, cohort):
                if cohort.number == 7:
                    killed.append(ray.kill(engine.actors[0], no_restart=False))
                return run_cohort(weights, cohort)

            engine.run_cohort = run
            return engine

        there = trained(config, data, tmp_path / "ray", fragile)
    here = trained(config, data, tmp_path / "here", make_engine)
    assert len(killed) == 1
    np.testing.assert_allclose(there[0], here[0], rtol=0, atol=1e-6)
    assert there[1] == here[1]
    assert len(here[1]) == 20


def test_noise_of_clients_is_not_drawn_by_actors():
    pytest.importorskip("tensorflow")
    from dpaudit.federated.ray_engine import RayEngine

    training = TrainingSection(algorithm="dp-local", rounds=1, client_sampling_rate=1.0)
    with pytest.raises(UsageError, match="dp-local"):
        RayEngine(None, None, None, training, root=1)


def test_the_shards_of_a_cohort_follow_from_its_units():
    from dpaudit.federated.ray_engine import shards

    for count in (0, 1, 8, 9, 500):
        parts = shards(np.arange(count))
        assert len(parts) <= 16
        assert all(part.size for part in parts)
        assert [unit for part in parts for unit in part] == list(range(count))


def test_a_ray_that_does_not_start_is_tried_again_and_its_processes_end(monkeypatch):
    ray = pytest.importorskip("ray")
    ended = []

    class Node:
        def kill_all_processes(self, **options):
            ended.append(options)

        def start(self):
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: Node().start())
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match="cannot connect to Ray at local: The current node timed out"), ray_session():
        pass
    assert len(ended) == 3
    with pytest.raises(UsageError, match="at head:1"), ray_session("head:1"):
        pass
    assert len(ended) == 4  # somebody else's is not tried again


def test_what_cannot_be_sent_is_refused(pool, work, tmp_path):
    task = Task(name="t", function=work.threads)
    with (tmp_path / "open").open("w") as file:
        outcomes = pool.run([task], shared={"file": file})
        with pytest.raises(UsageError, match="cannot be sent"):
            next(outcomes)


def test_the_configuration_names_an_executor_that_fits():
    assert AuditSection().backend == "serial"
    assert AuditSection(processes=2).backend == "joblib"
    assert AuditSection(executor="ray", ray_address="head:6379").backend == "ray"
    with pytest.raises(ValidationError, match="runs one task at a time"):
        AuditSection(executor="serial", processes=2)
    with pytest.raises(ValidationError, match="ray_address belongs"):
        AuditSection(executor="joblib", ray_address="head:6379")

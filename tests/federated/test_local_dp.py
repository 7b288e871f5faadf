"""The local step of dp-local: all ways give the numbers of a slow twin, one client and one example at a time."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from dpaudit.config import TrainingSection
from dpaudit.errors import UsageError
from dpaudit.federated import canaries, clients, models
from dpaudit.federated.data import Dataset
from dpaudit.federated.local_dp import LocalDpFunctions, LocalSettings, LocalWork
from dpaudit.federated.local_engine import LocalDpEngine
from dpaudit.federated.local_task import DeviceGaussian, LocalTask
from dpaudit.federated.sampling import Cohort

SETTINGS = LocalSettings(clip_norm=0.4, step_size=0.05)


def dense():
    return models.mlp((4,), 3, hidden=(5,), root=3), (4,)


def branched():
    """Dense layers only, but no chain: clients are stacked in a graph."""
    import keras

    given = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="relu")(given)
    joined = keras.layers.Concatenate()([hidden, given])
    return keras.Model(given, keras.layers.Dense(3)(joined)), (4,)


def convolution():
    import keras

    layers = [keras.Input((4, 1)), keras.layers.Conv1D(3, 2, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(3)]), (4, 1)


def subclassed():
    import keras

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(3)

        def call(self, inputs):
            return self.inner(inputs)

    model = Own()
    model(np.zeros((1, 4), np.float32))
    return model, (4,)


PATHS = {
    dense: "clients stacked (dense chain)",
    branched: "clients stacked",
    convolution: "devices: book-keeping; clients one after the other",
    subclassed: "one gradient per example",
}


def work(shape, *, seed=0, n=3, steps=4, batch=6, most=2, stddev=0.3, parameters):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.standard_normal((20, *shape)), np.zeros((1, *shape))]).astype(np.float32)
    y = np.append(rng.integers(3, size=20), 0).astype(np.int32)
    mask = (rng.random((n, steps, batch)) < 0.7).astype(np.float32)
    mask[1, 2] = 0.0  # an empty batch
    index = np.where(mask > 0, rng.integers(20, size=mask.shape), 20).astype(np.int32)
    planted = 4.0 * (rng.random((n, steps, most)) < 0.5)
    noise = stddev * rng.standard_normal((n, steps, parameters + most))
    return x, y, LocalWork(
        index=index, mask=mask, noise=noise.astype(np.float32), canaries=planted.astype(np.float32)
    )  # fmt: skip


def slow_twin(functions, weights, x, y, job, settings):
    """One client after the other, one example after the other, in float64 where it is ours to choose."""
    import tensorflow as tf

    updates, seen = [], []
    for client in range(len(job.index)):
        local, shown = weights.astype(np.float64).copy(), []
        for step in range(job.index.shape[1]):
            total = np.zeros(local.size)
            for position, inside in zip(job.index[client, step], job.mask[client, step], strict=True):
                if inside:
                    row = functions.per_example_gradients(
                        local, tf.constant(x), tf.constant(y), np.array([position]), seed=(0, 0)
                    )[0].astype(np.float64)
                    total += row * min(1.0, settings.clip_norm / max(np.linalg.norm(row), 1e-30))
            fake = np.minimum(job.canaries[client, step], settings.clip_norm)
            noised = np.concatenate([total, fake]) + job.noise[client, step]
            local = local - settings.step_size * noised[: local.size]
            shown.append(noised[local.size :])
        updates.append(local - weights)
        seen.append(shown)
    return np.array(updates), np.array(seen)


@pytest.mark.parametrize("make", list(PATHS))
def test_every_way_gives_the_numbers_of_the_slow_twin(make):
    model, shape = make()
    functions = clients.ClientFunctions(model, shape)
    local, weights = LocalDpFunctions(functions, shape), models.get_weights(model)
    assert PATHS[make] in local.path
    x, y, job = work(shape, parameters=weights.size)
    found = run(local, weights, x, y, job)
    updates, seen = slow_twin(functions, weights, x, y, job, SETTINGS)
    np.testing.assert_allclose(found.updates, updates, atol=2e-5 * np.abs(updates).max())
    np.testing.assert_allclose(found.seen, seen, atol=1e-5)
    noise = -found.updates / np.float32(SETTINGS.step_size) - found.sums
    np.testing.assert_allclose(noise, job.noise[:, :, : weights.size].sum(axis=1), atol=1e-4)
    again = run(local, weights, x, y, job)
    np.testing.assert_array_equal(found.updates, again.updates)


def run(local, weights, x, y, job, settings=SETTINGS):
    return local.run(weights, local._functions.place(x, y), job, settings, seed=(0, 0))


def test_noise_far_below_the_weights_is_not_lost_to_rounding():
    model, shape = dense()
    functions = clients.ClientFunctions(model, shape)
    local, weights = LocalDpFunctions(functions, shape), models.get_weights(model) + 1.0
    x, y, job = work(shape, stddev=1.0, parameters=weights.size)
    found = run(local, weights, x, y, job, LocalSettings(clip_norm=1.0, step_size=1e-9))
    wanted = -1e-9 * (found.sums + job.noise[:, :, : weights.size].sum(axis=1))
    np.testing.assert_allclose(found.updates, wanted, rtol=1e-3, atol=1e-13)


def task(*, clients_=3, canaries_=canaries.NO_CANARIES, noise_multiplier=1.0, attempt=0, rate=1.0, steps=3):
    there = np.ones(clients_, dtype=np.bool_)
    return LocalTask(
        number=0, sampled=there, answered=there, units=np.arange(clients_), attempt=attempt, steps=steps, rate=rate,
        learning_rate=0.1, divisor=5.0, mechanism=DeviceGaussian(clip_norm=1.0, noise_multiplier=noise_multiplier),
        canaries=canaries_,
    )  # fmt: skip


def engine_of(x, y, owner, *, make=dense):
    model, shape = make()
    functions = clients.ClientFunctions(model, shape)
    data = Dataset(x=x, y=y, client=owner, classes=3, name="test")
    training = TrainingSection(algorithm="dp-local", rounds=1, client_sampling_rate=1.0)
    return LocalDpEngine(functions, data, training, root=5), models.get_weights(model)


@pytest.mark.parametrize("make", [dense, branched])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_an_example_without_a_finite_gradient_is_left_out_and_nobody_else(make, value):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((12, 4)).astype(np.float32), rng.integers(3, size=12).astype(np.int32)
    owner = np.repeat(np.arange(3), 4).astype(np.int32)
    broken = x.copy()
    broken[5] = value
    runner, weights = engine_of(broken, y, owner, make=make)
    (found,) = runner.run_cohort(weights, task())
    assert np.isfinite(found.rows).all()
    keep = np.arange(12) != 5
    without, _ = engine_of(x[keep], y[keep], owner[keep], make=make)
    (wanted,) = without.run_cohort(weights, task())
    np.testing.assert_allclose(found.rows, wanted.rows, atol=1e-6)


def test_weights_that_are_not_finite_end_the_search_for_broken_examples():
    rng = np.random.default_rng(1)
    runner, weights = engine_of(
        rng.standard_normal((4, 4)).astype(np.float32), np.zeros(4, np.int32), np.zeros(4, np.int32)
    )
    (found,) = runner.run_cohort(np.full(weights.size, np.nan), task(clients_=1))
    assert found.rows.shape == (1, weights.size)


def test_chunks_do_not_change_what_clients_do(monkeypatch):
    from dpaudit.federated import engine

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 4)).astype(np.float32), rng.integers(3, size=40).astype(np.int32)
    runner, weights = engine_of(x, y, (np.arange(40) % 7).astype(np.int32))
    (whole,) = runner.run_cohort(weights, task(clients_=7, rate=0.5))
    monkeypatch.setattr(engine, "CHUNK_BYTES", 1)
    parts = list(runner.run_cohort(weights, task(clients_=7, rate=0.5)))
    assert len(parts) == 7
    np.testing.assert_allclose(np.concatenate([p.rows for p in parts]), whole.rows, atol=1e-6)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([p.members[:, 1] for p in parts])), np.sort(whole.members[:, 1])
    )


def test_a_canary_is_clipped_sampled_and_noised_as_an_example_of_its_client():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((8, 4)).astype(np.float32), rng.integers(3, size=8).astype(np.int32)
    runner, weights = engine_of(x, y, (np.arange(8) % 2).astype(np.int32))
    planted = canaries.Canaries(
        client=np.array([1, 0, 1]), coins=np.array([True, True, False]), norm_factor=10.0, example_level=True
    )
    (quiet,) = runner.run_cohort(
        weights, task(clients_=2, canaries_=planted, noise_multiplier=1e-9, rate=0.5, steps=40)
    )
    seen, drawn = quiet.seen, quiet.batches.canaries
    np.testing.assert_allclose(seen[1, :, 0], drawn[1, :, 0], atol=1e-4)  # canary 0: in, of client 1
    np.testing.assert_allclose(seen[1, :, 1], 0.0, atol=1e-4)  # canary 2: out
    np.testing.assert_allclose(seen[0, :, 0], drawn[0, :, 0], atol=1e-4)  # canary 1: in, of client 0
    assert 0 < drawn[0, :, 0].sum() < 40


def test_an_engine_must_be_told_the_noise():
    runner, weights = engine_of(np.zeros((4, 4), np.float32), np.zeros(4, np.int32), np.zeros(4, np.int32))
    plain = Cohort(number=0, sampled=np.ones(1, np.bool_), answered=np.ones(1, np.bool_), units=np.zeros(1, np.int64))
    with pytest.raises(UsageError, match="silo_server"):
        list(runner.run_cohort(weights, plain))
    assert runner.direction == -1.0
